/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A break as the library answers it, for spin: two leases of one file, two threads that
 * begin and end operations, the breaker, a worker for each lease, an opener, and the
 * application's own thread. What is explored is every interleaving of them, with the
 * store buffers of the threads.
 *
 * A store of a thread goes into its buffer and reaches memory at any later time, in
 * order; a load of another address may come before that. This is x86 (TSO), and it is
 * why the lack of a barrier shows in no timing test. What empties a thread's buffer is a
 * locked instruction of its own (all that take the lock), or the breaker's
 * membarrier. The leases' words change by locked instructions only (account.c).
 * WEAKER: as the memory model of C has it, which may be weaker. A begin is a relaxed store
 * and passes all that stand before it; an end is a release store and passes none.
 *
 * What the assertions hold, in the words of docs/design.md:
 *	I1	the opener is not inside while a region is registered, none is registered and
 *		no DMA lands while it is; unless the kernel's own clock has let it in
 *	I2	no opener waits for ever: an invalid end state
 *	I3	what drains without the deadline has nothing in flight that was granted;
 *		and the sum never falls short of what is in flight
 *	walk	the states change along the arrows of lib/state.c only, and all that the model
 *		walks are printed, for check_model.py to compare
 *
 * Deadlines, expiries and refusals of the device come at any time, but only so many
 * of them: so a waker that is forgotten is a deadlock, and no delay.
 *
 *	OPS, OPENS, DEADLINES, EXPIRIES, REFUSALS	how many there are
 *	LIFE	the second lease is acquired, restored by hand and released, and the file closed
 *	FENCED	no membarrier(2): sequentially consistent fences on both sides
 *	BREAK_*	one mistake: the model must fail (CMakeLists.txt)
 */
#define THREADS 2
#ifndef LEASES
#define LEASES 2
#endif
#define SLOTS	4

#ifndef OPS
#define OPS 2
#endif
#ifndef OPENS
#define OPENS 1
#endif
#ifndef DEADLINES
#define DEADLINES 0
#endif
#ifndef EXPIRIES
#define EXPIRIES 0
#endif
#ifndef REFUSALS
#define REFUSALS 0
#endif

/* Of a lease; as pinlease.h has them, but for the order, which means nothing here. */
#define CLOSED	 0
#define INIT	 1
#define ACTIVE	 2
#define BREAKING 3
#define FENCING	 4
#define REVOKED	 5
#define LOST	 6
/* Of the file. BREAKING is both. */
#define FREE	 0
#define HELD	 1
#define EXPIRED	 4
#define REARMING 5

c_decl {
	/* Not in the state: prints each arrow the first time the search walks it. */
	static void walked(const char *arrow)
	{
		static const char *seen[64];
		int i;

		for (i = 0; seen[i]; i++)
			if (seen[i] == arrow || !strcmp(seen[i], arrow))
				return;
		seen[i] = arrow;
		printf("arrow|%s\n", arrow);
	}
}

#define walk(l, from, to, name)                                   \
	assert(state[l] == from);                                 \
	c_code { walked("lease|" #from "|" #to "|" name); };      \
	state[l] = to
#define walk_file(from, to, name)                                 \
	assert(file == from);                                     \
	c_code { walked("file|" #from "|" #to "|" name); };       \
	file = to

/* The account (lib/account.h). A word is { generation, slot, state } and changes at once. */
byte gen[2], slot[2], state[2];
byte begun[THREADS * SLOTS], ended[THREADS * SLOTS], dead[SLOTS];	/* dead: ends paid by others */
byte owner_of[SLOTS], gen_of[SLOTS];		/* 0: free, else the lease + 1, and its generation */
chan buffer[THREADS] = [2] of { byte };		/* 2 * slot, and 1 more for an end */

/*
 * The file and its leases. Who holds the lock for no longer than one step never sets it:
 * others would find it free again. Only who sums holds it over several, while threads go on.
 */
bit lock;
byte file = HELD;
bit barred;					/* the pending break's membarrier is over */
bit holds[2], busy[2], fenced[2], waited[2];

/* The kernel and the device */
bit guard = 1, pending, inside;
bit excused;					/* let on by its own clock: I1 is not promised */
byte key[2];				/* the generation that is registered; 0: none */

/* What only the assertions know */
byte flight[2];				/* granted in this generation, not ended */
byte deadlines = DEADLINES, expiries = EXPIRIES, refusals = REFUSALS;

#define PAID(s) (begun[s] + begun[SLOTS + s] == ended[s] + ended[SLOTS + s] + dead[s])

inline apply(t, e)
{
	if
	:: e & 1 -> ended[t * SLOTS + (e >> 1)]++
	:: else -> begun[t * SLOTS + (e >> 1)]++
	fi
}

/* The sum reads one counter after the other, while threads go on: ends first. */
#ifdef BREAK_BEGINS_FIRST
inline sum(s)
{
	n = begun[s];
	n = n + begun[SLOTS + s];
	n = n - ended[s];
	n = n - ended[SLOTS + s] - dead[s]
}
#else
inline sum(s)
{
	n = 0 - ended[s] - dead[s];
	n = n - ended[SLOTS + s];
	n = n + begun[s];
	n = n + begun[SLOTS + s]
}
#endif

/* Locked (pl_lease_look) */
inline look(l)
{
	if
	:: state[l] == BREAKING && barred ->
		sum(slot[l]);
		d_step {
			assert(n >= flight[l]);
			if
			:: n == 0 -> walk(l, BREAKING, FENCING, "drained")
			:: else
			fi;
			n = 0
		}
	:: else
	fi
}

#ifdef BREAK_FIRST_LEASE
#define UNHELD (!holds[0] || !holds[1])
#else
#define UNHELD (!holds[0] && !holds[1])
#endif

/* In one step (file_let_go): the leases are revoked, the guard is the opener's. */
inline settle()
{
	if
	:: file == BREAKING && UNHELD ->
		late = !guard;
		guard = 0;
		if
		:: late ->
			walk_file(BREAKING, EXPIRED, "expired");
			walk_file(EXPIRED, FREE, "told")
		:: else -> walk_file(BREAKING, FREE, "let go")
		fi;
		k = 0;
		do
		:: k < LEASES && state[k] == FENCING && late ->
			walk(k, FENCING, LOST, "lost");
			k++
		:: k < LEASES && state[k] == FENCING && !late ->
			walk(k, FENCING, REVOKED, "let go");
			k++
		:: k < LEASES && state[k] != FENCING -> k++
		:: k == LEASES -> break
		od;
		k = 0;
		late = 0
	:: else
	fi
}

/* In one step (pl_account_next_gen): a fresh slot if operations are left in the old one. */
inline next_gen(l)
{
	k = 0;
	do
	:: k < SLOTS ->
		/* What has been paid in full is another lease's to use. */
		if
		:: owner_of[k] == l + 1 && k != slot[l] && PAID(k) ->
			owner_of[k] = 0;
			gen_of[k] = 0
		:: else
		fi;
		k++
	:: else -> break
	od;
	k = slot[l];
#ifndef BREAK_SLOT_KEPT
	if
	:: !PAID(k) ->
		k = 0;
		do
		:: k < SLOTS && owner_of[k] -> k++
		:: else -> break
		od;
		assert(k < SLOTS)
	:: else
	fi;
#endif
	gen[l]++;
	slot[l] = k;
	owner_of[k] = l + 1;
	gen_of[k] = gen[l];
	flight[l] = 0;
	k = 0
}

/* In one step (pl_file_arm, lease_take): the whole sequence, or nothing. */
inline arm()
{
	walk_file(FREE, REARMING, "rearm");
	if
	:: inside -> walk_file(REARMING, FREE, "refused")
	:: else ->
		guard = 1;
		excused = 0;
		walk_file(REARMING, HELD, "taken")
	fi
}

/* The device: memory is registered, under the key of generation g. */
inline enrol(l, g)
{
	assert(!inside || excused);
	key[l] = g
}

/*
 * pl_lease_fence: what is before the unlock is the caller's. Taken down is what was
 * registered in the step of the lock: nobody looks at the key in between but the device.
 */
inline fence(l)
{
	if
	:: atomic { !lock && refusals > 0 ->
		refusals--;
		busy[l] = 0;
		/* The kernel has let the opener on: LOST, and tried again. */
		if
		:: !guard && file == BREAKING && state[l] == FENCING -> walk(l, FENCING, LOST, "lost")
		:: else
		fi }
	:: atomic { !lock ->
		key[l] = 0;
		busy[l] = 0;
		fenced[l] = 1;
		holds[l] = 0;
		settle() }
	fi
}

/* pl_lease_restore_step of a lease that is REVOKED, or LOST; before the unlock: the caller's. */
inline restore(l)
{
	atomic { enrol(l, gen[l] + 1) };
	if
	:: atomic { !lock && file == HELD ->
		next_gen(l);
		busy[l] = 0;
		fenced[l] = 0;
		holds[l] = 1;
		if
		:: state[l] == REVOKED -> walk(l, REVOKED, ACTIVE, "restored")
		:: else -> walk(l, LOST, ACTIVE, "restored by hand")
		fi }
	:: atomic { !lock && file != HELD -> fenced[l] = 0 };
		/* Broken in the middle: it stays what it was. */
		fence(l)
	fi
}

/* REVOKED, too: after a restore that was broken in the middle. */
#define UNFENCED(l) (!fenced[l] && (state[l] == FENCING || state[l] == LOST || state[l] == REVOKED))

#ifdef BREAK_RESTORE_UNHELD
#define RESTORING(l) busy[l] = 1
#else
#define RESTORING(l) busy[l] = 1; holds[l] = 1
#endif
#ifdef BREAK_LET_GO_FIRST
#define FENCING_OFF(l) busy[l] = 1; holds[l] = 0; settle()
#else
#define FENCING_OFF(l) busy[l] = 1
#endif

/* A thread's store buffer. */
proctype Memory(byte t)
{
	byte e;

end:	do
	:: atomic { buffer[t]?e -> apply(t, e); e = 0 }
#ifdef WEAKER
	:: atomic { buffer[t]??0 -> begun[t * SLOTS]++ }
	:: atomic { buffer[t]??2 -> begun[t * SLOTS + 1]++ }
	:: atomic { buffer[t]??4 -> begun[t * SLOTS + 2]++ }
	:: atomic { buffer[t]??6 -> begun[t * SLOTS + 3]++ }
#ifdef BREAK_END_RELAXED
	:: atomic { buffer[t]??1 -> ended[t * SLOTS]++ }
	:: atomic { buffer[t]??3 -> ended[t * SLOTS + 1]++ }
	:: atomic { buffer[t]??5 -> ended[t * SLOTS + 2]++ }
	:: atomic { buffer[t]??7 -> ended[t * SLOTS + 3]++ }
#endif
#endif
	od
}

/* All that takes the lock is a locked instruction. */
inline poke(l)
{
	atomic { !lock && empty(buffer[t]) -> lock = 1 };
	look(l);
	atomic { settle(); lock = 0 }
}

#define WORD_IS(l) (state[l] == ACTIVE && gen[l] == w_gen && slot[l] == w_slot)

/* dma_begin, an operation, dma_end (lib/account.h) */
proctype Thread(byte t)
{
	byte l, w_gen, w_slot, w_state, my_gen, ops = OPS, k;
	short n;
	bit late;

	do
	:: atomic { ops > 0 ->
		ops--;
		if
		:: l = 0
#if LEASES == 2
		:: l = 1
#endif
		fi;
		w_gen = gen[l];
		w_slot = slot[l];
		w_state = state[l] };
		if
		:: w_state == ACTIVE ->
			buffer[t]!(2 * w_slot);
#ifdef FENCED
			empty(buffer[t]);
#endif
			if
#ifdef BREAK_STATE_COMPARED
			:: atomic { state[l] == ACTIVE -> my_gen = gen[l]; flight[l]++ }
#else
			:: atomic { WORD_IS(l) -> my_gen = gen[l]; flight[l]++ }
#endif
			:: else ->
				buffer[t]!(2 * w_slot + 1);
				poke(l);
				goto done
			fi
		:: else -> goto done
		fi;
		/* It is in flight; it has come to an end, well or flushed: */
		atomic {
			flight[l] = flight[l] - (gen[l] == my_gen);
			w_gen = gen[l];
			w_slot = slot[l];
			w_state = state[l]
		};
		if
#ifndef BREAK_GEN_UNCHECKED
		:: w_gen != my_gen ->
			/* pl_account_end_late */
			atomic { !lock && empty(buffer[t]) ->
				k = 0;
				do
				:: k < SLOTS && !(owner_of[k] == l + 1 && gen_of[k] == my_gen) -> k++
				:: else -> break
				od;
				if
				:: k < SLOTS -> dead[k]++
				:: else
				fi;
				k = 0
			}
#endif
		:: else ->
			buffer[t]!(2 * w_slot + 1);
#ifdef FENCED
			empty(buffer[t]);
#endif
			if
			:: w_state == ACTIVE && WORD_IS(l)
#ifdef BREAK_UNTOLD
			:: else
#else
			:: else -> poke(l)
#endif
			fi
		fi;
done:		atomic { l = 0; w_gen = 0; w_slot = 0; w_state = 0; my_gen = 0 }
	:: ops == 0 -> break
	od
}

/* Somebody opens the file, and closes it. */
proctype Opener()
{
	byte opens = OPENS;

	do
	:: atomic { opens > 0 ->
		opens--;
		if
		:: guard -> pending = 1
		:: else -> goto in
		fi };
		if
		:: atomic { !guard ->
in:			pending = 0;
			inside = 1;
			assert(excused || (!key[0] && !key[1])) }
		:: atomic { guard && expiries > 0 ->
			expiries--;
			guard = 0;
			pending = 0;
			excused = 1;
			inside = 1 }
		fi;
		inside = 0
	:: opens == 0 -> break
	od
}

/* A membarrier in one step. */
inline drain_buffers()
{
	do
	:: buffer[0]?e -> apply(0, e)
	:: empty(buffer[0]) && nempty(buffer[1]) -> buffer[1]?e; apply(1, e)
	:: empty(buffer[0]) && empty(buffer[1]) -> break
	od;
	e = 0;
	barred = 1
}

/* On all threads, each at its own moment. */
inline membarrier()
{
	t = 0;
#if !defined(BREAK_NO_MEMBARRIER) && !defined(FENCED)
	do
	:: atomic { t < THREADS ->
		do
		:: buffer[t]?e -> apply(t, e)
		:: empty(buffer[t]) -> break
		od;
		e = 0;
		t++ }
	:: atomic { t == THREADS -> t = 0; break }
	od
#endif
}

/* pl_file_mark, the membarrier, pl_file_answer */
proctype Breaker()
{
	byte k, t, e;
	short n;
	bit late;

end:	do
	:: atomic { !lock && file == HELD && (pending || !guard) ->
		walk_file(HELD, BREAKING, "break");
#ifndef BREAK_LOOK_EARLY
		barred = 0;
#endif
		k = 0;
		do
		:: k < LEASES && state[k] == ACTIVE -> walk(k, ACTIVE, BREAKING, "break"); k++
		:: k < LEASES && state[k] != ACTIVE -> k++
		:: k == LEASES -> break
		od;
		k = 0 };
		membarrier();
		atomic { !lock -> lock = 1; barred = 1 };
		look(0);
#if LEASES == 2
		look(1);
#endif
		atomic { settle(); lock = 0 }
	od
}

/* pl_lease_run, and of pl_file_run what takes the guard again */
proctype Worker(byte l)
{
	byte k, e;
	bit late;

end:	do
	:: atomic { !lock && UNFENCED(l) && !busy[l] ->
		FENCING_OFF(l) };
		fence(l)
	:: atomic { !lock && state[l] == BREAKING && deadlines > 0 ->
		deadlines--;
#ifndef BREAK_DEADLINE_EARLY
		/* What is cut off is counted, so the barrier is made if nobody has yet. */
		drain_buffers();
#endif
		walk(l, BREAKING, FENCING, "drained") }
	/* The back-off: who has waited is in by now, or would be starved. */
	:: atomic { !lock && file == FREE && !pending && state[l] == REVOKED && !waited[l] -> arm() }
	:: atomic { !lock && file == HELD && state[l] == REVOKED && !waited[l] && fenced[l] && !busy[l] ->
		RESTORING(l) };
		restore(l)
	od
}

#ifdef LIFE
/* The application: acquires the second lease, gives both back, and closes the file. */
inline acquire(l)
{
	if
	:: atomic { !lock && file == FREE -> arm() }
	:: skip
	fi;
	if
	:: atomic { !lock && file == HELD ->
		state[l] = INIT;
		holds[l] = 1;
		gen[l] = 1 };
		atomic { enrol(l, 1) };
		if
		:: atomic { !lock && file == HELD ->
			fenced[l] = 0;
			walk(l, INIT, ACTIVE, "acquired") }
		:: atomic { !lock && file != HELD ->
			key[l] = 0;
			holds[l] = 0;
			walk(l, INIT, CLOSED, "refused");
			settle() }
		fi
	:: atomic { !lock && file != HELD -> skip }
	fi
}

/* pl_lease_restore of a lease that is LOST: at any time, with no back-off, or never */
inline restore_by_hand(l)
{
	if
	:: atomic { !lock && state[l] == LOST && fenced[l] && !busy[l] && (file == FREE || file == HELD) ->
		if
		:: file == FREE -> arm()
		:: else
		fi;
		if
		:: file == HELD -> RESTORING(l)
		:: else -> goto not_now
		fi };
		restore(l)
	:: skip
	fi;
not_now:
	skip
}

/* pl_lease_release: the way of a break, in this thread */
inline release(l)
{
	atomic { !lock -> waited[l] = 1 };
	if
	:: atomic { !lock && !busy[l] && state[l] == ACTIVE ->
		lock = 1;
		walk(l, ACTIVE, BREAKING, "break") };
		membarrier();
		look(l);
		lock = 0
	:: atomic { !lock && !busy[l] && state[l] != ACTIVE -> skip }
	fi;
	do
	:: atomic { !lock && UNFENCED(l) && !busy[l] ->
		FENCING_OFF(l) };
		fence(l)
	:: atomic { !lock && !busy[l] && (state[l] == CLOSED || (fenced[l] && state[l] != BREAKING)) ->
		if
		:: state[l] == FENCING -> walk(l, FENCING, CLOSED, "released")
		:: state[l] == REVOKED -> walk(l, REVOKED, CLOSED, "released")
		:: state[l] == LOST -> walk(l, LOST, CLOSED, "released")
		:: else
		fi;
		holds[l] = 0;
		settle();
		break }
	od
}

proctype Owner()
{
	byte k, t, e;
	short n;
	bit late;

	acquire(1);
	restore_by_hand(1);
	release(1);
	release(0);
	/* pl_file_close */
	atomic { !lock ->
		settle();
		if
		:: file == HELD ->
			guard = 0;
			walk_file(HELD, FREE, "closed")
		:: else
		fi }
}
#endif

init {
	atomic {
		slot[1] = 1;
		owner_of[0] = 1;
		owner_of[1] = 2;
		gen_of[0] = 1;
		gen_of[1] = 1;
		gen[0] = 1;
		gen[1] = 1;
		state[0] = ACTIVE;
		holds[0] = 1;
		key[0] = 1;
		barred = 1;
#if !defined(LIFE) && LEASES == 2
		state[1] = ACTIVE;
		holds[1] = 1;
		key[1] = 1;
#endif
		run Memory(0);
		run Memory(1);
		run Thread(0);
		run Thread(1);
		run Breaker();
		run Worker(0);
#if LEASES == 2
		run Worker(1);
#endif
#ifdef LIFE
		run Owner();
#endif
		run Opener()
	}
}
