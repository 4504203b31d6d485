/* SPDX-License-Identifier: BSD-3-Clause */
/* What a holder that does not answer within lease-break-time finds out, and what it does not. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "scene.h"

#define BREAK_TIME 1	/* s */
#define BEFORE	   950	/* ms: no expiry is earlier */

static void expire(struct kt_call *call)
{
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	assert_true(call->ret >= 0);
	assert_true(kt_call_ns(call) >= BEFORE * 1000000ull);
}

/* One file system after the other would take 4 s: all four expire at once. */
static void hold_all(struct held h[SCENE_FS_COUNT], struct kt_call *calls[SCENE_FS_COUNT], int flags,
		     int target)
{
	assert_int_equal(kt_break_time(BREAK_TIME), 0);
	for_each_fs(which)
	{
		held_open(&h[which], which, F_WRLCK);
		calls[which] = kt_open(h[which].path, flags);
		assert_non_null(calls[which]);
		held_is_broken_to(&h[which], target);
	}
}

static void a_writer_that_expired_shows_in_a_late_unlock(void **state)
{
	struct held h[SCENE_FS_COUNT];
	struct kt_call *calls[SCENE_FS_COUNT];

	(void)state;
	hold_all(h, calls, O_RDWR, F_UNLCK);
	for_each_fs(which) expire(calls[which]);
	assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0); /* nobody says so ... */
	for_each_fs(which)
	{
		assert_int_equal(kt_lease_get(h[which].fd), F_UNLCK);
		assert_int_equal(kt_lease_drop(h[which].fd), -EAGAIN); /* ... but this */
		kt_call_end(calls[which]);
		held_close(&h[which]);
	}
}

static void a_truncate_that_expired_shows_in_a_late_unlock(void **state)
{
	struct kt_call *call;
	struct held h;
	long long size;

	(void)state;
	assert_int_equal(kt_break_time(BREAK_TIME), 0);
	held_open(&h, EXT4, F_WRLCK);
	call = kt_truncate(h.path, 0);
	held_is_broken_to(&h, F_UNLCK);
	size = size_of(h.path);
	/* Whoever was held up for longer here has seen what comes after. */
	if (kt_now() < call->start_ns + BEFORE * 1000000ull)
		assert_int_equal(size, SCENE_SIZE);
	expire(call);
	assert_int_equal(size_of(h.path), 0);
	assert_int_equal(kt_lease_drop(h.fd), -EAGAIN);
	kt_call_end(call);
	held_close(&h);
}

static void a_reader_that_expired_cannot_be_told_from_one_that_waits(void **state)
{
	struct held h[SCENE_FS_COUNT];
	struct kt_call *calls[SCENE_FS_COUNT];

	(void)state;
	hold_all(h, calls, O_RDONLY, F_RDLCK);
	for_each_fs(which) expire(calls[which]);
	assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
	for_each_fs(which)
	{
		assert_int_equal(kt_lease_get(h[which].fd), F_RDLCK);
		assert_int_equal(kt_lease_drop(h[which].fd), 0);
		kt_call_end(calls[which]);
		held_close(&h[which]);
	}
}

/* Late, and far from too late: this machine may be slow. */
static void an_answer_in_time_returns_0(void **state)
{
	struct kt_call *call;
	struct held h;

	(void)state;
	assert_int_equal(kt_break_time(SCENE_TIME), 0);
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		call = kt_open(h.path, O_RDWR);
		held_is_broken_to(&h, F_UNLCK);
		assert_int_equal(kt_call_blocked(call, 100), 1);
		assert_int_equal(kt_lease_drop(h.fd), 0);
		assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
		assert_true(call->ret >= 0 && kt_call_ns(call) < (SCENE_TIME - 1) * 1000000000ull);
		kt_call_end(call);
		held_close(&h);
	}
}

static void expiry_wipes_the_signal_and_the_owner(void **state)
{
	struct f_owner_ex owner = { 0 };
	struct kt_call *call;
	struct held h;

	(void)state;
	assert_int_equal(kt_break_time(BREAK_TIME), 0);
	held_open(&h, TMPFS, F_WRLCK);
	assert_int_equal(fcntl(h.fd, F_GETSIG), SCENE_SIG);
	assert_int_equal(fcntl(h.fd, F_GETOWN_EX, &owner), 0);
	assert_int_equal(owner.pid, gettid());
	call = kt_truncate(h.path, 0);
	held_is_broken_to(&h, F_UNLCK);
	expire(call);
	assert_int_equal(fcntl(h.fd, F_GETSIG), 0);
	assert_int_equal(fcntl(h.fd, F_GETOWN_EX, &owner), 0);
	assert_int_equal(owner.pid, 0);
	kt_call_end(call);
	held_close(&h);
}

static void with_lease_break_time_0_nothing_expires(void **state)
{
	struct kt_call *call;
	struct held h;

	(void)state;
	assert_int_equal(kt_break_time(0), 0);
	held_open(&h, EXT4, F_WRLCK);
	call = kt_open(h.path, O_RDWR);
	held_is_broken_to(&h, F_UNLCK);
	assert_int_equal(kt_call_blocked(call, 1500), 1);
	assert_int_equal(kt_lease_drop(h.fd), 0);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	kt_call_end(call);
	held_close(&h);
}

/* The library reads the sysctl now and then: what counts is its value when the break began. */
static void what_counts_is_lease_break_time_when_the_break_began(void **state)
{
	struct kt_call *call;
	struct held h;

	(void)state;
	assert_int_equal(kt_break_time(BREAK_TIME), 0);
	held_open(&h, EXT4, F_WRLCK);
	call = kt_open(h.path, O_RDWR);
	held_is_broken_to(&h, F_UNLCK);
	assert_int_equal(kt_break_time(SCENE_TIME), 0);
	expire(call);
	assert_int_equal(kt_lease_drop(h.fd), -EAGAIN);
	kt_call_end(call);
	held_close(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_writer_that_expired_shows_in_a_late_unlock),
		cmocka_unit_test(a_truncate_that_expired_shows_in_a_late_unlock),
		cmocka_unit_test(a_reader_that_expired_cannot_be_told_from_one_that_waits),
		cmocka_unit_test(an_answer_in_time_returns_0),
		cmocka_unit_test(expiry_wipes_the_signal_and_the_owner),
		cmocka_unit_test(with_lease_break_time_0_nothing_expires),
		cmocka_unit_test(what_counts_is_lease_break_time_when_the_break_began),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
