/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ladder_hang FS: peers that do not return. Four share a lease; of three one is stopped, one goes on writing
 * and hears nothing, one is killed, and then a break comes. The opener goes on within the deadline and a
 * second, and finds all that was acknowledged; only who still writes loses its connection; all three
 * cost one deadline, and no later break waits for them; the one that was stopped is let in again, over
 * the connection that it had, and returns.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "ladder.h"
#include "rounds.h"

#define SLOTS	    128u
#define FULL	    (SLOTS * (uint64_t)RT_SLOT)
#define LOAD	    100u
#define DEADLINE_MS 4000u /* who returns does so in time, though the machine may stand still for a moment */
#define SLACK_MS    1000u
#define EARLY_MS    200u /* the opener's own start may be behind the break's by so much */

enum { STEADY, STOPPED, DEAF, KILLED };

/* One break; answers how long the opener was held up. All that are not excused live. */
static unsigned int break_once(struct ladder *l, unsigned int excused)
{
	unsigned int restored = l->restored, ms, i;
	struct kt_call *opener = ladder_break(l);

	ms = ladder_opener_ms(l, opener);
	ladder_until(l, l->restored > restored, "RESTORED");
	for (i = 0; i < l->links; i++)
		rt_assert(excused & 1u << i || ladder_lives(&l->link[i]), "peer %u lost its connection", i);
	return ms;
}

/* Answers the longest. */
static unsigned int breaks_that_wait_for_nobody(struct ladder *l, unsigned int excused)
{
	unsigned int i, ms, longest = 0, rounds = pl_rounds(PL_R_ladder_later);

	/* A break that ran into its deadline has cut somebody off. */
	for (i = 0; i < rounds; i++) {
		ladder_load(l, LOAD);
		ms = break_once(l, excused);
		rt_assert(!l->cut, "a later break waited for %u ms, %llu in flight", ms,
			  (unsigned long long)l->cut);
		longest = ms > longest ? ms : longest;
	}
	return longest;
}

/* All that can go wrong, in one break. */
static void at_once(struct ladder *l)
{
	unsigned int ms, later, gone = 1u << DEAF | 1u << KILLED;
	uint64_t cut;

	/* Each has heard of the last RESTORED, or it would have nothing to write with. */
	ladder_load(l, LOAD);
	ladder_order(l, STOPPED, LADDER_LISTEN);
	ladder_order(l, DEAF, LADDER_DEAF);
	rt_assert(!kill(l->link[STOPPED].call->pid, SIGSTOP), "SIGSTOP");
	ladder_load(l, LOAD);
	kt_call_kill(l->link[KILLED].call);
	ms = break_once(l, gone);
	cut = l->cut;
	rt_assert(ms < DEADLINE_MS + SLACK_MS, "the opener was held up for %u ms", ms);
	/* Over SEND a death is noticed when a message is not taken. */
	rt_assert(ms >= DEADLINE_MS - EARLY_MS && (cut == 2 || cut == 3),
		  "%u ms, %llu in flight: not waited for", ms, (unsigned long long)cut);
	ladder_until(l, atomic_load(&l->link[DEAF].peer->books.error), "the end of who writes on");
	ladder_until(l, l->link[KILLED].dead, "news of the death");
	later = breaks_that_wait_for_nobody(l, gone);
	printf("one stopped, one writing on, one killed: the opener waited for %u ms, %llu not returned; "
	       "later ones "
	       "for %u at most\n",
	       ms, (unsigned long long)cut, later);
}

static void let_in_again(struct ladder *l)
{
	struct ladder_peer *p = l->link[STOPPED].peer;
	uint32_t keys = atomic_load(&p->grants);
	unsigned int ms;

	rt_assert(!kill(l->link[STOPPED].call->pid, SIGCONT), "SIGCONT");
	ladder_order(l, STOPPED, LADDER_WRITE);
	ladder_until(l, atomic_load(&p->grants) > keys || !ladder_lives(&l->link[STOPPED]), "the new key");
	ms = breaks_that_wait_for_nobody(l, 1u << DEAF | 1u << KILLED);
	printf("who was stopped returns again, over its old connection: the opener waited for %u ms at "
	       "most\n",
	       ms);
}

int main(int argc, char **argv)
{
	static struct ladder l;

	rt_assert(argc == 2, "usage: ladder_hang FILESYSTEM");
	kt_init();
	rt_require();
	ladder_setup(&l, argv[1], LADDER_PEERS, FULL, strcmp(argv[1], "tmpfs"));
	ladder_open(&l, PINLEASE_L_GRANTED, DEADLINE_MS);
	printf("all return: the opener waited for %u ms at most\n", breaks_that_wait_for_nobody(&l, 0));
	at_once(&l);
	let_in_again(&l);
	rt_assert(ladder_lives(&l.link[STEADY]) && ladder_lives(&l.link[STOPPED]), "who did nothing wrong");
	ladder_close(&l);
	return 0;
}
