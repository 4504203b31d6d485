/* SPDX-License-Identifier: BSD-3-Clause */
/* I2: every break is answered whatever became of its signal, and none twice. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

#include "sys.h"
#include "world.h"

#define SHORT_NS  SIM_MS
#define SLOW_PASS (500 * SIM_MS)
#define FILES	  100

static void test_signal_lost(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_signal_room(0);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SLOW_PASS + SHORT_NS);
	assert_int_equal(sim_signals_lost(), 1);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_reach(lease, PINLEASE_ACTIVE);
	world_close(w);
}

struct many {
	struct pinlease_file *file[FILES];
	struct pinlease *lease[FILES];
	struct sim_opener *opener[FILES];
	const char *path[FILES];
	int files;
};

static void many_open(struct world *w, struct many *m, int files)
{
	struct pinlease_opts o = { .size = sizeof(o),
				   .mode = PINLEASE_MODE_STAGED,
				   .flags = PINLEASE_L_MANUAL,
				   .pd = w->pd,
				   .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	char name[16];
	int i;

	m->files = files;
	for (i = 0; i < files; i++) {
		snprintf(name, sizeof(name), "many%d", i);
		m->path[i] = sim_file(name, SIM_PAGE);
		assert_int_equal(pinlease_file_open(w->ctx, m->path[i], NULL, NULL, &m->file[i]), 0);
		assert_int_equal(pinlease_acquire(m->file[i], 0, SIM_PAGE, &o, NULL, &m->lease[i]), 0);
		/* The first one has something to write back. */
		o.mode = PINLEASE_MODE_AUTO;
	}
}

static void many_close(struct many *m)
{
	int i;

	for (i = 0; i < m->files; i++) {
		assert_int_equal(pinlease_release(m->lease[i]), 0);
		assert_int_equal(pinlease_file_close(m->file[i]), 0);
	}
}

/* All broken at once, room for a few signals: all are answered, the rest by the slow pass. */
static void test_many_at_once(struct world *w)
{
	struct many m;
	int i;

	world_open(w, PINLEASE_WRITE);
	many_open(w, &m, FILES);
	sim_signal_room(8);
	/* At once: the breaker reads none of them before the last one is sent. */
	sim_stop();
	for (i = 0; i < FILES; i++)
		m.opener[i] = sim_truncate(m.path[i], 0);
	sim_continue();
	for (i = 0; i < FILES; i++)
		world_opener_in(m.opener[i], SLOW_PASS + 100 * SIM_MS);
	assert_int_equal(sim_signals_lost(), FILES - 8);
	for (i = 0; i < FILES; i++)
		assert_int_equal(world_info(m.lease[i]).breaks, 1);
	/* Those that got through are not answered again by the pass: the judge would end the test. */
	sim_sleep(2 * SLOW_PASS);
	assert_int_equal(sim_breaks(), FILES);
	many_close(&m);
	world_close(w);
}

/* One disk that takes its time must not hold up the others. */
static void test_many_one_slow(struct world *w)
{
	struct many m;
	int i;

	world_open(w, PINLEASE_WRITE);
	many_open(w, &m, FILES);
	sim_slow("pwrite", 2 * SIM_S);
	for (i = 0; i < FILES; i++)
		m.opener[i] = sim_truncate(m.path[i], 0);
	for (i = 0; i < FILES; i++) {
		assert_true(sim_opener_wait(m.opener[i], 10 * SIM_S));
		if (i)
			assert_in_range(sim_opener_ns(m.opener[i]), 0, 10 * SIM_MS);
		else
			assert_in_range(sim_opener_ns(m.opener[i]), 2 * SIM_S, 3 * SIM_S);
		sim_opener_end(m.opener[i]);
	}
	many_close(&m);
	world_close(w);
}

/* As many slow disks as there are workers, and more: one worker is always left for what is quick. */
static void test_all_disks_slow(struct world *w)
{
	const struct pinlease_opts slow = { .size = sizeof(slow),
					    .mode = PINLEASE_MODE_STAGED,
					    .flags = PINLEASE_L_MANUAL };
	struct many m;
	int i;

	world_open(w, PINLEASE_WRITE);
	/* Two leases: not the breaker's own work. */
	world_lease(w, 0, SIM_PAGE, NULL);
	world_lease(w, SIM_PAGE, SIM_PAGE, NULL);
	many_open(w, &m, FILES);
	for (i = 0; i < 10; i++) {
		assert_int_equal(pinlease_release(m.lease[i]), 0);
		assert_int_equal(pinlease_acquire(m.file[i], 0, SIM_PAGE, &slow, NULL, &m.lease[i]), 0);
		pinlease_dma_end(m.lease[i], 1, world_begin(m.lease[i], 1));
	}
	sim_slow("pwrite", 4 * SIM_S);
	for (i = 0; i < 10; i++)
		m.opener[i] = sim_truncate(m.path[i], 0);
	sim_sleep(SIM_S);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_MS);
	for (i = 0; i < 10; i++)
		world_opener_in(m.opener[i], 17 * SIM_S);
	sim_slow("pwrite", 0);
	many_close(&m);
	world_close(w);
}

#define HUNG 6 /* more than there are workers: the breaker hangs, and all of them */

static void hang(void *arg)
{
	(void)arg;
	sim_sleep(10 * SIM_S);
}

/*
 * A device that does not come back from a deregistration: the first one hangs in the
 * breaker, the next ones in the workers. Whose lease is on no device is let on by the
 * next slow pass all the same, and the openers of the others once the device is back.
 */
static void test_device_hangs(struct world *w)
{
	struct sim_opener *alone;
	const char *path;
	struct many m;
	int i;

	world_open(w, PINLEASE_WRITE);
	path = sim_file("no-device", SIM_PAGE);
	assert_int_equal(pinlease_file_close(w->file), 0);
	assert_int_equal(pinlease_file_open(w->ctx, path, NULL, NULL, &w->file), 0);
	world_lease(w, 0, SIM_PAGE, &(struct pinlease_opts){ .pd = WORLD_NO_PD });
	many_open(w, &m, HUNG + 1);
	for (i = 1; i <= HUNG; i++) {
		sim_hook("dereg_mr", 1, hang, NULL);
		m.opener[i] = sim_truncate(m.path[i], 0);
		sim_sleep(SLOW_PASS + 10 * SIM_MS);
		assert_false(sim_opener_done(m.opener[i]));
	}
	alone = sim_truncate(path, 0);
	world_opener_in(alone, SLOW_PASS + SHORT_NS);
	for (i = 1; i <= HUNG; i++)
		world_opener_in(m.opener[i], 30 * SIM_S);
	many_close(&m);
	world_close(w);
}

static void test_stale_signals(struct world *w)
{
	struct pinlease *lease;
	int fd;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	fd = sim_lease_fd(w->path);
	/* Nobody's, unheard-of, and one that is ours and was never broken. */
	sim_signal_holder(w->path, fd + 1);
	sim_signal_holder(w->path, 1000000);
	sim_signal_holder(w->path, -1);
	sim_signal_holder(w->path, fd);
	sim_settle();
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	world_no_event(w);
	assert_int_equal(sim_lease(w->path), F_WRLCK);
	world_opener_in(sim_truncate(w->path, 0), SHORT_NS);
	world_close(w);
}

/* A break of a file that was closed; its number is another file's by the time somebody reads the signal. */
static void test_number_reused_by_another_file(struct world *w)
{
	struct pinlease_file *other;
	const char *path = sim_file("other", SIM_PAGE);
	int fd;

	world_open(w, PINLEASE_WRITE);
	fd = sim_lease_fd(w->path);
	assert_int_equal(pinlease_file_close(w->file), 0);
	assert_int_equal(pinlease_file_open(w->ctx, path, NULL, NULL, &other), 0);
	assert_int_equal(sim_lease_fd(path), fd);
	sim_signal_holder(path, fd);
	sim_settle();
	assert_int_equal(sim_lease(path), F_WRLCK);
	world_opener_in(sim_truncate(path, 0), SHORT_NS);
	w->file = other;
	world_close(w);
}

/* Directed at the process: the application's own use of the reserved number, or a kill -NN from outside. */
static void test_process_directed_signals(struct world *w)
{
	struct pinlease *lease;
	int i;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	for (i = 0; i < 100; i++)
		sim_signal_process(SIGRTMAX - 2, i);
	sim_settle();
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	world_opener_in(sim_truncate(w->path, 0), SHORT_NS);
	world_close(w);
}

/* A signal number that is not ours is left alone, for whoever it is for. */
static void test_other_signals_are_left(struct world *w)
{
	siginfo_t info;
	sigset_t set;

	world_open(w, PINLEASE_WRITE);
	sim_signal_process(SIGRTMAX - 3, 5);
	sim_settle();
	sigemptyset(&set);
	sigaddset(&set, SIGRTMAX - 3);
	assert_int_equal(pl_sys_wait_signal(&set, &info, 0), SIGRTMAX - 3);
	world_close(w);
}

/* A reader waits, then a writer: a second signal in the middle of the answer. */
static void test_writer_behind_a_reader(struct world *w)
{
	struct sim_opener *reader, *writer;
	struct pinlease *lease;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	gen = world_begin(lease, 1);
	reader = sim_open(w->path, O_RDONLY);
	sim_sleep(50 * SIM_MS);
	writer = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(50 * SIM_MS);
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(writer, 51 * SIM_MS);
	world_opener_in(reader, 101 * SIM_MS);
	assert_int_equal(world_info(lease).breaks, 1);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_event(w, PINLEASE_EV_RESTORED);
	world_close(w);
}

/* The opener is killed while it waits. The break stays pending, and nobody is told of the next one. */
static void test_opener_killed(struct world *w)
{
	struct sim_opener *o;
	struct pinlease *lease;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	gen = world_begin(lease, 1);
	o = sim_truncate(w->path, 0);
	sim_sleep(10 * SIM_MS);
	sim_opener_end(o);
	o = sim_truncate(w->path, WORLD_SIZE / 2);
	sim_sleep(10 * SIM_MS);
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(o, 10 * SIM_MS + SHORT_NS);
	world_reach(lease, PINLEASE_ACTIVE);
	assert_int_equal(sim_file_size(w->path), WORLD_SIZE / 2);
	world_close(w);
}

/* O_NONBLOCK: does not wait, but the break stays; answered all the same, and a retry gets in. */
static void test_opener_does_not_wait(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .flags = PINLEASE_L_MANUAL });
	o = sim_open(w->path, O_RDWR | O_NONBLOCK);
	assert_int_equal(sim_opener_ret(o), -EWOULDBLOCK);
	sim_opener_end(o);
	world_reach(lease, PINLEASE_REVOKED);
	o = sim_open(w->path, O_RDWR | O_NONBLOCK);
	assert_int_equal(sim_opener_ret(o), 0);
	sim_opener_end(o);
	world_close(w);
}

static bool fd_tells(struct world *w)
{
	struct pollfd p = { .fd = pinlease_ctx_fd(w->ctx), .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

/* The application is told through its descriptor, of each thing when it happens. */
static void test_fd_of_events(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	gen = world_begin(lease, 1);
	assert_false(fd_tells(w));
	o = sim_open(w->path, O_RDWR);
	sim_sleep(SIM_MS);
	assert_int_equal(world_state(lease), PINLEASE_BREAKING);
	assert_true(fd_tells(w));
	world_event(w, PINLEASE_EV_BREAK);
	assert_false(fd_tells(w));
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(o, 10 * SIM_MS);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	assert_true(fd_tells(w));
	world_event(w, PINLEASE_EV_REVOKED);
	assert_false(fd_tells(w));
	world_reach(lease, PINLEASE_ACTIVE);
	sim_settle();
	assert_true(fd_tells(w));
	world_event(w, PINLEASE_EV_RESTORED);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_signal_lost),
		world_test(test_many_at_once),
		world_test(test_many_one_slow),
		world_test(test_all_disks_slow),
		world_test(test_device_hangs),
		world_test(test_stale_signals),
		world_test(test_number_reused_by_another_file),
		world_test(test_process_directed_signals),
		world_test(test_other_signals_are_left),
		world_test(test_writer_behind_a_reader),
		world_test(test_opener_killed),
		world_test(test_opener_does_not_wait),
		world_test(test_fd_of_events),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
