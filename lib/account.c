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

static struct pl_thread no_thread;
__thread struct pl_thread *pl_thread_self __attribute__((tls_model("initial-exec"))) = &no_thread;

/*
 * All threads that have counters. lock protects: threads, used, hint, chunk pointers
 * of threads other than the caller, and everything in dead (the counters of threads that
 * have exited). It is a leaf: nothing is taken under it.
 */
static struct {
	pthread_mutex_t lock;
	struct pl_thread threads;	/* head of a circular list; its own chunks are dead's */
	pthread_key_t key;
	uint64_t used[PL_SLOTS / 64];
	uint32_t hint;
	bool setup, fenced;	/* fenced: constant once setup */
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .threads = { .prev = &all.threads, .next = &all.threads } };

static struct pl_count *chunk_of(struct pl_thread *t, uint32_t slot)
{
	/* Acquire: pairs with the release in chunk_new, so the counters are seen zeroed. */
	struct pl_count *chunk =
		atomic_load_explicit(&t->chunk[slot >> PL_CHUNK_SHIFT], memory_order_acquire);

	return chunk ? &chunk[slot & (PL_CHUNK_SLOTS - 1)] : NULL;
}

static struct pl_count *chunk_new(struct pl_thread *t, uint32_t slot)
{
	struct pl_count *chunk = chunk_of(t, slot);

	if (chunk)
		return chunk;
	chunk = pl_sys_alloc(PL_CHUNK_SLOTS * sizeof(*chunk));
	if (!chunk)
		return NULL;
	atomic_store_explicit(&t->chunk[slot >> PL_CHUNK_SHIFT], chunk, memory_order_release);
	return &chunk[slot & (PL_CHUNK_SLOTS - 1)];
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
	struct pl_count *from, *to;
	uint32_t i, slot;

	pthread_mutex_lock(&all.lock);
	for (i = 0; i < PL_CHUNKS; i++) {
		from = atomic_load_explicit(&self->chunk[i], memory_order_relaxed);
		if (!from)
			continue;
		for (slot = i << PL_CHUNK_SHIFT; slot < (i + 1) << PL_CHUNK_SHIFT; slot++, from++) {
			/* Exists: made when the slot was handed out. */
			to = chunk_of(&all.threads, slot);
			if (!to)
				continue;
			count_add(&to->begin, atomic_load_explicit(&from->begin, memory_order_relaxed));
			count_add(&to->end, atomic_load_explicit(&from->end, memory_order_relaxed));
		}
	}
	self->prev->next = self->next;
	self->next->prev = self->prev;
	pthread_mutex_unlock(&all.lock);
	for (i = 0; i < PL_CHUNKS; i++)
		pl_sys_free(atomic_load_explicit(&self->chunk[i], memory_order_relaxed));
	pl_sys_free(self);
	pl_thread_self = &no_thread;
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
	self->next = &all.threads;
	self->prev = all.threads.prev;
	self->prev->next = self;
	all.threads.prev = self;
	pthread_mutex_unlock(&all.lock);
	pl_thread_self = self;
	return 0;
}

/* This thread's counter, made at its first use. */
static struct pl_count *count_make(uint32_t slot)
{
	if (pl_thread_self == &no_thread && thread_new())
		return NULL;
	return chunk_new(pl_thread_self, slot);
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
	count_add(&c->end, n);
	atomic_thread_fence(memory_order_seq_cst);
	if (pl_word_state(w0) == PINLEASE_ACTIVE &&
	    atomic_load_explicit(&a->word, memory_order_relaxed) == w0)
		return 0;
	return -EALREADY;
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
		r = chunk_new(&all.threads, *slot) ? 0 : -ENOMEM;
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
		c = chunk_of(t, slot);
		if (c)
			ends += atomic_load_explicit(&c->end, memory_order_acquire);
		t = t->next;
	} while (t != &all.threads);
	do {
		c = chunk_of(t, slot);
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
	count_add(&chunk_of(&all.threads, slot)->end, slot_sum_locked(slot));
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
	count_add(&chunk_of(&all.threads, r ? r->slot : pl_word_slot(w))->end, n);
	pthread_mutex_unlock(&all.lock);
}

uint32_t pl_account_begun(struct pl_account *a)
{
	uint32_t slot = pl_word_slot(word_of(a)), begins = 0;
	struct pl_thread *t = &all.threads;
	struct pl_count *c;

	pthread_mutex_lock(&all.lock);
	do {
		c = chunk_of(t, slot);
		if (c)
			begins += atomic_load_explicit(&c->begin, memory_order_acquire);
		t = t->next;
	} while (t != &all.threads);
	pthread_mutex_unlock(&all.lock);
	return begins;
}

/* fork child: a chunk with a slot of the parent's in it is taken, whole; any other one starts at nought. */
static void chunk_forked(uint32_t i)
{
	struct pl_count *chunk = atomic_load_explicit(&all.threads.chunk[i], memory_order_relaxed);
	uint64_t *used = &all.used[i * (PL_CHUNK_SLOTS / 64)];

	if (used[0] | used[1] | used[2] | used[3])
		memset(used, 0xff, PL_CHUNK_SLOTS / 8);
	else if (chunk)
		memset((void *)chunk, 0, PL_CHUNK_SLOTS * sizeof(*chunk));
}

/*
 * Nothing of the parent's is counted here. This thread's counters go, so a begin of an
 * inherited lease, ACTIVE for ever, comes to its first use, where the fork is noticed; a
 * lease of the child's in the same chunk would make counters that let it be granted.
 */
void pl_account_forked(void)
{
	uint32_t i;

	_Static_assert(PL_CHUNK_SLOTS == 4 * 64, "chunk_forked looks at four words");
	pthread_mutex_init(&all.lock, NULL);
	all.threads.next = all.threads.prev = &all.threads;
	for (i = 0; i < PL_CHUNKS; i++)
		chunk_forked(i);
	pthread_setspecific(all.key, NULL);
	pl_thread_self = &no_thread;
}
