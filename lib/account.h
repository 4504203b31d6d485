/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: the account of DMA in flight. The idea is that of Linux's percpu_ref, with
 * threads for CPUs: a begin and an end are plain stores to counters that only the
 * calling thread writes; who breaks a lease pays for both sides with one membarrier.
 *
 * Counters stand in slots: counter(thread, slot) = { begin, end }, in one array for each
 * thread, which starts on cache lines of its own and which nobody but its thread writes, or
 * moves when it must grow: under the lock that the sum takes. A lease's word holds
 * generation, state and slot, and changes only under the file's lock:
 *
 *	63          32 31     21 20            0
 *	|  generation |   state  |  slot, bytes  |	state: 0 is ACTIVE
 *
 * So the lower half less where the array begins is the counter's place in it, and no
 * smaller than the array's size if the lease is not ACTIVE, or this thread has no counter
 * for it: one comparison finds both.
 *
 * begin: load word (w0), not ACTIVE: refuse. Store begin + n in w0's slot. Barrier.
 *        Load word (w1). w1 == w0: granted. Else take it back (end + n), refuse.
 * break: store word with BREAKING. membarrier. Sum the ends, then the begins.
 * end:   load word (w0), of another generation: a late end, slow. Release store of
 *        end + n in w0's slot. Barrier. Load word (w1). Not ACTIVE: wake who waits.
 *
 * No begin is missed: the membarrier puts a full barrier into every running thread
 * between the store of BREAKING and the sum. A begin whose barrier comes before it has
 * its store seen by the sum; one whose barrier comes after loads w1 with BREAKING in
 * it and refuses. The last end is not missed for the same reason: its store is seen by
 * the sum, or its load of w1 sees BREAKING and it wakes who waits. Ends are summed
 * before begins, with acquire loads that pair with the release stores: an operation
 * whose end is counted has its begin counted too, so the sum never falls short of
 * what is in flight, and the DMA that ended happens before the fence.
 *
 * Generations. A restore after which operations of the old generation are in flight
 * still takes a fresh slot; the old slot goes on as the account of the old generation,
 * and its late ends are paid there. The new one starts clean, and no late end can
 * reach it: an end stores to the slot of the word it loaded, and that word's generation
 * was its own. When nothing was left in flight the slot is kept. A begin that is
 * preempted between w0 and its store may then store to a slot that has changed hands;
 * w1 differs, so it takes it back: a count too many for an instant, never one too few.
 *
 * Release. An end looks at the word once more after it has been counted, and then perhaps
 * at the lease; but a release that waits for the last operation may free both as soon as it
 * has seen the count. So a thread names the account that it ends in front of its counters:
 * before the count, whose release store makes the name visible to whoever has seen it, and
 * until it is done with both. Who frees looks for the name afterwards.
 *
 * Moving an array changes none of this. Its thread makes the copy between two operations
 * and is the only one that stores, so nothing is missing in it; the sum finds, under the
 * lock, the old or the new one, and each has all that was stored before the membarrier.
 *
 * Without membarrier (ENOSYS, seccomp) the barriers are sequentially consistent
 * fences, on both sides. Under ThreadSanitizer, which knows neither, the same.
 */
#ifndef PL_ACCOUNT_H
#define PL_ACCOUNT_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

#include <pinlease.h>

#include "util.h"

#define PL_SLOTS (1u << 18)

struct pl_count {
	_Atomic uint32_t begin, end;	/* modulo 2^32; only their difference means something */
};

/* In front of a thread's counters, which move with it. */
struct pl_count_head {
	_Atomic uintptr_t ending;	/* an account, or 0: somebody else only compares it */
};

_Static_assert(sizeof(struct pl_count_head) <= sizeof(struct pl_count), "stands before the first counter");

struct pl_account {
	_Atomic uint64_t word;
	struct pl_retired *retired;	/* accounts of older generations; the file's lock */
};

/* Slots from first on; both numbers in bytes, as in a word. */
struct pl_counts {
	struct pl_count *base;
	uint64_t first, size;
};

/* This thread's; without any, size is 0. */
extern __thread struct pl_counts pl_counts_self __attribute__((tls_model("initial-exec")));

#define PL_WORD_STATE_SHIFT 21
#define PL_WORD_SLOT_MASK   ((1u << PL_WORD_STATE_SHIFT) - 1)
/*
 * In the word's state where membarrier cannot be had: the granted way, which takes 0 only,
 * then costs nothing where it can.
 */
#define PL_WORD_FENCED (8u << PL_WORD_STATE_SHIFT)

_Static_assert(PL_SLOTS * sizeof(struct pl_count) == PL_WORD_SLOT_MASK + 1, "every slot fits into a word");

static inline uint64_t pl_word(uint32_t gen, uint32_t slot, enum pinlease_state state)
{
	return (uint64_t)gen << 32 | ((uint32_t)state ^ PINLEASE_ACTIVE) << PL_WORD_STATE_SHIFT |
	       slot * (uint32_t)sizeof(struct pl_count);
}

static inline uint32_t pl_word_gen(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

static inline uint32_t pl_word_slot(uint64_t word)
{
	return ((uint32_t)word & PL_WORD_SLOT_MASK) / (uint32_t)sizeof(struct pl_count);
}

static inline enum pinlease_state pl_word_state(uint64_t word)
{
	return (enum pinlease_state)(((uint32_t)word >> PL_WORD_STATE_SHIFT & 7) ^ PINLEASE_ACTIVE);
}

/* Where a word's lower half has its counter; not below c->size: nowhere, or the word is not ACTIVE. */
static inline uint64_t pl_counts_place(const struct pl_counts *c, uint64_t half)
{
	return half - c->first;
}

static inline struct pl_count *pl_counts_at(const struct pl_counts *c, uint64_t place)
{
	return (struct pl_count *)((char *)c->base + place);
}

static inline struct pl_count_head *pl_count_head(struct pl_count *base)
{
	return (struct pl_count_head *)(base - 1);
}

/* Before the end is counted, by the thread whose counters these are. */
static inline void pl_account_ending(struct pl_account *a)
{
	struct pl_count_head *head = pl_count_head(pl_counts_self.base);

	atomic_store_explicit(&head->ending, (uintptr_t)a, memory_order_relaxed);
}

/* After the last look at the lease: pairs with the acquire load of pl_account_is_ending(). */
static inline void pl_account_ended(void)
{
	struct pl_count_head *head = pl_count_head(pl_counts_self.base);

	atomic_store_explicit(&head->ending, 0, memory_order_release);
}

static inline void pl_count_end(struct pl_count *c, uint32_t n)
{
	/* Release: pairs with the acquire loads of the sum. */
	atomic_store_explicit(&c->end, atomic_load_explicit(&c->end, memory_order_relaxed) + n,
			      memory_order_release);
}

/*
 * The granted way alone, with no calls in it, so that dma_begin and dma_end are leaves:
 * 0 and *gen, or any other answer: nothing has been counted, call the whole one.
 */
static inline int pl_account_begin_fast(struct pl_account *a, uint32_t n, uint32_t *gen)
{
	/* Acquire: what the restore set up happens before DMA into it. */
	uint64_t w0 = atomic_load_explicit(&a->word, memory_order_acquire);
	uint64_t place = pl_counts_place(&pl_counts_self, (uint32_t)w0);
	struct pl_count *c;

	if (pl_unlikely(place >= pl_counts_self.size))
		return -EAGAIN;
	c = pl_counts_at(&pl_counts_self, place);
	atomic_store_explicit(&c->begin, atomic_load_explicit(&c->begin, memory_order_relaxed) + n,
			      memory_order_relaxed);
	/* The breaker's membarrier makes a full barrier of this one. */
	atomic_signal_fence(memory_order_seq_cst);
	if (pl_likely(atomic_load_explicit(&a->word, memory_order_relaxed) == w0)) {
		*gen = pl_word_gen(w0);
		return 0;
	}
	pl_count_end(c, n);
	return -EALREADY;
}

/*
 * 0: ended. -EALREADY: counted, and whoever waits must look again; then pl_account_ended().
 * Else: call the whole one.
 */
static inline int pl_account_end_fast(struct pl_account *a, uint32_t n, uint32_t gen)
{
	uint64_t w0 = atomic_load_explicit(&a->word, memory_order_relaxed);
	/* Of another generation, it is far behind the end of the array. */
	uint64_t place = pl_counts_place(&pl_counts_self, w0 ^ (uint64_t)gen << 32);
	struct pl_count *c;

	if (pl_unlikely(place >= pl_counts_self.size))
		return -EAGAIN;
	c = pl_counts_at(&pl_counts_self, place);
	pl_account_ending(a);
	pl_count_end(c, n);
	atomic_signal_fence(memory_order_seq_cst);
	if (pl_unlikely(atomic_load_explicit(&a->word, memory_order_relaxed) != w0))
		return -EALREADY;
	pl_account_ended();
	return 0;
}

/*
 * begin, whole: 0 and *gen; -EAGAIN: refused; -EALREADY: refused, and whoever waits must
 * look again; -ENOMEM: no counter for this thread.
 */
int pl_account_begin(struct pl_account *a, uint32_t n, uint32_t *gen);
/*
 * end, whole: 0; -EALREADY: whoever waits must look again, then pl_account_ended(); -ESTALE:
 * pl_account_end_late(), locked.
 */
int pl_account_end(struct pl_account *a, uint32_t n, uint32_t gen);
/* Once a process: registers with membarrier, the thread-exit key. 0, -ENOMEM, -EAGAIN. */
int pl_account_setup(void);
bool pl_account_has_membarrier(void);
/* Between storing a word and summing: one for any number of accounts. */
void pl_account_barrier(void);

/* A slot of its own, generation 1, INIT. -ENOMEM, -ENOSPC: PL_SLOTS leases exist. */
int pl_account_init(struct pl_account *a);
/* When nothing is in flight any more: whether a thread still looks at the account that it has ended. */
bool pl_account_is_ending(struct pl_account *a);
void pl_account_fini(struct pl_account *a);
/* Change the state only; the file's lock. */
void pl_account_set_state(struct pl_account *a, enum pinlease_state state);
/* Make the next generation ready (a fresh slot if operations are left); the state stays. -ENOMEM, -ENOSPC. */
int pl_account_next_gen(struct pl_account *a);
uint32_t pl_account_in_flight(struct pl_account *a);
uint64_t pl_account_late(struct pl_account *a);
/* An end of a generation that is over, or of a thread that has no counter; the file's lock. */
void pl_account_end_late(struct pl_account *a, uint32_t n, uint32_t gen);
/* Begins counted so far in this slot, for "has anybody begun at all". */
uint32_t pl_account_begun(struct pl_account *a);
/* fork child: forget every thread and every count. */
void pl_account_forked(void);

static inline uint32_t pl_account_gen(struct pl_account *a)
{
	return pl_word_gen(atomic_load_explicit(&a->word, memory_order_acquire));
}

static inline enum pinlease_state pl_account_state(struct pl_account *a)
{
	return pl_word_state(atomic_load_explicit(&a->word, memory_order_acquire));
}

#endif
