/* SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <string.h>

#include "account.h"
#include "sys.h"

#if defined(__SANITIZE_THREAD__)
#define PL_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PL_UNDER_TSAN 1
#endif
#endif

/* The account of an older generation, until its last operation has ended. */
struct pl_retired {
	struct pl_retired *next;
	uint32_t gen, slot;
};

/* Two lines of 64 bytes: processors fetch their neighbours, too. */
#define LINE_BYTES 128ul
#define STEP_BYTES (256 * sizeof(struct pl_count))

struct pl_thread {
	struct pl_counts counts;
	void *memory;			/* that the counts stand in */
	struct pl_thread *prev, *next;
};

__thread struct pl_counts pl_counts_self __attribute__((tls_model("initial-exec")));
static __thread struct pl_thread *thread_self __attribute__((tls_model("initial-exec")));

/*
 * All threads that have counters. lock protects: threads, used, hint, where the counts of
 * threads other than the caller stand, and everything in dead (the counters of threads that
 * have exited). It is a leaf: nothing is taken under it.
 */
static struct {
	pthread_mutex_t lock;
	struct pl_thread threads;	/* head of a circular list; its own counts are dead's */
	pthread_key_t key;
	uint64_t used[PL_SLOTS / 64];
	uint32_t hint;
	bool setup, fenced;	/* fenced: constant once setup */
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .threads = { .prev = &all.threads, .next = &all.threads } };

static struct pl_count *count_of(const struct pl_thread *t, uint32_t slot)
{
	uint64_t place = pl_counts_place(&t->counts, slot * sizeof(struct pl_count));

	return place < t->counts.size ? pl_counts_at(&t->counts, place) : NULL;
}

/* A larger copy of t's counts with the slot in it, on lines of its own, and with some to spare. */
static int counts_copy(const struct pl_thread *t, uint32_t slot, struct pl_counts *c, void **memory)
{
	uint64_t need = (slot + 1) * sizeof(struct pl_count) - t->counts.first;

	*c = t->counts;
	/* No further than slots go: a word that is not ACTIVE must lie behind. */
	c->size = pl_min_u64(pl_round_up(need + need / 8, STEP_BYTES),
			     PL_SLOTS * sizeof(struct pl_count) - c->first);
	/* Lines of its own for what is in front, too. */
	*memory = pl_sys_alloc(c->size + 2 * LINE_BYTES);
	if (!*memory)
		return -ENOMEM;
	c->base = (struct pl_count *)(pl_round_up((uintptr_t)*memory, LINE_BYTES) + LINE_BYTES);
	/* In front is nothing: no thread is in the middle of an end while it makes a counter. */
	if (t->counts.size)
		memcpy((void *)c->base, (const void *)t->counts.base, t->counts.size);
	return 0;
}

/* The caller's, or the dead's: with the lock. Answers the memory that is free then. */
static void *counts_swap(struct pl_thread *t, const struct pl_counts *c, void *memory)
{
	void *old = t->memory;

	t->counts = *c;
	t->memory = memory;
	return old;
}

static void count_add(_Atomic uint32_t *counter, uint32_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_release);
}

/* The calling thread exits: its counters move to the dead ones, which the sum includes. */
static void thread_fold(void *arg)
{
	struct pl_thread *self = arg;
	struct pl_count *from = self->counts.base, *to;
	uint64_t at, first = self->counts.first / sizeof(*from);

	pthread_mutex_lock(&all.lock);
	for (at = 0; at < self->counts.size / sizeof(*from); at++, from++) {
		/* Exists for each slot that was handed out: made then. */
		to = count_of(&all.threads, (uint32_t)(first + at));
		if (!to)
			break;
		count_add(&to->begin, atomic_load_explicit(&from->begin, memory_order_relaxed));
		count_add(&to->end, atomic_load_explicit(&from->end, memory_order_relaxed));
	}
	self->prev->next = self->next;
	self->next->prev = self->prev;
	pthread_mutex_unlock(&all.lock);
	pl_sys_free(self->memory);
	pl_sys_free(self);
	thread_self = NULL;
	pl_counts_self = (struct pl_counts){ .base = NULL };
}

static int thread_new(void)
{
	struct pl_thread *self = pl_sys_alloc(sizeof(*self));

	if (!self)
		return -ENOMEM;
	/* The destructor is what keeps this thread's begins counted after it has exited. */
	if (pthread_setspecific(all.key, self)) {
		pl_sys_free(self);
		return -ENOMEM;
	}
	pthread_mutex_lock(&all.lock);
	self->counts.first = all.threads.counts.first;
	self->next = &all.threads;
	self->prev = all.threads.prev;
	self->prev->next = self;
	all.threads.prev = self;
	pthread_mutex_unlock(&all.lock);
	thread_self = self;
	return 0;
}

/*
 * This thread's counter, made at its first use. Only this thread stores to its counters, so
 * the copy is whole without the lock; the sum, which has it, reads the one or the other.
 */
static struct pl_count *count_make(uint32_t slot)
{
	struct pl_counts counts;
	struct pl_count *c;
	void *memory;

	if (!thread_self && thread_new())
		return NULL;
	c = count_of(thread_self, slot);
	if (c)
		return c;
	if (counts_copy(thread_self, slot, &counts, &memory))
		return NULL;
	pthread_mutex_lock(&all.lock);
	memory = counts_swap(thread_self, &counts, memory);
	pthread_mutex_unlock(&all.lock);
	pl_sys_free(memory);
	pl_counts_self = counts;
	return count_of(thread_self, slot);
}

int pl_account_begin(struct pl_account *a, uint32_t n, uint32_t *gen)
{
	uint64_t w0 = atomic_load_explicit(&a->word, memory_order_acquire);
	struct pl_count *c;

	if (pl_word_state(w0) != PINLEASE_ACTIVE)
		return -EAGAIN;
	c = count_make(pl_word_slot(w0));
	if (!c)
		return -ENOMEM;
	count_add(&c->begin, n);
	/* Pairs with pl_account_barrier(), whichever of the two that is. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&a->word, memory_order_relaxed) == w0) {
		*gen = pl_word_gen(w0);
		return 0;
	}
	count_add(&c->end, n);
	return -EALREADY;
}

int pl_account_end(struct pl_account *a, uint32_t n, uint32_t gen)
{
	uint64_t w0 = atomic_load_explicit(&a->word, memory_order_acquire);
	struct pl_count *c;

	if (pl_word_gen(w0) != gen)
		return -ESTALE;
	c = count_make(pl_word_slot(w0));
	if (!c)
		return -ESTALE;
	pl_account_ending(a);
	count_add(&c->end, n);
	atomic_thread_fence(memory_order_seq_cst);
	if (pl_word_state(w0) != PINLEASE_ACTIVE ||
	    atomic_load_explicit(&a->word, memory_order_relaxed) != w0)
		return -EALREADY;
	pl_account_ended();
	return 0;
}

int pl_account_setup(void)
{
	int r = 0;

	pthread_mutex_lock(&all.lock);
	if (!all.setup) {
		r = pl_sys_key_new(&all.key, thread_fold);
		if (!r) {
			all.fenced = pl_sys_membarrier_register() != 0;
#ifdef PL_UNDER_TSAN
			all.fenced = true;
#endif
			all.setup = true;
		}
	}
	pthread_mutex_unlock(&all.lock);
	return r;
}

bool pl_account_has_membarrier(void)
{
	return !all.fenced;
}

void pl_account_barrier(void)
{
	if (all.fenced)
		atomic_thread_fence(memory_order_seq_cst);
	else
		pl_sys_membarrier();
}

/* all.lock: the counter of the dead, which every slot has. */
static int dead_make(uint32_t slot)
{
	struct pl_counts counts;
	void *memory;
	int r = 0;

	if (count_of(&all.threads, slot))
		return 0;
	r = counts_copy(&all.threads, slot, &counts, &memory);
	if (!r)
		pl_sys_free(counts_swap(&all.threads, &counts, memory));
	return r;
}

static int slot_new(uint32_t *slot)
{
	uint32_t i, word, bit;
	int r = -ENOSPC;

	pthread_mutex_lock(&all.lock);
	for (i = 0; i < PL_SLOTS / 64 && r == -ENOSPC; i++) {
		word = (all.hint + i) % (PL_SLOTS / 64);
		if (all.used[word] == UINT64_MAX)
			continue;
		bit = (uint32_t)__builtin_ctzll(~all.used[word]);
		*slot = word * 64 + bit;
		r = dead_make(*slot);
		if (!r)
			all.used[word] |= 1ull << bit;
		all.hint = word;
	}
	pthread_mutex_unlock(&all.lock);
	return r;
}

/* Ends first, then begins: see the head of account.h. */
static uint32_t slot_sum_locked(uint32_t slot)
{
	struct pl_thread *t = &all.threads;
	uint32_t begins = 0, ends = 0;
	struct pl_count *c;

	do {
		c = count_of(t, slot);
		if (c)
			ends += atomic_load_explicit(&c->end, memory_order_acquire);
		t = t->next;
	} while (t != &all.threads);
	do {
		c = count_of(t, slot);
		if (c)
			begins += atomic_load_explicit(&c->begin, memory_order_acquire);
		t = t->next;
	} while (t != &all.threads);
	return begins - ends;
}

static uint32_t slot_sum(uint32_t slot)
{
	uint32_t n;

	pthread_mutex_lock(&all.lock);
	n = slot_sum_locked(slot);
	pthread_mutex_unlock(&all.lock);
	return n;
}

/* What never ended is balanced among the dead, so that the next user of the slot starts at nought. */
static void slot_free(uint32_t slot)
{
	pthread_mutex_lock(&all.lock);
	count_add(&count_of(&all.threads, slot)->end, slot_sum_locked(slot));
	all.used[slot / 64] &= ~(1ull << slot % 64);
	pthread_mutex_unlock(&all.lock);
}

int pl_account_init(struct pl_account *a)
{
	uint32_t slot = 0;
	int r = slot_new(&slot);

	if (r)
		return r;
	a->retired = NULL;
	atomic_store_explicit(&a->word, pl_word(1, slot, PINLEASE_INIT), memory_order_release);
	return 0;
}

bool pl_account_is_ending(struct pl_account *a)
{
	struct pl_thread *t;
	bool is = false;

	pthread_mutex_lock(&all.lock);
	for (t = all.threads.next; t != &all.threads && !is; t = t->next)
		is = t->counts.size && atomic_load_explicit(&pl_count_head(t->counts.base)->ending,
							    memory_order_acquire) == (uintptr_t)a;
	pthread_mutex_unlock(&all.lock);
	return is;
}

static uint64_t word_of(struct pl_account *a)
{
	return atomic_load_explicit(&a->word, memory_order_acquire);
}

void pl_account_fini(struct pl_account *a)
{
	struct pl_retired *r;

	while ((r = a->retired)) {
		a->retired = r->next;
		slot_free(r->slot);
		pl_sys_free(r);
	}
	slot_free(pl_word_slot(word_of(a)));
}

void pl_account_set_state(struct pl_account *a, enum pinlease_state state)
{
	uint64_t w = word_of(a);

	/* Sequentially consistent: the fenced variant of begin pairs with this store. */
	atomic_store(&a->word,
		     pl_word(pl_word_gen(w), pl_word_slot(w), state) | (all.fenced ? PL_WORD_FENCED : 0));
}

static void retired_sweep(struct pl_account *a)
{
	struct pl_retired **link = &a->retired, *r;

	while ((r = *link)) {
		if (slot_sum(r->slot)) {
			link = &r->next;
			continue;
		}
		*link = r->next;
		slot_free(r->slot);
		pl_sys_free(r);
	}
}

int pl_account_next_gen(struct pl_account *a)
{
	uint64_t w = word_of(a);
	uint32_t slot = pl_word_slot(w);
	struct pl_retired *old;
	int r;

	retired_sweep(a);
	if (slot_sum(slot)) {
		old = pl_sys_alloc(sizeof(*old));
		if (!old)
			return -ENOMEM;
		r = slot_new(&slot);
		if (r) {
			pl_sys_free(old);
			return r;
		}
		old->gen = pl_word_gen(w);
		old->slot = pl_word_slot(w);
		old->next = a->retired;
		a->retired = old;
	}
	atomic_store(&a->word, pl_word(pl_word_gen(w) + 1, slot, pl_word_state(w)) | (w & PL_WORD_FENCED));
	return 0;
}

uint32_t pl_account_in_flight(struct pl_account *a)
{
	return slot_sum(pl_word_slot(word_of(a)));
}

uint64_t pl_account_late(struct pl_account *a)
{
	struct pl_retired *r;
	uint64_t n = 0;

	for (r = a->retired; r; r = r->next)
		n += slot_sum(r->slot);
	return n;
}

void pl_account_end_late(struct pl_account *a, uint32_t n, uint32_t gen)
{
	uint64_t w = word_of(a);
	struct pl_retired *r = a->retired;

	while (r && r->gen != gen)
		r = r->next;
	if (!r && pl_word_gen(w) != gen)
		return;
	pthread_mutex_lock(&all.lock);
	count_add(&count_of(&all.threads, r ? r->slot : pl_word_slot(w))->end, n);
	pthread_mutex_unlock(&all.lock);
}

uint32_t pl_account_begun(struct pl_account *a)
{
	uint32_t slot = pl_word_slot(word_of(a)), begins = 0;
	struct pl_thread *t = &all.threads;
	struct pl_count *c;

	pthread_mutex_lock(&all.lock);
	do {
		c = count_of(t, slot);
		if (c)
			begins += atomic_load_explicit(&c->begin, memory_order_acquire);
		t = t->next;
	} while (t != &all.threads);
	pthread_mutex_unlock(&all.lock);
	return begins;
}

/*
 * What the parent's threads had. A lock that can be had was nobody's when this thread forked, so what it
 * protects is whole; otherwise one was about to move its counters, and they stay where they are, unused.
 */
static void forked_free(void)
{
	struct pl_thread *t, *next;

	if (pthread_mutex_trylock(&all.lock))
		return;
	for (t = all.threads.next; t != &all.threads; t = next) {
		next = t->next;
		pl_sys_free(t->memory);
		pl_sys_free(t);
	}
	pl_sys_free(all.threads.memory);
}

/*
 * Nothing of the parent's is counted here. This thread's counters go, so a begin of an
 * inherited lease, ACTIVE for ever, comes to its first use, where the fork is noticed. And
 * counts begin behind the parent's last slot: a lease of the child's must not make
 * counters that let an inherited one be granted.
 */
void pl_account_forked(void)
{
	uint32_t word = PL_SLOTS / 64;

	forked_free();
	pthread_mutex_init(&all.lock, NULL);
	all.threads.next = all.threads.prev = &all.threads;
	while (word && !all.used[word - 1])
		word--;
	memset(all.used, 0xff, word * sizeof(all.used[0]));
	all.threads.counts = (struct pl_counts){ .first = word * (64 * sizeof(struct pl_count)) };
	all.threads.memory = NULL;
	pthread_setspecific(all.key, NULL);
	thread_self = NULL;
	pl_counts_self = (struct pl_counts){ .base = NULL };
}
