/* SPDX-License-Identifier: BSD-3-Clause */
/* Layout changes of our own: exactly the leases they touch are broken, and they come back. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include "world.h"

#define SHORT_NS SIM_MS

static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED };

static void no_break_of(struct world *w, struct pinlease *lease)
{
	assert_int_equal(world_info(lease).breaks, 0);
	assert_int_equal(world_info(lease).gen, 1);
	assert_int_equal(sim_breaks(), 0);
	assert_int_equal(sim_lease(w->path), F_WRLCK);
}

static void test_truncate(struct world *w)
{
	struct pinlease *low, *mid, *high;
	struct pinlease_event ev;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	low = world_lease(w, 0, 4 * SIM_PAGE, NULL);
	mid = world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, NULL);
	high = world_lease(w, 8 * SIM_PAGE, 8 * SIM_PAGE, NULL);
	/* An operation in flight in what is not touched is in nobody's way. */
	gen = world_begin(low, 1);
	assert_int_equal(pinlease_file_truncate(w->file, 6 * SIM_PAGE), 0);
	assert_int_equal(sim_file_size(w->path), 6 * SIM_PAGE);
	no_break_of(w, low);
	pinlease_dma_end(low, 1, gen);
	ev = world_event(w, PINLEASE_EV_BREAK);
	assert_ptr_equal(ev.lease, mid);
	assert_int_equal(ev.cause, PINLEASE_BY_OWNER);
	assert_int_equal(ev.off, 2 * SIM_PAGE);
	assert_int_equal(ev.len, 2 * SIM_PAGE);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).len, 2 * SIM_PAGE);
	ev = world_event(w, PINLEASE_EV_BREAK);
	assert_ptr_equal(ev.lease, high);
	assert_int_equal(ev.off, 0);
	assert_int_equal(ev.len, 8 * SIM_PAGE);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORE_FAILED).err, -ENODATA);
	/* Done on return. */
	assert_int_equal(world_state(mid), PINLEASE_ACTIVE);
	assert_int_equal(world_state(high), PINLEASE_REVOKED);
	world_close(w);
}

static void test_grow(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_file_truncate(w->file, 2 * WORLD_SIZE), 0);
	assert_int_equal(pinlease_file_truncate(w->file, 2 * WORLD_SIZE), 0);
	assert_int_equal(pinlease_file_truncate(w->file, WORLD_SIZE), 0);
	no_break_of(w, lease);
	assert_int_equal(pinlease_file_truncate(w->file, UINT64_MAX), -EINVAL);
	world_close(w);
}

static void test_allocate(struct world *w)
{
	struct pinlease *low, *high;

	world_open(w, PINLEASE_WRITE);
	low = world_lease(w, 0, 4 * SIM_PAGE, NULL);
	high = world_lease(w, 8 * SIM_PAGE, 4 * SIM_PAGE, NULL);
	/* Gives blocks to holes and moves nothing. */
	assert_int_equal(pinlease_file_allocate(w->file, 0, 0, 2 * WORLD_SIZE), 0);
	assert_int_equal(pinlease_file_allocate(w->file, FALLOC_FL_KEEP_SIZE, 0, WORLD_SIZE), 0);
	/* Between the two. */
	assert_int_equal(pinlease_file_allocate(w->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						4 * SIM_PAGE, 4 * SIM_PAGE),
			 0);
	no_break_of(w, low);
	no_break_of(w, high);
	assert_int_equal(pinlease_file_allocate(w->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						8 * SIM_PAGE + 100, 200),
			 0);
	no_break_of(w, low);
	assert_int_equal(world_info(high).gen, 2);
	/* Moves all that follows, though tmpfs will not do it: restored all the same. */
	assert_int_equal(pinlease_file_allocate(w->file, FALLOC_FL_COLLAPSE_RANGE, 4 * SIM_PAGE, SIM_PAGE),
			 -EOPNOTSUPP);
	no_break_of(w, low);
	assert_int_equal(world_info(high).gen, 3);
	assert_int_equal(world_state(high), PINLEASE_ACTIVE);
	world_close(w);
}

static void test_error_of_the_kernel(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_fail("truncate", 1, -EIO, 1);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), -EIO);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_int_equal(world_info(lease).gen, 2);
	assert_int_equal(world_view(lease).len, WORLD_SIZE);
	sim_fail("truncate", 1, -EINTR, 3);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	assert_int_equal(sim_faults(), 4);
	world_close(w);
}

static void test_opened_for_reading(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_READ);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_file_truncate(w->file, 0), -EINVAL);
	assert_int_equal(
		pinlease_file_allocate(w->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIM_PAGE),
		-EBADF);
	assert_int_equal(world_info(lease).breaks, 0);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	world_close(w);
}

static void test_by_hand(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .flags = PINLEASE_L_MANUAL });
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	sim_sleep(10 * SIM_S);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_view(lease).len, SIM_PAGE);
	world_close(w);
}

static void test_staged_data_goes_first(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 8 * SIM_PAGE, &staged);
	world_write(lease, 0, 4 * SIM_PAGE, 41);
	assert_int_equal(pinlease_file_truncate(w->file, 4 * SIM_PAGE), 0);
	assert_true(sim_file_is(w->path, 0, 4 * SIM_PAGE, 41));
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	world_close(w);
}

static void test_staged_data_cannot_be_written(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 8 * SIM_PAGE, &staged);
	world_write(lease, 0, SIM_PAGE, 42);
	sim_fail("pwrite", 1, -ENOSPC, 1);
	assert_int_equal(pinlease_file_truncate(w->file, 4 * SIM_PAGE), 0);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_LOST).lost_bytes, 8 * SIM_PAGE);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	world_close(w);
}

struct end_at {
	struct pinlease *lease;
	uint32_t gen;
	uint64_t ns;
};

static void *end_at(void *arg)
{
	struct end_at *e = arg;

	sim_sleep(e->ns);
	pinlease_dma_end(e->lease, 1, e->gen);
	return NULL;
}

static void test_waits_for_the_drain(struct world *w)
{
	struct end_at e = { .ns = 300 * SIM_MS };
	struct sim_thread *t;
	uint64_t start;

	world_open(w, PINLEASE_WRITE);
	e.lease = world_lease(w, 0, WORLD_SIZE, NULL);
	e.gen = world_begin(e.lease, 1);
	t = sim_thread_start(end_at, &e);
	start = sim_now();
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	assert_in_range(sim_now() - start, 299 * SIM_MS, 301 * SIM_MS);
	sim_thread_join(t);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 0);
	world_close(w);
}

static void test_fences_at_the_deadline(struct world *w)
{
	struct pinlease *lease;
	uint64_t start;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 400 });
	world_begin(lease, 2);
	start = sim_now();
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	assert_in_range(sim_now() - start, 399 * SIM_MS, 402 * SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 2);
	world_event(w, PINLEASE_EV_RESTORED);
	world_close(w);
}

/* A provider that does not let go: the change is not made, and what could be fenced comes back. */
static void test_dereg_fails(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 100 });
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), -EBUSY);
	assert_int_equal(sim_file_size(w->path), WORLD_SIZE);
	sim_clear();
	world_reach(lease, PINLEASE_ACTIVE);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_event(w, PINLEASE_EV_RESTORED);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	world_close(w);
}

/* What the first one gave up on is still registered when the second one comes. */
static void test_dereg_fails_twice(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 100 });
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), -EBUSY);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), -EBUSY);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), -EBUSY);
	assert_int_equal(sim_file_size(w->path), WORLD_SIZE);
	sim_clear();
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	world_close(w);
}

static void *release_lease(void *arg)
{
	struct pinlease *lease = arg;

	assert_int_equal(pinlease_release(lease), 0);
	return NULL;
}

/* Another thread's release waits for what is in flight, and so does the change. */
static void test_beside_a_release(struct world *w)
{
	struct sim_thread *thread;
	struct pinlease *lease;
	uint64_t start;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 400 });
	world_begin(lease, 1);
	start = sim_now();
	thread = sim_thread_start(release_lease, lease);
	sim_settle();
	assert_int_equal(world_state(lease), PINLEASE_BREAKING);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	assert_in_range(sim_now() - start, 399 * SIM_MS, 502 * SIM_MS);
	sim_thread_join(thread);
	world_forget(w, lease);
	world_close(w);
}

static void test_break_from_outside_is_being_answered(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	gen = world_begin(lease, 1);
	o = sim_open(w->path, O_RDONLY);
	world_reach(lease, PINLEASE_BREAKING);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), -EAGAIN);
	assert_int_equal(sim_file_size(w->path), WORLD_SIZE);
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(o, SIM_S);
	world_close(w);
}

struct changer {
	struct pinlease_file *file;
	uint64_t len;
	int ret;
};

static void *change_now(void *arg)
{
	struct changer *c = arg;

	c->ret = pinlease_file_truncate(c->file, c->len);
	return NULL;
}

/* Somebody comes while the change is under way: all leases are broken, those of the change come back with
 * them. */
static void test_break_from_outside_in_the_middle(struct world *w)
{
	struct pinlease *low, *high;
	struct changer c = { .len = 12 * SIM_PAGE, .ret = 1 };
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	low = world_lease(w, 0, 4 * SIM_PAGE, NULL);
	high = world_lease(w, 8 * SIM_PAGE, 8 * SIM_PAGE, NULL);
	c.file = w->file;
	sim_slow("truncate", 500 * SIM_MS);
	t = sim_thread_start(change_now, &c);
	sim_sleep(100 * SIM_MS);
	assert_int_equal(world_state(high), PINLEASE_REVOKED);
	world_opener_in(sim_open(w->path, O_RDONLY), SIM_S);
	sim_thread_join(t);
	world_reach(low, PINLEASE_ACTIVE);
	world_reach(high, PINLEASE_ACTIVE);
	assert_int_equal(world_view(high).len, 4 * SIM_PAGE);
	world_close(w);
}

static void test_two_at_once(struct world *w)
{
	struct changer c[2] = { { .len = 12 * SIM_PAGE }, { .len = 10 * SIM_PAGE } };
	struct pinlease *lease;
	struct sim_thread *t[2];
	int i;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_slow("truncate", 100 * SIM_MS);
	for (i = 0; i < 2; i++) {
		c[i].file = w->file;
		t[i] = sim_thread_start(change_now, &c[i]);
	}
	for (i = 0; i < 2; i++) {
		sim_thread_join(t[i]);
		assert_int_equal(c[i].ret, 0);
	}
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_int_equal(world_view(lease).len, sim_file_size(w->path));
	world_close(w);
}

/* A lease acquired, or restored by hand, while the layout is being changed: after the change, or not at all.
 */
static void test_acquire_in_the_middle(struct world *w)
{
	struct changer c = { .len = 4 * SIM_PAGE, .ret = 1 };
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, SIM_PAGE, NULL);
	c.file = w->file;
	sim_slow("truncate", 500 * SIM_MS);
	t = sim_thread_start(change_now, &c);
	sim_sleep(100 * SIM_MS);
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, NULL, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_RANGE);
	world_lease(w, 0, 4 * SIM_PAGE, NULL);
	sim_thread_join(t);
	assert_int_equal(c.ret, 0);
	world_close(w);
}

static void test_restore_in_the_middle(struct world *w)
{
	struct changer c = { .len = 4 * SIM_PAGE, .ret = 1 };
	struct pinlease *lease;
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .flags = PINLEASE_L_MANUAL });
	c.file = w->file;
	sim_slow("truncate", 500 * SIM_MS);
	t = sim_thread_start(change_now, &c);
	sim_sleep(100 * SIM_MS);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_view(lease).len, 4 * SIM_PAGE);
	sim_thread_join(t);
	world_close(w);
}

/* A break was answered a moment ago, and the lease is due to come back in the middle of the change. */
static void test_restored_by_itself_in_the_middle(struct world *w)
{
	struct changer c = { .len = 4 * SIM_PAGE, .ret = 1 };
	struct pinlease *lease;
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	c.file = w->file;
	sim_slow("truncate", 500 * SIM_MS);
	t = sim_thread_start(change_now, &c);
	sim_sleep(400 * SIM_MS);
	/* The guard is held again since long. */
	assert_int_equal(sim_lease(w->path), F_WRLCK);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	assert_int_equal(sim_mrs(), 0);
	sim_thread_join(t);
	assert_int_equal(c.ret, 0);
	sim_sleep(SHORT_NS);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_int_equal(world_view(lease).len, 4 * SIM_PAGE);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_truncate),
		world_test(test_grow),
		world_test(test_allocate),
		world_test(test_error_of_the_kernel),
		world_test(test_opened_for_reading),
		world_test(test_by_hand),
		world_test(test_staged_data_goes_first),
		world_test(test_staged_data_cannot_be_written),
		world_test(test_waits_for_the_drain),
		world_test(test_fences_at_the_deadline),
		world_test(test_dereg_fails),
		world_test(test_dereg_fails_twice),
		world_test(test_beside_a_release),
		world_test(test_break_from_outside_is_being_answered),
		world_test(test_break_from_outside_in_the_middle),
		world_test(test_two_at_once),
		world_test(test_acquire_in_the_middle),
		world_test(test_restore_in_the_middle),
		world_test(test_restored_by_itself_in_the_middle),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
