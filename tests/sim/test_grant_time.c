/* SPDX-License-Identifier: BSD-3-Clause */
/* Grants and time: what of a deadline is left for a peer, and what those cost that never return. */
#include <fcntl.h>

#include "pair.h"

static const struct pinlease_opts plain = { .flags = PINLEASE_L_MANUAL };

/* The milliseconds that a RECALL gives its peer. */
static uint32_t left(struct pair *p)
{
	pair_recall(p);
	return pair_buf[32] | (uint32_t)pair_buf[33] << 8 | (uint32_t)pair_buf[34] << 16 |
	       (uint32_t)pair_buf[35] << 24;
}

/* Whoever is told later has less: the deadline is the break's, and not begun anew for each peer. */
static void test_share_of_the_deadline(struct world *w)
{
	struct pinlease_opts o = plain;
	struct pinlease *lease;
	struct sim_opener *op;
	struct pair p[4];
	unsigned int i;

	o.deadline_ms = 500;
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	for (i = 0; i < 4; i++)
		p[i] = pair_new(lease, 0, 0);
	op = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	assert_in_range(left(&p[0]), 490, 500);
	sim_sleep(300 * SIM_MS);
	assert_in_range(left(&p[1]), 190, 200);
	sim_sleep(190 * SIM_MS);
	assert_in_range(left(&p[2]), 0, 10);
	assert_false(sim_opener_done(op));
	sim_sleep(50 * SIM_MS);
	world_opener_in(op, 510 * SIM_MS);
	assert_int_equal(left(&p[3]), 0);
	for (i = 0; i < 4; i++)
		pair_free(&p[i]);
	world_close(w);
}

/* No more is given than the kernel leaves: its lease-break-time is shorter than the deadline. */
static void test_share_of_the_break_time(struct world *w)
{
	struct pinlease_opts o = plain;
	struct sim_opener *op;
	struct pair a;

	o.deadline_ms = 30000;
	world_open(w, PINLEASE_WRITE);
	sim_break_time(3);
	sim_sleep(1000 * SIM_MS); /* read again by the slow pass */
	a = pair_new(world_lease(w, 0, WORLD_SIZE, &o), 0, 0);
	op = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	assert_in_range(left(&a), 1, 2999);
	assert_int_equal(pair_answer(&a), 0);
	world_opener_in(op, 10 * SIM_MS);
	pair_free(&a);
	world_close(w);
}

#define GONE  64u
#define LATER 10u

/* All are told what there is for them; messages that there were. */
static unsigned int tell_gone(struct pair *gone)
{
	unsigned int i, told = 0;
	int r;

	for (i = 0; i < GONE; i++)
		told += pair_tell(&gone[i], 0, &r) > 0;
	return told;
}

/* One break, at which alive returns at once. Answers how long its opener waited, in us. */
static uint64_t break_us(struct world *w, struct pinlease *lease, struct pair *alive, struct pair *gone,
			 unsigned int silent)
{
	uint64_t most = silent ? 510 * SIM_MS : SIM_MS, ns;
	struct sim_opener *o = sim_open(w->path, O_RDWR);
	int r;

	world_event(w, PINLEASE_EV_BREAK);
	pair_recall(alive);
	assert_int_equal(tell_gone(gone), silent);
	assert_int_equal(pair_answer(alive), 0);
	assert_true(sim_opener_wait(o, most + SIM_MS));
	ns = sim_opener_ns(o);
	sim_opener_end(o);
	assert_in_range(ns, 0, most);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, silent);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	world_event(w, PINLEASE_EV_RESTORED);
	assert_int_equal(pair_tell(alive, 0, &r), 64);
	assert_int_equal(tell_gone(gone), 0);
	/* Nobody else counts. */
	assert_int_equal(world_info(lease).in_flight, 1);
	return ns / 1000;
}

/* Of 64 peers every second one is known to be gone, the others are silent: one deadline in all. */
static void test_those_who_are_gone_cost_one_deadline(struct world *w)
{
	struct pinlease_opts o = plain;
	uint64_t first, longest = 0, us;
	struct pinlease *lease;
	struct pair alive, gone[GONE];
	unsigned int i;

	o.deadline_ms = 500;
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	alive = pair_new(lease, 0, 0);
	for (i = 0; i < GONE; i++) {
		gone[i] = pair_new(lease, 0, 0);
		if (i % 2)
			assert_int_equal(pinlease_grant_disconnected(gone[i].grant), 0);
	}
	assert_int_equal(world_info(lease).in_flight, 1 + GONE / 2);
	first = break_us(w, lease, &alive, gone, GONE / 2);
	assert_in_range(first, 490000, 510000);
	for (i = 0; i < LATER; i++) {
		us = break_us(w, lease, &alive, gone, 0);
		longest = us > longest ? us : longest;
	}
	print_message("%u peers gone: the first break took %llu us, the next %u at most %llu\n", GONE,
		      (unsigned long long)first, LATER, (unsigned long long)longest);
	pair_free(&alive);
	for (i = 0; i < GONE; i++)
		pair_free(&gone[i]);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_share_of_the_deadline),
		world_test(test_share_of_the_break_time),
		world_test(test_those_who_are_gone_cost_one_deadline),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
