/* SPDX-License-Identifier: BSD-3-Clause */
/* The application closed a descriptor of the library, and whatever got its number is not ours. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "sys.h"
#include "world.h"

/* The application closed the library's descriptor: the mapping keeps the lease, and no number can release it.
 */
static void test_descriptor_closed_under_us(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pl_sys_close(sim_lease_fd(w->path)), 0);
	o = sim_truncate(w->path, WORLD_SIZE);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(sim_mrs(), 0);
	assert_int_equal(pinlease_restore(lease, &why), -EBADF);
	assert_int_equal(why.reason, PINLEASE_WHY_FD_REPLACED);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	world_close(w);
	/* The last reference is gone with the anchor. */
	assert_true(sim_opener_done(o));
	sim_opener_end(o);
}

/* And opened something else, which got the number: not a byte of that is touched. */
static void test_descriptor_replaced_under_us(struct world *w)
{
	const char *path = sim_file("other", SIM_PAGE);
	struct pinlease *lease;
	struct sim_opener *o;
	int fd;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, &(struct pinlease_opts){ .mode = PINLEASE_MODE_STAGED });
	world_write(lease, 0, SIM_PAGE, 5);
	fd = sim_lease_fd(w->path);
	assert_int_equal(pl_sys_close(fd), 0);
	assert_int_equal(pl_sys_open(path, O_RDWR), fd);
	o = sim_truncate(w->path, WORLD_SIZE);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(sim_mrs(), 0);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	world_close(w);
	assert_true(sim_file_is(path, 0, SIM_PAGE, 1));
	assert_true(sim_opener_done(o));
	sim_opener_end(o);
	assert_int_equal(pl_sys_close(fd), 0);
}

/* And leased what got the number, in the same way. The first one of the two files that is broken: */
static void leased_under_us(struct world *w, bool ours_first)
{
	const char *path = sim_file("other", SIM_PAGE);
	struct sim_opener *ours = NULL, *theirs = NULL;
	int fd;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, SIM_PAGE, &(struct pinlease_opts){ .flags = PINLEASE_L_MANUAL });
	fd = sim_lease_fd(w->path);
	assert_int_equal(pl_sys_close(fd), 0);
	assert_int_equal(pl_sys_open(path, O_RDWR), fd);
	assert_int_equal(pl_sys_set_signal(fd, SIGRTMAX - 5), 0);
	assert_int_equal(pl_sys_set_owner(fd, pl_sys_thread_id()), 0);
	assert_int_equal(pl_sys_set_lease(fd, F_WRLCK), 0);
	if (ours_first)
		ours = sim_truncate(w->path, WORLD_SIZE);
	else
		theirs = sim_truncate(path, 0);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(sim_mrs(), 0);
	ours = ours ? ours : sim_truncate(w->path, WORLD_SIZE);
	theirs = theirs ? theirs : sim_truncate(path, 0);
	sim_sleep(SIM_S);
	assert_false(sim_opener_done(theirs));
	world_close(w);
	assert_true(sim_opener_done(ours));
	assert_false(sim_opener_done(theirs));
	assert_int_equal(pl_sys_set_lease(fd, F_UNLCK), 0);
	sim_opener_end(ours);
	sim_opener_end(theirs);
	assert_int_equal(pl_sys_close(fd), 0);
}

/* Their lease says what ours would: it is not believed. */
static void test_descriptor_leased_ours_broken(struct world *w)
{
	leased_under_us(w, true);
}

/* Their lease is broken, and that looks like ours: it is not let go. */
static void test_descriptor_leased_theirs_broken(struct world *w)
{
	leased_under_us(w, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_descriptor_closed_under_us),
		world_test(test_descriptor_replaced_under_us),
		world_test(test_descriptor_leased_ours_broken),
		world_test(test_descriptor_leased_theirs_broken),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
