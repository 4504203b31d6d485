/* SPDX-License-Identifier: BSD-3-Clause */
/* What a lease has and its file has not: said by range, and saved elsewhere. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <unistd.h>

#include "world.h"

#define MIB (1u << 20)

static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED };
static const struct pinlease_opts manual = { .mode = PINLEASE_MODE_STAGED,
					     .flags = PINLEASE_L_DIRTY_TOLD | PINLEASE_L_MANUAL };

struct saver {
	struct pinlease *lease;
	int fd, ret;
};

/* Without DIRTY_TOLD all may have been written: what failed, and what was not tried, is kept and saved. */
static void test_save_all_of_it(struct world *w)
{
	const char *saved = sim_file("saved", 0);
	struct pinlease *lease;
	int fd = open(saved, O_RDWR);

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, 4 * MIB), 0);
	lease = world_lease(w, 0, 4 * MIB, &staged);
	world_write(lease, 0, 4 * MIB, 28);
	assert_int_equal(pinlease_save(lease, fd), -EAGAIN);
	sim_fail("pwrite", 2, -ENOSPC, 1);
	assert_int_equal(world_sync(lease), -ENOSPC);
	assert_int_equal(pinlease_save(lease, fd), 0);
	assert_true(sim_file_is(saved, 0, 4 * MIB, 28));
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(lease), -EIO);
	assert_int_equal(truncate(saved, 0), 0);
	assert_int_equal(pinlease_save(lease, fd), 0);
	assert_true(sim_file_is(saved, 0, 4 * MIB, 28));
	assert_int_equal(world_sync(lease), 0);
	assert_true(sim_file_is(w->path, 0, 4 * MIB, 28));
	close(fd);
	world_close(w);
}

static void *save_slowly(void *arg)
{
	struct saver *s = arg;

	s->ret = pinlease_save(s->lease, s->fd);
	return NULL;
}

/* Where to is a slow disk: that holds up no opener of the leased file. */
static void test_save_beside_a_break(struct world *w)
{
	const char *saved = sim_file("saved", 0);
	struct saver s = { .ret = 1 };
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, 4 * MIB), 0);
	s.lease = world_lease(w, 0, 4 * MIB, &manual);
	s.fd = open(saved, O_RDWR);
	world_write_told(s.lease, 0, 4 * MIB, 29);
	sim_fail("pwrite", 1, -ENOSPC, 1);
	assert_int_equal(world_sync(s.lease), -ENOSPC);
	sim_slow("pwrite", 10 * SIM_S);
	t = sim_thread_start(save_slowly, &s);
	sim_sleep(SIM_S);
	sim_slow("pwrite", 0);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_S);
	sim_thread_join(t);
	assert_int_equal(s.ret, 0);
	assert_true(sim_file_is(w->path, 0, 4 * MIB, 29));
	close(s.fd);
	world_close(w);
}

static void next_is(struct pinlease *lease, uint64_t from, uint64_t want_off, uint64_t want_len)
{
	uint64_t off = 0, len = 0;

	assert_int_equal(pinlease_dirty_next(lease, from, &off, &len), 1);
	assert_int_equal(off, want_off);
	assert_int_equal(len, want_len);
}

/* What is missing, range by range, and the event says from where to where. */
static void test_ranges(struct world *w)
{
	uint64_t off = 7, len = 8;
	struct pinlease_event ev;
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, 9 * SIM_PAGE + 100), 0);
	lease = world_lease(w, 0, 9 * SIM_PAGE + 100, &manual);
	assert_int_equal(pinlease_dirty_next(lease, 0, &off, &len), -EAGAIN);
	assert_int_equal(pinlease_dirty_next(NULL, 0, &off, &len), -EINVAL);
	assert_int_equal(pinlease_dirty_next(lease, 0, NULL, &len), -EINVAL);
	world_write_told(lease, SIM_PAGE + 17, 1, 30);
	world_write_told(lease, 4 * SIM_PAGE, 2 * SIM_PAGE, 31);
	world_write_told(lease, 9 * SIM_PAGE, 100, 32);
	sim_fail("pwrite", 1, -ENOSPC, 2);
	assert_int_equal(world_sync(lease), -ENOSPC);
	next_is(lease, 0, SIM_PAGE, SIM_PAGE);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_S);
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(ev.err, -ENOSPC);
	assert_int_equal(ev.off, SIM_PAGE);
	assert_int_equal(ev.len, 8 * SIM_PAGE + 100);
	assert_int_equal(ev.lost_bytes, 3 * SIM_PAGE + 100);
	next_is(lease, 0, SIM_PAGE, SIM_PAGE);
	next_is(lease, SIM_PAGE + 5, SIM_PAGE + 5, SIM_PAGE - 5);
	next_is(lease, 2 * SIM_PAGE, 4 * SIM_PAGE, 2 * SIM_PAGE);
	next_is(lease, 6 * SIM_PAGE, 9 * SIM_PAGE, 100);
	assert_int_equal(pinlease_dirty_next(lease, 9 * SIM_PAGE + 100, &off, &len), 0);
	assert_int_equal(pinlease_dirty_next(lease, 9 * SIM_PAGE + 101, &off, &len), -ERANGE);
	assert_true(off == 7 && len == 8);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pinlease_dirty_next(lease, 0, &off, &len), -EAGAIN);
	world_close(w);
}

/* It cannot be fenced, and so not written back: all that may have been written is missing. */
static void test_ranges_when_not_fenced(struct world *w)
{
	struct pinlease_event ev;
	struct pinlease *lease;

	sim_break_time(2);
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &staged);
	world_write(lease, 0, SIM_PAGE, 33);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	sim_opener_end(sim_open(w->path, O_RDONLY));
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(ev.lost_bytes, 4 * SIM_PAGE);
	assert_int_equal(ev.len, 4 * SIM_PAGE);
	next_is(lease, 0, 0, 4 * SIM_PAGE);
	sim_clear();
	world_close(w);
}

/* The break's own writing fails while a release waits for it: what is lost the release says. */
static void test_lost_beside_a_release(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, &staged);
	world_write(lease, 0, SIM_PAGE, 34);
	sim_slow("pwrite", 100 * SIM_MS);
	sim_fail("pwrite", 1, -ENOSPC, 1);
	o = sim_open(w->path, O_RDONLY);
	world_reach(lease, PINLEASE_FENCING);
	assert_int_equal(pinlease_release(lease), -ENOSPC);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	sim_opener_end(o);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_save_all_of_it),
		world_test(test_save_beside_a_break),
		world_test(test_ranges),
		world_test(test_ranges_when_not_fenced),
		world_test(test_lost_beside_a_release),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
