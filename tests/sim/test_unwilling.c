/* SPDX-License-Identifier: BSD-3-Clause */
/* Backends and devices that will not, at a moment when somebody else waits: nobody waits for ever. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <pinlease/backend.h>

#include "account.h"
#include "world.h"

/* A backend that does as it is told. */
static struct {
	int pin, unpin;	  /* what it answers */
	uint64_t unpin_ns; /* how long that takes */
} told;

static int told_pin(void *arg, const struct pinlease_pin *pin, struct pinlease_handle *handle)
{
	(void)arg;
	(void)pin;
	(void)handle;
	return told.pin;
}

static int told_unpin(void *arg, struct pinlease_handle *handle)
{
	int r = told.unpin;

	(void)arg;
	(void)handle;
	if (told.unpin_ns)
		sim_sleep(told.unpin_ns);
	return r;
}

static const struct pinlease_backend backend = {
	.version = PINLEASE_BACKEND_VERSION, .name = "told", .pin = told_pin, .unpin = told_unpin
};

static const struct pinlease_opts by_backend = { .backend = &backend,
						 .mode = PINLEASE_MODE_PINNED,
						 .deadline_ms = 100 };

/* A try again from the backend is no break that would take the lease along when it is over. */
static void test_restore_that_is_to_be_tried_again(struct world *w)
{
	struct pinlease *lease;

	told.pin = told.unpin = 0;
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &by_backend);
	told.pin = -EAGAIN;
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORE_FAILED).err, -EAGAIN);
	assert_int_equal(pinlease_restore(lease, NULL), -EAGAIN);
	world_event(w, PINLEASE_EV_RESTORE_FAILED);
	told.pin = 0;
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	world_event(w, PINLEASE_EV_RESTORED);
	world_close(w);
}

static void unpin_slowly(void *arg)
{
	(void)arg;
	told.unpin = 0;
	told.unpin_ns = 2 * SIM_S;
	/* The next try begins while the other lease is being registered. */
	sim_sleep(SIM_S);
}

/* A change has given up on one lease, and it is being tried again while the others are restored. */
static void test_given_up_while_others_come_back(struct world *w)
{
	struct pinlease *good, *late;

	told.pin = 0;
	world_open(w, PINLEASE_WRITE);
	good = world_lease(w, 0, 4 * SIM_PAGE, &(struct pinlease_opts){ .deadline_ms = 100 });
	late = world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, &by_backend);
	told.unpin = -EBUSY;
	sim_hook("reg_mr", 1, unpin_slowly, NULL);
	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), -EBUSY);
	assert_int_equal(sim_faults(), 1);
	assert_int_equal(world_state(good), PINLEASE_ACTIVE);
	assert_int_equal(world_state(late), PINLEASE_FENCING);
	told.unpin_ns = 0;
	world_reach(late, PINLEASE_ACTIVE);
	world_close(w);
}

static void shorten(void *arg)
{
	assert_int_equal(truncate(arg, SIM_PAGE), 0);
}

/* An acquire failed, and what it had registered stays: a change is refused, and does not wait for it. */
static void test_orphan_in_the_way_of_a_change(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;
	uint64_t start;

	told.pin = 0;
	world_open(w, PINLEASE_WRITE);
	/* Shorter than when its size was asked for first. */
	sim_hook("map", 1, shorten, (void *)(uintptr_t)w->path);
	told.unpin = -EBUSY;
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, &by_backend, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_RANGE);
	start = sim_now();
	assert_int_equal(pinlease_file_truncate(w->file, 0), -EBUSY);
	assert_in_range(sim_now() - start, SIM_S, 2 * SIM_S);
	assert_int_equal(sim_file_size(w->path), SIM_PAGE);
	told.unpin = 0;
	sim_sleep(SIM_S);
	assert_int_equal(pinlease_file_truncate(w->file, 0), 0);
	world_close(w);
}

struct race {
	struct world *w;
	struct pinlease *lease;
	struct sim_opener *opener;
	struct sim_thread *thread;
	bool released;
};

static void *release(void *arg)
{
	struct race *race = arg;

	assert_int_equal(pinlease_release(race->lease), 0);
	race->released = true;
	return NULL;
}

/* The guard has been asked, with no lock held: whoever asked goes on with the lease afterwards. */
static void release_beside(void *arg)
{
	struct race *race = arg;

	race->thread = sim_thread_start(release, race);
	sim_sleep(SIM_MS);
	assert_false(race->released);
}

static void break_unheard(void *arg)
{
	struct race *race = arg;

	race->opener = sim_truncate(race->w->path, WORLD_SIZE);
	sim_hook("membarrier", 1, release_beside, race);
}

/* A change restores a lease in vain, finds a break that it had not heard of, and another thread releases. */
static void test_released_while_the_guard_is_asked(struct world *w)
{
	struct race race = { .w = w };

	/* Under TSan the library has none, whose call would be the moment. */
	assert_int_equal(pl_account_setup(), 0);
	if (!pl_account_has_membarrier())
		return;
	world_open(w, PINLEASE_WRITE);
	race.lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_signal_room(0);
	sim_hook("reg_mr", 1, break_unheard, &race);
	sim_fail("reg_mr", 1, -EINVAL, 1);
	assert_int_equal(pinlease_file_truncate(w->file, WORLD_SIZE / 2), 0);
	assert_non_null(race.thread);
	sim_thread_join(race.thread);
	assert_true(race.released);
	world_forget(w, race.lease);
	sim_signal_room(64);
	world_opener_in(race.opener, SIM_S);
	world_close(w);
}

static struct sim_opener *comer;

static void come(void *path)
{
	comer = sim_open(path, O_RDWR);
}

/*
 * The opener comes while the lease is fenced. A piece of the file is begun in time and takes longer than
 * the kernel waits, and another lease's registration, which stays, keeps the guard: written, and too late.
 */
static struct pinlease *write_for_too_long(struct world *w)
{
	struct pinlease *lease;

	sim_break_time(2);
	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, SIM_PAGE, NULL);
	lease = world_lease(w, SIM_PAGE, SIM_PAGE, &(struct pinlease_opts){ .mode = PINLEASE_MODE_STAGED });
	world_write(lease, 0, SIM_PAGE, 35);
	sim_hook("dereg_mr", 1, come, (void *)(uintptr_t)w->path);
	sim_slow("pwrite", 3 * SIM_S);
	sim_fail("dereg_mr", 2, -EBUSY, 0);
	return lease;
}

static void close_after_expiry(struct world *w)
{
	assert_int_equal(sim_calls("pwrite"), 1);
	assert_true(sim_opener_expired(comer));
	sim_opener_end(comer);
	sim_clear();
	world_close(w);
}

static void test_expired_beside_a_change(struct world *w)
{
	struct pinlease *lease = write_for_too_long(w);

	assert_int_equal(pinlease_file_truncate(w->file, SIM_PAGE), 0);
	assert_int_equal(world_event(w, PINLEASE_EV_BREAK).cause, PINLEASE_BY_OWNER);
	assert_int_equal(world_event(w, PINLEASE_EV_LOST).err, -ETIME);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	close_after_expiry(w);
}

static void test_expired_beside_a_release(struct world *w)
{
	struct pinlease *lease = write_for_too_long(w);

	assert_int_equal(pinlease_release(lease), -ETIME);
	assert_true(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 35));
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	close_after_expiry(w);
}

/* LOST because it could not be fenced, and it was fenced since: release says the error that LOST says. */
static void test_released_when_lost_and_fenced(struct world *w)
{
	struct pinlease *lease;

	sim_break_time(2);
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, &(struct pinlease_opts){ .mode = PINLEASE_MODE_STAGED });
	world_write(lease, 0, SIM_PAGE, 36);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	come((void *)(uintptr_t)w->path);
	world_reach(lease, PINLEASE_LOST);
	assert_int_equal(sim_mrs(), 1);
	sim_clear();
	sim_sleep(SIM_S);
	assert_int_equal(sim_mrs(), 0);
	assert_true(sim_opener_expired(comer));
	sim_opener_end(comer);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_LOST).err, -EBUSY);
	world_close(w);
}

/*
 * A release that would wait for longer than the kernel does: a break that comes meanwhile shortens that,
 * and nobody else wakes it, with nothing of its own to fence, and another lease's fence under way.
 */
static void test_break_beside_a_release_that_waits(struct world *w)
{
	struct pinlease_opts o = { .mode = PINLEASE_MODE_PINNED, .pd = WORLD_NO_PD, .deadline_ms = 10000 };
	struct race race = { .w = w };

	sim_break_time(2);
	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, SIM_PAGE, NULL);
	race.lease = world_lease(w, SIM_PAGE, SIM_PAGE, &o);
	world_begin(race.lease, 1);
	sim_slow("dereg_mr", 5 * SIM_S);
	race.thread = sim_thread_start(release, &race);
	sim_sleep(100 * SIM_MS);
	come((void *)(uintptr_t)w->path);
	sim_sleep(100 * SIM_MS);
	assert_false(race.released);
	sim_sleep(2 * SIM_S);
	assert_true(race.released);
	sim_thread_join(race.thread);
	world_forget(w, race.lease);
	world_reach(w->lease[0], PINLEASE_LOST);
	sim_opener_end(comer);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_restore_that_is_to_be_tried_again),
		world_test(test_given_up_while_others_come_back),
		world_test(test_orphan_in_the_way_of_a_change),
		world_test(test_released_while_the_guard_is_asked),
		world_test(test_expired_beside_a_change),
		world_test(test_expired_beside_a_release),
		world_test(test_released_when_lost_and_fenced),
		world_test(test_break_beside_a_release_that_waits),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
