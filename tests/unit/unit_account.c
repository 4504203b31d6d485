/* SPDX-License-Identifier: BSD-3-Clause */
/* The account of DMA: what it counts, and what happens to late ends, slots and threads. */
#include "account.h"
#include "forkguard.h"
#include "sys.h"
#include "unit.h"

static int setup_group(void **state)
{
	(void)state;
	return pl_account_setup() || pl_forkguard_setup();
}

static int setup(void **state)
{
	struct pl_account *a = calloc(1, sizeof(*a));
	int r = pl_account_init(a);

	*state = a;
	if (!r)
		pl_account_set_state(a, PINLEASE_ACTIVE);
	return r;
}

static int teardown(void **state)
{
	pl_account_fini(*state);
	free(*state);
	return 0;
}

/* As pinlease_dma_begin and _end call them. */
static int begin(struct pl_account *a, uint32_t n, uint32_t *gen)
{
	int r = pl_account_begin_fast(a, n, gen);

	return !r || r == -EALREADY ? r : pl_account_begin(a, n, gen);
}

static int end(struct pl_account *a, uint32_t n, uint32_t gen)
{
	int r = pl_account_end_fast(a, n, gen);

	return !r || r == -EALREADY ? r : pl_account_end(a, n, gen);
}

static void stop(struct pl_account *a)
{
	pl_account_set_state(a, PINLEASE_BREAKING);
	pl_account_barrier();
}

static void counts_and_refuses(void **state)
{
	struct pl_account *a = *state;
	uint32_t gen = 0, before = pl_account_begun(a);

	assert_int_equal(begin(a, 3, &gen), 0);
	assert_int_equal(gen, 1);
	assert_int_equal(pl_account_in_flight(a), 3);
	assert_int_equal(end(a, 1, gen), 0);
	assert_int_equal(pl_account_in_flight(a), 2);
	stop(a);
	gen = 99;
	assert_int_equal(begin(a, 1, &gen), -EAGAIN);
	assert_int_equal(gen, 99);
	/* The last one has to say so: somebody waits. Till it has, the account is not to be freed. */
	assert_false(pl_account_is_ending(a));
	assert_int_equal(end(a, 2, 1), -EALREADY);
	assert_int_equal(pl_account_in_flight(a), 0);
	assert_true(pl_account_is_ending(a));
	pl_account_ended();
	assert_false(pl_account_is_ending(a));
	assert_int_equal(pl_account_begun(a) - before, 3);
}

static void every_state_but_active_refuses(void **state)
{
	struct pl_account *a = *state;
	uint32_t gen;
	int s;

	for (s = PINLEASE_INIT; s <= PINLEASE_CLOSED; s++) {
		pl_account_set_state(a, (enum pinlease_state)s);
		assert_int_equal(pl_account_state(a), s);
		assert_int_equal(begin(a, 1, &gen), s == PINLEASE_ACTIVE ? 0 : -EAGAIN);
	}
	assert_int_equal(pl_account_in_flight(a), 1);
}

/* Two generations fenced with operations left: each keeps its own account, the third starts clean. */
static void late_ends_pay_their_own_generation(void **state)
{
	struct pl_account *a = *state;
	uint32_t g1, g2, g3;

	assert_int_equal(begin(a, 2, &g1), 0);
	stop(a);
	assert_int_equal(pl_account_next_gen(a), 0);
	pl_account_set_state(a, PINLEASE_ACTIVE);
	assert_int_equal(begin(a, 5, &g2), 0);
	stop(a);
	assert_int_equal(pl_account_next_gen(a), 0);
	pl_account_set_state(a, PINLEASE_ACTIVE);
	assert_int_equal(begin(a, 1, &g3), 0);
	assert_true(g1 == 1 && g2 == 2 && g3 == 3);
	assert_true(pl_account_in_flight(a) == 1 && pl_account_late(a) == 7);
	assert_int_equal(end(a, 2, g1), -ESTALE);
	assert_true(pl_account_in_flight(a) == 1 && pl_account_late(a) == 7);
	pl_account_end_late(a, 2, g1);
	assert_true(pl_account_in_flight(a) == 1 && pl_account_late(a) == 5);
	pl_account_end_late(a, 4, g2);
	assert_true(pl_account_in_flight(a) == 1 && pl_account_late(a) == 1);
	/* Of generations that nobody remembers, or that never were: nothing is disturbed. */
	pl_account_end_late(a, 1, 0);
	pl_account_end_late(a, 1, 77);
	assert_true(pl_account_in_flight(a) == 1 && pl_account_late(a) == 1);
	assert_int_equal(end(a, 1, g3), 0);
}

/* Nothing left in flight: the slot is kept, no matter how many generations. */
static void clean_generations_keep_the_slot(void **state)
{
	struct pl_account *a = *state;
	uint32_t slot = pl_word_slot(a->word), i, gen;

	for (i = 1; i < 1000; i++) {
		assert_int_equal(begin(a, 1, &gen), 0);
		assert_int_equal(gen, i);
		assert_int_equal(end(a, 1, gen), 0);
		stop(a);
		assert_int_equal(pl_account_next_gen(a), 0);
		assert_int_equal(pl_account_state(a), PINLEASE_BREAKING);
		pl_account_set_state(a, PINLEASE_ACTIVE);
	}
	assert_int_equal(pl_word_slot(a->word), slot);
	assert_null(a->retired);
}

/* An account that is over with operations in flight leaves its slot clean for the next user. */
static void slots_are_handed_on_clean(void **state)
{
	struct pl_account *a = *state, b;
	uint32_t slot = 0, gen, round;

	(void)a;
	for (round = 0; round < 10; round++) {
		assert_int_equal(pl_account_init(&b), 0);
		assert_true(!round || pl_word_slot(b.word) == slot);
		slot = pl_word_slot(b.word);
		assert_int_equal(pl_account_in_flight(&b), 0);
		pl_account_set_state(&b, PINLEASE_ACTIVE);
		assert_int_equal(begin(&b, round + 1, &gen), 0);
		pl_account_fini(&b);
	}
}

/* Retired slots come back too, once their last operation has ended. */
static void retired_slots_come_back(void **state)
{
	struct pl_account *a = *state;
	uint32_t gen, slot, i;

	assert_int_equal(begin(a, 1, &gen), 0);
	slot = pl_word_slot(a->word);
	stop(a);
	assert_int_equal(pl_account_next_gen(a), 0);
	assert_true(pl_word_slot(a->word) != slot);
	pl_account_end_late(a, 1, gen);
	assert_int_equal(pl_account_late(a), 0);
	for (i = 0; i < 2; i++) {
		pl_account_set_state(a, PINLEASE_ACTIVE);
		assert_int_equal(begin(a, 1, &gen), 0);
		stop(a);
		assert_int_equal(pl_account_next_gen(a), 0);
		pl_account_end_late(a, 1, gen);
	}
	assert_int_equal(pl_account_next_gen(a), 0);
	assert_null(a->retired);
}

static void counters_wrap_around(void **state)
{
	struct pl_account *a = *state;
	uint32_t gen;
	int i;

	for (i = 0; i < 5; i++) {
		assert_int_equal(begin(a, UINT32_MAX - 5, &gen), 0);
		assert_int_equal(begin(a, 2, &gen), 0);
		assert_int_equal(pl_account_in_flight(a), UINT32_MAX - 3);
		assert_int_equal(end(a, UINT32_MAX - 3, gen), 0);
		assert_int_equal(pl_account_in_flight(a), 0);
	}
}

static void every_slot_and_no_more(void **state)
{
	struct pl_account *many = calloc(PL_SLOTS, sizeof(*many)), extra;
	uint32_t i, gen;

	(void)state;
	assert_non_null(many);
	/* One is the scene's. */
	for (i = 0; i < PL_SLOTS - 1; i++)
		if (pl_account_init(&many[i]))
			fail();
	assert_int_equal(pl_account_init(&extra), -ENOSPC);
	pl_account_set_state(&many[i - 1], PINLEASE_ACTIVE);
	assert_int_equal(begin(&many[i - 1], 1, &gen), 0);
	assert_int_equal(pl_account_in_flight(&many[i - 1]), 1);
	pl_account_fini(&many[17]);
	assert_int_equal(pl_account_init(&many[17]), 0);
	while (i)
		pl_account_fini(&many[--i]);
	free(many);
}

static void *begin_three(void *arg)
{
	uint32_t gen;

	begin(arg, 3, &gen);
	return NULL;
}

static void *end_two(void *arg)
{
	end(arg, 2, 1);
	return NULL;
}

static void in_a_thread(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	assert_int_equal(pl_sys_thread_new(fn, arg, "account", &thread), 0);
	pl_sys_thread_join(thread);
}

/* A thread that has exited still has begun what it began, and another may end it. */
static void counts_outlive_their_thread(void **state)
{
	struct pl_account *a = *state;
	uint32_t before = pl_account_begun(a);

	in_a_thread(begin_three, a);
	in_a_thread(begin_three, a);
	assert_int_equal(pl_account_in_flight(a), 6);
	assert_int_equal(pl_account_begun(a) - before, 6);
	in_a_thread(end_two, a);
	assert_int_equal(pl_account_in_flight(a), 4);
	assert_int_equal(end(a, 4, 1), 0);
	assert_int_equal(pl_account_in_flight(a), 0);
}

/* In the child only the forking thread is left, with what it had counted; accounts can be made and used. */
static void a_child_counts_for_itself(void **state)
{
	struct pl_account *a = *state, b;
	uint32_t gen;
	pid_t pid;

	assert_int_equal(begin(a, 2, &gen), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		bool ok = !pl_account_init(&b);

		pl_account_set_state(&b, PINLEASE_ACTIVE);
		ok = ok && !begin(&b, 1, &gen) && pl_account_in_flight(&b) == 1;
		/* What was inherited has no counters here, so that the fork is noticed. */
		ok = ok && pl_account_begin_fast(a, 1, &gen) == -EAGAIN;
		ok = ok && end(&b, 1, gen) == 0 && !pl_account_in_flight(&b);
		pl_account_fini(&b);
		_exit(!ok);
	}
	assert_int_equal(unit_wait_child(pid), 0);
	assert_int_equal(pl_account_in_flight(a), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(counts_and_refuses),
		TEST(every_state_but_active_refuses),
		TEST(late_ends_pay_their_own_generation),
		TEST(clean_generations_keep_the_slot),
		TEST(slots_are_handed_on_clean),
		TEST(retired_slots_come_back),
		TEST(counters_wrap_around),
		TEST(every_slot_and_no_more),
		TEST(counts_outlive_their_thread),
		TEST(a_child_counts_for_itself),
	};

	return cmocka_run_group_tests(tests, setup_group, NULL);
}
