/* SPDX-License-Identifier: BSD-3-Clause */
/* No more is leased than can be written back in time, on a disk that is slower than the page cache. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <unistd.h>

#include "world.h"

#define MIB	 (1u << 20)
#define FILE_MIB 16u
#define CACHE	 (1ull << 40) /* all that is ever written fits into the page cache */

static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED, .flags = PINLEASE_L_MANUAL };
static const struct pinlease_opts told = { .mode = PINLEASE_MODE_STAGED,
					   .flags = PINLEASE_L_DIRTY_TOLD | PINLEASE_L_MANUAL };

static void open_big(struct world *w, unsigned int seconds)
{
	sim_break_time(seconds);
	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, FILE_MIB * MIB), 0);
}

static struct pinlease *may_lease(struct world *w, uint64_t off, uint64_t mib,
				  const struct pinlease_opts *o)
{
	return world_lease(w, off * MIB, mib * MIB, o);
}

static void may_not_lease(struct world *w, uint64_t off, uint64_t mib, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;

	assert_int_equal(world_acquire(w, off * MIB, mib * MIB, o, &why, &lease), -EFBIG);
	assert_int_equal(why.reason, PINLEASE_WHY_BUDGET);
	assert_int_equal(why.stage, PINLEASE_AT_CHECK);
	assert_null(lease);
}

static void let_go(struct world *w, struct pinlease *lease)
{
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
}

/* Half a second of the two is for writing back. pwrite is done in no time, so only what is synced counts. */
static void test_refused(struct world *w)
{
	struct pinlease *lease;

	sim_disk(10 * MIB, CACHE);
	open_big(w, 2);
	may_not_lease(w, 0, FILE_MIB, &staged);
	assert_int_equal(sim_calls("datasync"), 2);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	lease = may_lease(w, 0, 4, &staged);
	/* All leases of the disk have to be written back by then. */
	may_not_lease(w, 8, 1, &staged);
	let_go(w, lease);
	may_lease(w, 8, 2, &staged);
	may_lease(w, 0, 2, &staged);
	may_not_lease(w, 4, 1, &staged);
	world_close(w);
}

static void test_who_is_not_bound(struct world *w)
{
	const struct pinlease_opts read = { .mode = PINLEASE_MODE_STAGED, .access = PINLEASE_READ };

	sim_disk(MIB, CACHE);
	open_big(w, 0);
	let_go(w, may_lease(w, 0, FILE_MIB, &staged));
	let_go(w, may_lease(w, 0, FILE_MIB, &read));
	let_go(w, may_lease(w, 0, FILE_MIB, NULL));
	assert_int_equal(sim_calls("datasync"), 0);
	world_close(w);
}

/* On a disk that is fast enough the question costs two MiB, and is asked once. */
static void test_asked_once(struct world *w)
{
	sim_disk(100 * MIB, CACHE);
	open_big(w, 2);
	let_go(w, may_lease(w, 0, FILE_MIB, &staged));
	assert_int_equal(sim_calls("datasync"), 2);
	may_lease(w, 0, FILE_MIB, &staged);
	assert_int_equal(sim_calls("datasync"), 2);
	assert_true(sim_filled(world_view(w->lease[w->leases - 1]).addr, WORLD_SIZE, 1));
	world_close(w);
}

/* What the file system has shown with real data counts, too. */
static void test_learned_by_sync(struct world *w)
{
	struct pinlease *lease;

	sim_disk(4 * MIB, CACHE);
	open_big(w, 2);
	lease = may_lease(w, 0, 4, &staged);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	let_go(w, lease);
	may_not_lease(w, 0, 4, &staged);
	may_lease(w, 0, 1, &staged);
	world_close(w);
}

static void test_question_fails(struct world *w)
{
	const struct {
		const char *call;
		int err;
		uint32_t reason;
	} cases[] = { { "pread", -EIO, PINLEASE_WHY_IO },
		      { "pwrite", -ENOSPC, PINLEASE_WHY_NO_SPACE },
		      { "datasync", -EIO, PINLEASE_WHY_IO },
		      { "datasync", -EDQUOT, PINLEASE_WHY_NO_SPACE } };
	struct pinlease_why why;
	struct pinlease *lease;
	unsigned int i;

	sim_disk(100 * MIB, CACHE);
	open_big(w, 2);
	for (i = 0; i < 4; i++) {
		sim_fail(cases[i].call, 1 + i / 3, cases[i].err, 1);
		assert_int_equal(world_acquire(w, 0, FILE_MIB * MIB, &staged, &why, &lease), cases[i].err);
		assert_int_equal(why.reason, cases[i].reason);
	}
	may_lease(w, 0, FILE_MIB, &staged);
	world_close(w);
}

/* The largest lease that is granted is written back in time, whatever is in flight until the deadline. */
static void granted_is_kept(struct world *w, uint64_t rate, unsigned int seconds, uint32_t deadline_ms)
{
	struct pinlease_opts o = staged;
	struct pinlease_why why;
	struct pinlease *lease;
	struct sim_opener *op;
	uint64_t pages;
	uint32_t gen;

	o.deadline_ms = deadline_ms;
	sim_disk(rate, CACHE);
	open_big(w, seconds);
	for (pages = FILE_MIB * MIB / SIM_PAGE;; pages -= 16) {
		assert_true(pages > 16);
		if (!world_acquire(w, 0, pages * SIM_PAGE, &o, &why, &lease))
			break;
		assert_int_equal(why.reason, PINLEASE_WHY_BUDGET);
	}
	/* It must be about what the time is enough for. */
	assert_in_range(pages * SIM_PAGE, rate / 8, FILE_MIB * MIB - 1);
	world_write(lease, 0, (uint32_t)(pages * SIM_PAGE), 40);
	gen = world_begin(lease, 1);
	/* From now on everybody else has filled the page cache. */
	sim_disk(rate, 0);
	op = sim_open(w->path, O_RDWR);
	world_opener_in(op, seconds * SIM_S);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 1);
	pinlease_dma_end(lease, 1, gen);
	sim_disk(0, 0);
	assert_true(sim_file_is(w->path, 0, pages * SIM_PAGE, 40));
	world_close(w);
}

static void test_granted_is_kept(struct world *w)
{
	granted_is_kept(w, 10 * MIB, 2, 0);
	granted_is_kept(w, 9 * MIB, 2, 200);
	granted_is_kept(w, 12 * MIB, 2, 60000);
	granted_is_kept(w, 20 * MIB, 1, 100);
}

/* Of 4 MiB, half. */
static void test_flusher(struct world *w)
{
	struct pinlease *lease;

	open_big(w, 2);
	lease = may_lease(w, 0, FILE_MIB, &told);
	world_write_told(lease, MIB, MIB, 41);
	sim_sleep(5 * SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, MIB);
	world_write_told(lease, 8 * MIB, 2 * MIB, 42);
	sim_sleep(SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	assert_true(sim_file_is(w->path, MIB, MIB, 41));
	assert_true(sim_file_is(w->path, 8 * MIB, 2 * MIB, 42));
	assert_int_equal(sim_written(), 3 * MIB);
	/* It is in the file, and not on the disk: a failure is this lease's. */
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -EIO);
	assert_int_equal(world_info(lease).dirty_bytes, 3 * MIB);
	world_close(w);
}

/* With an hour there is nothing to flush; the sysctl is lowered, and from then on there is. */
static void test_break_time_changes(struct world *w)
{
	struct pinlease *lease;

	open_big(w, 3600);
	lease = may_lease(w, 0, FILE_MIB, &told);
	world_write_told(lease, 0, 10 * MIB, 43);
	sim_sleep(5 * SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, 10 * MIB);
	sim_break_time(2);
	sim_sleep(2 * SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	sim_break_time(0);
	sim_sleep(SIM_S);
	world_write_told(lease, 0, 10 * MIB, 44);
	sim_sleep(5 * SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, 10 * MIB);
	world_close(w);
}

/* Operations that never pause keep everything dirty: it is written all the same, but not all the time. */
static void test_flusher_rests(struct world *w)
{
	struct pinlease *lease;
	uint64_t before;
	uint32_t gen;

	open_big(w, 2);
	sim_disk(4 * MIB, 0);
	lease = may_lease(w, 0, FILE_MIB, &told);
	gen = world_begin(lease, 1);
	world_write_told(lease, 0, 4 * MIB, 45);
	before = sim_written();
	sim_sleep(60 * SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, 4 * MIB);
	assert_in_range(sim_written() - before, 8 * MIB, 60 * 4 * MIB / 4);
	pinlease_dma_end(lease, 1, gen);
	sim_sleep(20 * SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	world_close(w);
}

/* It meets a full disk: the data is dirty still, and the sync that comes says so, or succeeds. */
static void test_flusher_fails(struct world *w)
{
	struct pinlease *lease;

	open_big(w, 2);
	lease = may_lease(w, 0, FILE_MIB, &told);
	world_write_told(lease, 0, 5 * MIB, 46);
	sim_fail("pwrite", 1, -ENOSPC, 0);
	sim_sleep(3 * SIM_S);
	assert_int_equal(world_info(lease).dirty_bytes, 5 * MIB);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -ENOSPC);
	sim_clear();
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, 0, 5 * MIB, 46));
	world_close(w);
}

/* A break waits for the piece that is being written, and a release for no more. */
static void flusher_beside(struct world *w, bool release)
{
	struct pinlease *lease;
	uint64_t before;

	open_big(w, 3);
	lease = may_lease(w, 0, FILE_MIB, &told);
	sim_disk(8 * MIB, 0);
	world_write_told(lease, 0, 8 * MIB, 47);
	while (!sim_written())
		sim_sleep(10 * SIM_MS);
	sim_sleep(200 * SIM_MS);
	assert_in_range(sim_written(), MIB, 7 * MIB);
	before = sim_now();
	if (release)
		let_go(w, lease);
	else
		world_opener_in(sim_open(w->path, O_RDWR), SIM_S);
	assert_in_range(sim_now() - before, 100 * SIM_MS, SIM_S);
	assert_int_equal(sim_written(), 8 * MIB);
	assert_true(sim_file_is(w->path, 0, 8 * MIB, 47));
	world_close(w);
}

static void test_flusher_beside_break(struct world *w)
{
	flusher_beside(w, false);
}

static void test_flusher_beside_release(struct world *w)
{
	flusher_beside(w, true);
}

#define FILES 4

/* However many files are flushed, and however slowly, a worker is free for a break. */
static void test_flushers_leave_workers(struct world *w)
{
	const char *names[FILES] = { "a", "b", "c", "d" };
	struct pinlease_opts o = { .size = sizeof(o), .mode = PINLEASE_MODE_STAGED };
	struct pinlease_file *file[FILES];
	struct pinlease *lease[FILES];
	struct pinlease *idle;
	unsigned int i;

	sim_break_time(2);
	world_open(w, PINLEASE_WRITE);
	idle = world_lease(w, 0, SIM_PAGE, &staged);
	o.flags = PINLEASE_L_DIRTY_TOLD;
	o.pd = w->pd;
	o.ibv_access = IBV_ACCESS_REMOTE_WRITE;
	for (i = 0; i < FILES; i++) {
		assert_int_equal(pinlease_file_open(w->ctx, sim_file(names[i], 4 * MIB), NULL, NULL,
						    &file[i]), 0);
		assert_int_equal(pinlease_acquire(file[i], 0, 4 * MIB, &o, NULL, &lease[i]), 0);
		world_write_told(lease[i], 0, 4 * MIB, 48);
	}
	sim_slow("pwrite", 100 * SIM_MS);
	while (!sim_written())
		sim_sleep(10 * SIM_MS);
	sim_sleep(SIM_S);
	/* Its own page, and the piece that the others may be at. */
	world_opener_in(sim_open(w->path, O_RDWR), 150 * SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(pinlease_release(idle), 0);
	world_forget(w, idle);
	/* All of them come to it. */
	sim_slow("pwrite", 0);
	sim_sleep(20 * SIM_S);
	for (i = 0; i < FILES; i++) {
		assert_int_equal(world_info(lease[i]).dirty_bytes, 0);
		assert_int_equal(pinlease_release(lease[i]), 0);
		assert_int_equal(pinlease_file_close(file[i]), 0);
	}
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_refused),
		world_test(test_who_is_not_bound),
		world_test(test_asked_once),
		world_test(test_learned_by_sync),
		world_test(test_question_fails),
		world_test(test_granted_is_kept),
		world_test(test_flusher),
		world_test(test_break_time_changes),
		world_test(test_flusher_rests),
		world_test(test_flusher_fails),
		world_test(test_flusher_beside_break),
		world_test(test_flusher_beside_release),
		world_test(test_flushers_leave_workers),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
