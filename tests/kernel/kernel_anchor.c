/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The anchor: one more reference to the leased open file description, in flight in a
 * socketpair whose sending end is closed. What it keeps, what drops it, how many there
 * can be, and the reason for it: a killed process gives up its last reference to an
 * anchored file only after all its fds, so whatever else it held is gone by then.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rounds.h"
#include "scene.h"

/* Put fd in flight; returns the receiving end, or -errno. */
static int anchor(int fd)
{
	int ends[2], ret;

	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends))
		return -errno;
	ret = kt_send_fd(ends[0], fd);
	close(ends[0]);
	if (ret)
		close(ends[1]);
	return ret ? ret : ends[1];
}

static void an_ofd_in_flight_keeps_its_lease(void **state)
{
	struct kt_call *breaker;
	struct held h;
	int receiver;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		receiver = anchor(h.fd);
		assert_true(receiver >= 0);
		munmap(h.map, SCENE_SIZE);
		close(h.fd);
		breaker = kt_truncate(h.path, 0);
		assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, NULL), 1);
		assert_int_equal(kt_call_blocked(breaker, SCENE_MS), 1);
		close(receiver);
		assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
		assert_int_equal(breaker->ret, 0);
		kt_call_end(breaker);
	}
}

static void closing_the_receiving_end_drops_the_lease(void **state)
{
	struct held h;
	int receiver;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		receiver = anchor(h.fd);
		assert_true(receiver >= 0);
		munmap(h.map, SCENE_SIZE);
		close(h.fd);
		close(receiver);
		assert_true(kt_open_now(h.path, O_RDWR | O_NONBLOCK, SCENE_LONG) >= 0);
		assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
	}
}

static void the_lease_is_let_go_through_the_fd_while_in_flight(void **state)
{
	struct kt_call *breaker;
	struct held h;
	int receiver;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		receiver = anchor(h.fd);
		assert_true(receiver >= 0);
		breaker = kt_truncate(h.path, SCENE_SIZE / 2);
		held_is_broken_to(&h, F_UNLCK);
		assert_int_equal(kt_lease_drop(h.fd), 0);
		assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
		kt_call_end(breaker);
		assert_int_equal(kt_lease_take(h.fd, F_WRLCK, SCENE_SIG), 0);
		close(receiver);
		assert_int_equal(kt_lease_get(h.fd), F_WRLCK);
		held_close(&h);
	}
}

/* How many */

#define NOFILE 64

struct limit_arg {
	char path[KT_PATH_MAX];
	bool privileged;
	int *sent;
};

static int anchor_till_it_fails(const void *arg)
{
	const struct limit_arg *a = arg;
	struct rlimit limit = { NOFILE, NOFILE };
	int fd = open(a->path, O_RDONLY | O_CLOEXEC), ends[2] = { -1, -1 }, ret = 0;

	if (fd < 0 || setrlimit(RLIMIT_NOFILE, &limit))
		return -EIO;
	if (!a->privileged && (setgid(60124) || setuid(60124)))
		return -EPERM;
	/* Eight to a queue; the receiving ends stay open, or what is in flight would be dropped. */
	for (*a->sent = 0; *a->sent < 4 * NOFILE && !ret; *a->sent += !ret) {
		if (*a->sent % 8 == 0) {
			if (ends[0] >= 0)
				close(ends[0]);
			if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends))
				return -errno;
		}
		ret = kt_send_fd(ends[0], fd);
	}
	return ret;
}

static int limit_of(bool privileged, int *sent)
{
	struct limit_arg a = { .privileged = privileged, .sent = kt_shared(sizeof(int)) };
	struct kt_call *call;
	int ret;

	assert_non_null(a.sent);
	scene_file(TMPFS, a.path);
	call = kt_call_start(anchor_till_it_fails, &a, sizeof(a));
	assert_non_null(call);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	ret = call->ret;
	*sent = *a.sent;
	kt_call_end(call);
	return ret;
}

static void fds_in_flight_are_limited_by_rlimit_nofile_per_user(void **state)
{
	int sent;

	(void)state;
	assert_int_equal(limit_of(false, &sent), -ETOOMANYREFS);
	print_message("RLIMIT_NOFILE %d: ETOOMANYREFS with %d in flight\n", NOFILE, sent);
	assert_in_range(sent, NOFILE, NOFILE + 2);
	assert_int_equal(limit_of(true, &sent), 0);
	assert_int_equal(sent, 4 * NOFILE);
}

/* The order of death */

#define BYSTANDERS 600 /* fds whose release takes a while, between the first and the last */

struct death_arg {
	char path[KT_PATH_MAX], fifo[KT_PATH_MAX];
	bool fifo_first, anchored;
};

static int open_bystanders(void)
{
	for (int i = 0; i < BYSTANDERS; i += 2) {
		int ends[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
			return -errno;
	}
	return 0;
}

static int open_leased(const struct death_arg *a)
{
	int fd = open(a->path, O_RDWR | O_CLOEXEC), ret;

	ret = fd < 0 ? -errno : kt_lease_take(fd, F_WRLCK, SCENE_SIG);
	if (!ret && a->anchored)
		ret = anchor(fd);
	return ret < 0 ? ret : fd;
}

/* The fifo's write end stands for the device whose fd must be gone before the lease is. */
static int die_holding(const void *arg)
{
	const struct death_arg *a = arg;
	struct rlimit limit = { 3 * BYSTANDERS, 3 * BYSTANDERS };
	int ret = setrlimit(RLIMIT_NOFILE, &limit) ? -errno : 0;

	if (!ret && a->fifo_first)
		ret = open(a->fifo, O_WRONLY | O_CLOEXEC);
	else if (!ret)
		ret = open_leased(a);
	if (ret >= 0)
		ret = open_bystanders();
	if (ret >= 0)
		ret = a->fifo_first ? open_leased(a) : open(a->fifo, O_WRONLY | O_CLOEXEC);
	return ret < 0 ? ret : 0;
}

/* Truncate, then look at once: 0 the write end is gone, 1 it is still open. */
static int truncate_and_look(const void *arg)
{
	const struct death_arg *a = arg;
	struct pollfd p = { .fd = open(a->fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC), .events = POLLIN };

	if (p.fd < 0 || truncate(a->path, 0))
		return -errno;
	if (poll(&p, 1, 0) < 0)
		return -errno;
	return p.revents & POLLHUP ? 0 : 1;
}

static int die_once(enum scene_fs which, bool fifo_first, bool anchored)
{
	struct death_arg a = { .fifo_first = fifo_first, .anchored = anchored };
	struct kt_call *owner, *breaker;
	int ret, keep;

	scene_file(which, a.path);
	snprintf(a.fifo, sizeof(a.fifo), "%.64s/fifo", scene_dir(which));
	assert_int_equal(mkfifo(a.fifo, 0600), 0);
	keep = open(a.fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	owner = kt_call_start(die_holding, &a, sizeof(a));
	assert_non_null(owner);
	assert_int_equal(kt_call_done(owner, KT_LONG), 1);
	assert_int_equal(owner->ret, 0);
	breaker = kt_call_start(truncate_and_look, &a, sizeof(a));
	assert_non_null(breaker);
	assert_int_equal(kt_call_blocked(breaker, SCENE_MS), 1);
	kt_call_kill(owner);
	assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
	ret = breaker->ret;
	assert_true(ret >= 0);
	kt_call_end(breaker);
	kt_call_end(owner);
	close(keep);
	unlink(a.fifo);
	unlink(a.path);
	return ret;
}

static void a_killed_owner_drops_a_bare_lease_before_its_older_fds(void **state)
{
	unsigned int round = 0, most = pl_rounds(PL_R_kernel_death_control);
	int early = 0;

	(void)state;
	while (!early && round++ < most)
		early = die_once(TMPFS, true, false);
	print_message("lease gone before an older fd: seen in round %u\n", round);
	assert_true(early);
}

static void a_killed_owner_drops_an_anchored_lease_after_all_its_fds(void **state)
{
	unsigned int rounds = pl_rounds(PL_R_kernel_death_rounds);

	(void)state;
	for (unsigned int round = 0; round < rounds; round++)
		assert_int_equal(die_once(round % 4 < 2 ? TMPFS : EXT4, round % 2, true), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_ofd_in_flight_keeps_its_lease),
		cmocka_unit_test(closing_the_receiving_end_drops_the_lease),
		cmocka_unit_test(the_lease_is_let_go_through_the_fd_while_in_flight),
		cmocka_unit_test(fds_in_flight_are_limited_by_rlimit_nofile_per_user),
		cmocka_unit_test(a_killed_owner_drops_a_bare_lease_before_its_older_fds),
		cmocka_unit_test(a_killed_owner_drops_an_anchored_lease_after_all_its_fds),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
