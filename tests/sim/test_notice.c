/* SPDX-License-Identifier: BSD-3-Clause */
/* What happens to the names of a leased file: told, and nothing more. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"
#include "world.h"

#define SLOW_PASS (500 * SIM_MS)

static const char *beside(const struct world *w, const char *suffix)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s%s", w->path, suffix);
	return path;
}

static void expect_notice(struct world *w, struct pinlease *lease)
{
	struct pinlease_event ev = world_event(w, PINLEASE_EV_NOTICE);

	assert_ptr_equal(ev.lease, lease);
	assert_int_equal(ev.cause, PINLEASE_BY_NAMESPACE);
	assert_int_equal(ev.gen, world_info(lease).gen);
	assert_int_equal(ev.off, 0);
	assert_int_equal(ev.len, WORLD_SIZE);
	world_no_event(w);
}

/* The lease stays as it is: DMA goes on. */
static void unmoved(struct pinlease *lease)
{
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_int_equal(world_info(lease).breaks, 0);
	world_write(lease, 0, SIM_PAGE, 7);
}

static void test_rename(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(rename(w->path, beside(w, ".moved")), 0);
	assert_true(sim_notify());
	expect_notice(w, lease);
	unmoved(lease);
	assert_int_equal(rename(beside(w, ".moved"), w->path), 0);
	assert_true(sim_notify());
	expect_notice(w, lease);
	world_close(w);
}

static void test_replaced(struct world *w)
{
	struct pinlease *lease;
	const char *other;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	other = sim_file("other", SIM_PAGE);
	assert_int_equal(rename(other, w->path), 0);
	assert_true(sim_notify());
	expect_notice(w, lease);
	unmoved(lease);
	world_close(w);
}

/* The signal is lost, or the queue is full: the slow pass looks. */
static void test_unlinked_without_signal(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(unlink(w->path), 0);
	world_no_event(w);
	sim_sleep(SLOW_PASS + SIM_MS);
	expect_notice(w, lease);
	unmoved(lease);
	world_close(w);
}

/* Attributes, too, but no name is gone. */
static void test_no_notice(struct world *w)
{
	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(chmod(w->path, 0600), 0);
	assert_int_equal(utimensat(AT_FDCWD, w->path, NULL, 0), 0);
	assert_int_equal(link(w->path, beside(w, ".link")), 0);
	assert_true(sim_notify());
	sim_settle();
	world_no_event(w);
	assert_int_equal(unlink(beside(w, ".link")), 0);
	assert_true(sim_notify());
	world_event(w, PINLEASE_EV_NOTICE);
	world_close(w);
}

/* Two descriptions of one inode share a watch: closing one must not take the other's. */
static void test_shared_watch(struct world *w)
{
	struct pinlease_file_opts o = { .size = sizeof(o), .access = PINLEASE_READ };
	struct pinlease_opts bare = { .size = sizeof(bare), .pd = WORLD_NO_PD };
	struct pinlease_file *second;
	struct pinlease *lease, *other;

	world_open(w, PINLEASE_READ);
	lease = world_lease(w, 0, WORLD_SIZE, &bare);
	assert_int_equal(pinlease_file_open(w->ctx, w->path, &o, NULL, &second), 0);
	assert_int_equal(pinlease_acquire(second, 0, SIM_PAGE, NULL, NULL, &other), 0);
	assert_int_equal(rename(w->path, beside(w, ".moved")), 0);
	assert_true(sim_notify());
	world_event(w, PINLEASE_EV_NOTICE);
	world_event(w, PINLEASE_EV_NOTICE);
	world_no_event(w);
	assert_int_equal(pinlease_release(other), 0);
	assert_int_equal(pinlease_file_close(second), 0);
	assert_int_equal(rename(beside(w, ".moved"), w->path), 0);
	assert_true(sim_notify());
	expect_notice(w, lease);
	world_close(w);
}

/*
 * More attributes change than the kernel queues: the rename behind them is dropped, and told all
 * the same. Events of two files in turn, since the kernel folds equal neighbours into one.
 */
static void test_queue_overflows(struct world *w)
{
	struct pinlease_file_opts o = { .size = sizeof(o), .access = PINLEASE_READ };
	struct pinlease_opts bare = { .size = sizeof(bare), .pd = WORLD_NO_PD };
	const char *other = sim_file("other", SIM_PAGE);
	struct pinlease_event ev = { .size = sizeof(ev) };
	unsigned int queued = 0, told = 0, i;
	struct pinlease *lease, *second;
	struct pinlease_file *file;
	FILE *f;

	f = fopen("/proc/sys/fs/inotify/max_queued_events", "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%u", &queued), 1);
	fclose(f);
	world_open(w, PINLEASE_READ);
	lease = world_lease(w, 0, WORLD_SIZE, &bare);
	assert_int_equal(pinlease_file_open(w->ctx, other, &o, NULL, &file), 0);
	assert_int_equal(pinlease_acquire(file, 0, SIM_PAGE, NULL, NULL, &second), 0);
	for (i = 0; i < queued; i++)
		assert_int_equal(chmod(i & 1 ? other : w->path, 0600), 0);
	assert_int_equal(rename(w->path, beside(w, ".moved")), 0);
	assert_true(sim_notify());
	sim_settle();
	while (pinlease_ctx_next_event(w->ctx, &ev) == 1) {
		assert_int_equal(ev.type, PINLEASE_EV_NOTICE);
		told |= ev.lease == lease ? 1 : 2;
	}
	assert_int_equal(told, 3);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	/* And from then on as before. */
	assert_int_equal(pinlease_release(second), 0);
	assert_int_equal(pinlease_file_close(file), 0);
	assert_int_equal(rename(beside(w, ".moved"), w->path), 0);
	assert_true(sim_notify());
	expect_notice(w, lease);
	world_close(w);
}

/* fs.inotify.max_user_instances, max_user_watches: leases work all the same. */
static void test_cannot_watch(struct world *w)
{
	sim_fail("notify_add", 1, -ENOSPC, 1);
	world_open(w, PINLEASE_WRITE);
	unmoved(world_lease(w, 0, WORLD_SIZE, NULL));
	assert_int_equal(rename(w->path, beside(w, ".moved")), 0);
	assert_true(sim_notify());
	sim_sleep(SLOW_PASS + SIM_MS);
	world_no_event(w);
	assert_int_equal(rename(beside(w, ".moved"), w->path), 0);
	world_close(w);
}

static void test_no_inotify(struct world *w)
{
	sim_fail("notify_new", 1, -EMFILE, 1);
	world_open(w, PINLEASE_WRITE);
	unmoved(world_lease(w, 0, WORLD_SIZE, NULL));
	sim_sleep(SLOW_PASS + SIM_MS);
	world_no_event(w);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_rename),       world_test(test_replaced),
		world_test(test_unlinked_without_signal),
		world_test(test_no_notice),    world_test(test_shared_watch),
		world_test(test_queue_overflows),
		world_test(test_cannot_watch), world_test(test_no_inotify),
	};

	return cmocka_run_group_tests_name("notice", tests, world_group, NULL);
}
