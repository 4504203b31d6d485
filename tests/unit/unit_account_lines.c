/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * No cache line is written by two threads. 64 threads begin and end on the same 1,000
 * accounts, which stand in memory that is read-only meanwhile, so begin and end store to
 * nothing that threads share but the counters; and those of each thread stand on lines that
 * no other thread's do, also after they have been moved to grow, beside the sum.
 */
#include <pthread.h>
#include <signal.h>

#include "account.h"
#include "rounds.h"
#include "unit.h"

#define THREADS	 64
#define ACCOUNTS 1000
#define LINE	 64u

struct scene {
	struct pl_account *accounts;
	size_t bytes;
	pthread_barrier_t start, done;
	uint32_t rounds;
};

struct one {
	struct scene *s;
	pthread_t thread;
	uintptr_t from, end;		/* its counters, when it is through */
	uint32_t refused;
};

static void begin_and_end(struct one *o, struct pl_account *a)
{
	uint32_t gen;
	int r = pl_account_begin_fast(a, 1, &gen);

	/* The fast ones leave a thread's first use to the others, and all where there is no membarrier. */
	if (r)
		r = pl_account_begin(a, 1, &gen);
	if (!r) {
		r = pl_account_end_fast(a, 1, gen);
		if (r)
			r = pl_account_end(a, 1, gen);
	}
	o->refused += r != 0;
}

static void *one_main(void *arg)
{
	struct one *o = arg;
	uint32_t round, i;

	pthread_barrier_wait(&o->s->start);
	for (round = 0; round < o->s->rounds; round++)
		for (i = 0; i < ACCOUNTS; i++)
			begin_and_end(o, &o->s->accounts[i]);
	o->from = (uintptr_t)pl_counts_self.base;
	o->end = o->from + pl_counts_self.size;
	/* All at once: what a thread had is free again after it, for the next one. */
	pthread_barrier_wait(&o->s->done);
	return NULL;
}

static int by_place(const void *a, const void *b)
{
	const struct one *x = a, *y = b;

	return (x->from > y->from) - (x->from < y->from);
}

/* Ends are summed first: what begins meanwhile makes a sum too high, and nothing makes it negative. */
static void sums_while_they_run(struct scene *s)
{
	uint32_t i, n = 0;

	for (i = 0; i < ACCOUNTS; i++)
		n += pl_account_in_flight(&s->accounts[i]) > INT32_MAX;
	assert_int_equal(n, 0);
}

static void lines_are_of_one_thread(void **state)
{
	struct scene *s = *state;
	static struct one ones[THREADS];
	uint32_t i;

	assert_int_equal(mprotect(s->accounts, s->bytes, PROT_READ), 0);
	for (i = 0; i < THREADS; i++) {
		ones[i].s = s;
		assert_int_equal(pthread_create(&ones[i].thread, NULL, one_main, &ones[i]), 0);
	}
	pthread_barrier_wait(&s->start);
	sums_while_they_run(s);
	pthread_barrier_wait(&s->done);
	for (i = 0; i < THREADS; i++)
		pthread_join(ones[i].thread, NULL);
	qsort(ones, THREADS, sizeof(ones[0]), by_place);
	for (i = 0; i < THREADS; i++) {
		assert_int_equal(ones[i].refused, 0);
		assert_true(ones[i].end - ones[i].from >= ACCOUNTS * sizeof(struct pl_count));
		assert_true(ones[i].from % LINE == 0 && ones[i].end % LINE == 0);
		assert_true(!i || ones[i].from >= ones[i - 1].end);
	}
	for (i = 0; i < ACCOUNTS; i++) {
		assert_int_equal(pl_account_begun(&s->accounts[i]), THREADS * s->rounds);
		assert_int_equal(pl_account_in_flight(&s->accounts[i]), 0);
	}
}

/* Does the memory really refuse? */
static void read_only_is_noticed(void **state)
{
	struct scene *s = *state;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		mprotect(s->accounts, s->bytes, PROT_READ);
		pl_account_set_state(&s->accounts[0], PINLEASE_ACTIVE);
		_exit(0);
	}
	assert_true(unit_wait_child(pid) != 0);
}

static int setup(void **state)
{
	static struct scene s;
	uint32_t i;

	s.rounds = pl_rounds(PL_R_account_line_rounds);
	s.bytes = pl_round_up(ACCOUNTS * sizeof(*s.accounts), 4096);
	s.accounts = mmap(NULL, s.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s.accounts == MAP_FAILED || pl_account_setup())
		return -1;
	pthread_barrier_init(&s.start, NULL, THREADS + 1);
	pthread_barrier_init(&s.done, NULL, THREADS + 1);
	for (i = 0; i < ACCOUNTS; i++) {
		if (pl_account_init(&s.accounts[i]))
			return -1;
		pl_account_set_state(&s.accounts[i], PINLEASE_ACTIVE);
	}
	*state = &s;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_only_is_noticed),
		cmocka_unit_test(lines_are_of_one_thread),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
