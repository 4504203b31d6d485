/* SPDX-License-Identifier: BSD-3-Clause */
/* What pinlease_ctx_stats and pinlease_file_info say of breaks whose outcome and length are known. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <string.h>

#include "objects.h"
#include "world.h"

static const struct pinlease_opts automatic = { .flags = 0 };

static struct pinlease_ctx_stats stats(struct world *w)
{
	struct pinlease_ctx_stats s = { .size = sizeof(s) };

	assert_int_equal(pinlease_ctx_stats(w->ctx, &s), 0);
	return s;
}

static struct pinlease_file_info info(struct world *w)
{
	struct pinlease_file_info i = { .size = sizeof(i) };

	assert_int_equal(pinlease_file_info(w->file, &i), 0);
	return i;
}

static uint64_t hist_sum(const struct pinlease_ctx_stats *s)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < PINLEASE_STATS_BUCKETS; i++)
		sum += s->break_hist[i];
	return sum;
}

/* An idle lease: broken, let go at once, restored. */
static void test_idle(struct world *w)
{
	struct pinlease_ctx_stats s;
	struct pinlease_file_info i;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, 4 * SIM_PAGE, &automatic);
	world_lease(w, 8 * SIM_PAGE, 4 * SIM_PAGE, &automatic);
	s = stats(w);
	assert_int_equal(s.files, 1);
	assert_int_equal(s.leases, 2);
	assert_int_equal(s.acquired, 2);
	assert_int_equal(s.answered, 0);
	i = info(w);
	assert_int_equal(i.state, PINLEASE_FILE_HELD);
	assert_int_equal(i.guard, PINLEASE_GUARD_LEASE);
	assert_int_equal(i.access, PINLEASE_WRITE);
	assert_int_equal(i.leases, 2);
	assert_int_equal(i.anchored, 1);
	assert_int_equal(i.fd, sim_lease_fd(w->path));
	assert_int_equal(i.breaks + i.cause, 0);
	world_opener_in(sim_open(w->path, O_RDONLY), SIM_S);
	world_reach(w->lease[0], PINLEASE_ACTIVE);
	world_reach(w->lease[1], PINLEASE_ACTIVE);
	s = stats(w);
	assert_int_equal(s.answered, 1);
	assert_int_equal(s.expired, 0);
	assert_int_equal(s.events[PINLEASE_EV_BREAK], 2);
	assert_int_equal(s.events[PINLEASE_EV_REVOKED], 2);
	assert_int_equal(s.events[PINLEASE_EV_RESTORED], 2);
	assert_int_equal(s.events[PINLEASE_EV_LOST], 0);
	assert_int_equal(hist_sum(&s), 1);
	assert_int_equal(info(w).breaks, 1);
	assert_int_equal(info(w).cause, PINLEASE_BY_READER);
	assert_int_equal(pinlease_release(w->lease[0]), 0);
	world_forget(w, w->lease[0]);
	assert_int_equal(stats(w).leases, 1);
	assert_int_equal(stats(w).released, 1);
	/* A release breaks nothing. */
	assert_int_equal(stats(w).events[PINLEASE_EV_BREAK], 2);
	world_close(w);
}

/* An operation that ends after 100 ms: the break takes as long, and is counted where it belongs. */
static void test_length(struct world *w)
{
	struct pinlease_ctx_stats s;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, &automatic);
	gen = world_begin(w->lease[0], 3);
	o = sim_open(w->path, O_RDWR);
	sim_sleep(100 * SIM_MS);
	assert_int_equal(info(w).state, PINLEASE_FILE_BREAKING);
	assert_int_equal(info(w).cause, PINLEASE_BY_WRITER);
	pinlease_dma_end(w->lease[0], 3, gen);
	world_opener_in(o, 101 * SIM_MS);
	s = stats(w);
	assert_in_range(s.break_ns_max, 99 * SIM_MS, 101 * SIM_MS);
	assert_int_equal(s.break_ns_sum, s.break_ns_max);
	/* 2^16 us < 100 ms < 2^17 us. */
	assert_int_equal(s.break_hist[17], 1);
	assert_int_equal(hist_sum(&s), 1);
	assert_int_equal(s.cut_off, 0);
	world_close(w);
}

/* Operations that never end are cut off at the deadline. */
static void test_cut_off(struct world *w)
{
	struct pinlease_opts o = { .deadline_ms = 1000 };
	struct pinlease_ctx_stats s;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, &o);
	gen = world_begin(w->lease[0], 7);
	world_opener_in(sim_open(w->path, O_RDWR), 2 * SIM_S);
	s = stats(w);
	assert_int_equal(s.cut_off, 7);
	assert_int_equal(s.break_hist[20], 1);
	pinlease_dma_end(w->lease[0], 7, gen);
	world_close(w);
}

/* Stopped past lease-break-time: the kernel has let the opener on. */
static void test_expired(struct world *w)
{
	struct pinlease_opts o = { .flags = PINLEASE_L_MANUAL };
	struct pinlease_ctx_stats s;
	struct sim_opener *opener;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, &o);
	sim_stop();
	opener = sim_open(w->path, O_RDWR);
	sim_sleep((SIM_BREAK_TIME_S + 1) * SIM_S);
	sim_continue();
	world_reach(w->lease[0], PINLEASE_LOST);
	assert_true(sim_opener_expired(opener));
	sim_opener_end(opener);
	s = stats(w);
	assert_int_equal(s.expired, 1);
	assert_int_equal(s.answered, 1);
	assert_int_equal(s.events[PINLEASE_EV_LOST], 1);
	assert_int_equal(s.events[PINLEASE_EV_REVOKED], 0);
	world_close(w);
}

/* The bounds of the histogram, and what comes together from several threads. */
static void test_buckets(struct world *w)
{
	static const struct {
		uint64_t ns;
		unsigned int bucket;
	} of[] = {
		{ 0, 0 },
		{ 999, 0 },
		{ 1000, 1 },
		{ 1999, 1 },
		{ 2000, 2 },
		{ 3999, 2 },
		{ 4000, 3 },
		{ 1024000, 11 },
		{ 1023999, 10 },
		{ UINT64_MAX, PINLEASE_STATS_BUCKETS - 1 },
		{ 1000ull << 30, PINLEASE_STATS_BUCKETS - 1 },
		{ (1000ull << 30) - 1, 30 },
	};
	struct pl_stats s;
	size_t i;

	(void)w;
	for (i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		memset(&s, 0, sizeof(s));
		pl_stats_break(&s, of[i].ns, false);
		assert_int_equal(s.break_hist[of[i].bucket], 1);
		assert_int_equal(s.break_ns_max, of[i].ns);
	}
}

static void test_input(struct world *w)
{
	struct pinlease_ctx_stats s = { .size = sizeof(s) };
	struct pinlease_file_info i = { .size = sizeof(i) };

	world_open(w, PINLEASE_READ);
	assert_int_equal(pinlease_ctx_stats(NULL, &s), -EINVAL);
	assert_int_equal(pinlease_ctx_stats(w->ctx, NULL), -EINVAL);
	assert_int_equal(pinlease_file_info(NULL, &i), -EINVAL);
	assert_int_equal(pinlease_file_info(w->file, NULL), -EINVAL);
	s.size = i.size = 8;
	assert_int_equal(pinlease_ctx_stats(w->ctx, &s), -EINVAL);
	assert_int_equal(pinlease_file_info(w->file, &i), -EINVAL);
	assert_int_equal(info(w).access, PINLEASE_READ);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_idle),	  world_test(test_length),  world_test(test_cut_off),
		world_test(test_expired), world_test(test_buckets), world_test(test_input),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
