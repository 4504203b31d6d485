/* SPDX-License-Identifier: BSD-3-Clause */
/* While a break is pending, and after it: what F_GETLEASE says, who is told again, when a new lease can be
 * had. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "scene.h"

static void let_go(struct held *h, struct kt_call *call)
{
	assert_int_equal(kt_lease_drop(h->fd), 0);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	assert_true(call->ret >= 0);
	kt_call_end(call);
}

static void on_o_rdwr_only_f_unlck_answers_a_reader(void **state)
{
	struct kt_call *reader;
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		reader = kt_open(h.path, O_RDONLY);
		held_is_broken_to(&h, F_RDLCK);
		assert_int_equal(fcntl(h.fd, F_SETLEASE, F_RDLCK), -1);
		assert_int_equal(errno, EAGAIN);
		assert_int_equal(fcntl(h.fd, F_SETLEASE, F_WRLCK), -1);
		assert_int_equal(kt_call_blocked(reader, SCENE_MS), 1);
		assert_int_equal(kt_lease_get(h.fd), F_RDLCK);
		let_go(&h, reader);
		held_close(&h);
	}
}

static void on_o_rdonly_a_write_lease_can_be_downgraded(void **state)
{
	char path[KT_PATH_MAX];
	struct kt_call *reader;

	(void)state;
	for_each_fs(which)
	{
		int fd;

		scene_file(which, path);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_int_equal(kt_lease_take(fd, F_WRLCK, SCENE_SIG), 0);
		reader = kt_open(path, O_RDONLY);
		assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, NULL), 1);
		assert_int_equal(kt_call_blocked(reader, SCENE_MS), 1);
		assert_int_equal(fcntl(fd, F_SETLEASE, F_RDLCK), 0);
		assert_int_equal(kt_call_done(reader, SCENE_LONG), 1);
		assert_true(reader->ret >= 0);
		assert_int_equal(kt_lease_get(fd), F_RDLCK);
		kt_call_end(reader);
		close(fd);
	}
}

static void a_writer_after_a_reader_signals_again_a_second_writer_does_not(void **state)
{
	struct kt_call *reader, *writer, *second;
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		reader = kt_open(h.path, O_RDONLY);
		held_is_broken_to(&h, F_RDLCK);
		writer = kt_open(h.path, O_RDWR);
		held_is_broken_to(&h, F_UNLCK);
		second = kt_truncate(h.path, SCENE_SIZE / 2);
		assert_int_equal(kt_call_blocked(second, SCENE_MS), 1);
		assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
		assert_int_equal(kt_call_blocked(reader, 0), 1);
		assert_int_equal(kt_call_blocked(writer, 0), 1);
		assert_int_equal(size_of(h.path), SCENE_SIZE);
		let_go(&h, second);
		assert_int_equal(kt_call_done(reader, SCENE_LONG), 1);
		assert_int_equal(kt_call_done(writer, SCENE_LONG), 1);
		kt_call_end(reader);
		kt_call_end(writer);
		held_close(&h);
	}
}

/* The next breaker must find the break pending and say nothing; then unlock, take again, and all is as
 * before. */
static void stays_pending_until_unlocked(struct held *h)
{
	struct kt_call *next;

	assert_int_equal(kt_lease_get(h->fd), F_UNLCK);
	next = kt_truncate(h->path, SCENE_SIZE / 2);
	assert_int_equal(kt_call_blocked(next, SCENE_MS), 1);
	assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
	let_go(h, next);
	assert_int_equal(kt_lease_take(h->fd, F_WRLCK, SCENE_SIG), 0);
	next = kt_truncate(h->path, SCENE_SIZE);
	held_is_broken_to(h, F_UNLCK);
	let_go(h, next);
}

static void a_nonblocking_breaker_leaves_the_break_pending_and_silent(void **state)
{
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		assert_int_equal(kt_open_now(h.path, O_RDWR | O_NONBLOCK, SCENE_LONG), -EWOULDBLOCK);
		held_is_broken_to(&h, F_UNLCK);
		assert_int_equal(kt_open_now(h.path, O_RDWR | O_NONBLOCK, SCENE_LONG), -EWOULDBLOCK);
		assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
		stays_pending_until_unlocked(&h);
		held_close(&h);
	}
}

static void a_killed_breaker_leaves_the_break_pending_and_silent(void **state)
{
	struct kt_call *breaker;
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		breaker = kt_open(h.path, O_RDWR);
		held_is_broken_to(&h, F_UNLCK);
		assert_int_equal(kt_call_blocked(breaker, SCENE_MS), 1);
		kt_call_kill(breaker);
		assert_int_equal(kt_call_exited(breaker, 0), 1);
		kt_call_end(breaker);
		stays_pending_until_unlocked(&h);
		held_close(&h);
	}
}

static void a_new_lease_waits_for_the_opener_but_not_for_a_truncate(void **state)
{
	struct kt_call *opener;
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		opener = kt_truncate(h.path, SCENE_SIZE / 2);
		held_is_broken_to(&h, F_UNLCK);
		let_go(&h, opener);
		assert_int_equal(kt_lease_take(h.fd, F_WRLCK, SCENE_SIG), 0);

		opener = kt_open(h.path, O_RDONLY);
		held_is_broken_to(&h, F_RDLCK);
		assert_int_equal(kt_lease_drop(h.fd), 0);
		assert_int_equal(kt_call_done(opener, SCENE_LONG), 1);
		assert_int_equal(kt_lease_take(h.fd, F_WRLCK, SCENE_SIG), -EAGAIN);
		kt_call_end(opener);
		assert_int_equal(kt_lease_take(h.fd, F_WRLCK, SCENE_SIG), 0);
		held_close(&h);
	}
}

/* A line of the file has both words in it. */
static bool file_says(const char *path, const char *what, const char *also)
{
	char line[256];
	bool found = false;
	FILE *f = fopen(path, "re");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		found = found || (strstr(line, what) && strstr(line, also));
	fclose(f);
	return found;
}

static void proc_names_the_breaker(void **state)
{
	char fdinfo[64], holder[16], breaker[16];
	struct kt_call *opener;
	struct held h;

	(void)state;
	held_open(&h, EXT4, F_WRLCK);
	snprintf(fdinfo, sizeof(fdinfo), "/proc/self/fdinfo/%d", h.fd);
	snprintf(holder, sizeof(holder), " %d ", (int)getpid());
	assert_true(file_says("/proc/locks", "LEASE  ACTIVE    WRITE", holder));
	assert_true(file_says(fdinfo, "LEASE  ACTIVE    WRITE", holder));
	opener = kt_open(h.path, O_RDWR);
	held_is_broken_to(&h, F_UNLCK);
	assert_int_equal(kt_call_blocked(opener, SCENE_MS), 1);
	snprintf(breaker, sizeof(breaker), " %d ", (int)opener->pid);
	assert_true(file_says("/proc/locks", "LEASE  BREAKING  UNLCK", holder));
	assert_true(file_says(fdinfo, "LEASE  BREAKING  UNLCK", holder));
	assert_true(file_says("/proc/locks", "-> LEASE  BREAKER", breaker));
	let_go(&h, opener);
	assert_false(file_says(fdinfo, "LEASE", ""));
	held_close(&h);
}

struct retry {
	char path[KT_PATH_MAX];
	volatile bool *enough; /* in kt_shared memory */
};

/* A polite opener: O_NONBLOCK, again every millisecond. Returns how often it got in. */
static int open_and_retry(const void *arg)
{
	const struct retry *r = arg;
	int got_in = 0, fd;

	while (!*r->enough) {
		fd = open(r->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			got_in++;
			close(fd);
		}
		kt_sleep_ms(1);
	}
	return got_in;
}

/* Unlock at so many signals, and take the lease again after pause_ms; how often the opener got in. */
static int answer_retries(struct held *h, unsigned int pause_ms, unsigned int answers)
{
	struct retry r = { .enough = kt_shared(sizeof(bool)) };
	struct kt_call *call;
	int got_in;

	assert_non_null(r.enough);
	memcpy(r.path, h->path, sizeof(r.path));
	call = kt_call_start(open_and_retry, &r, sizeof(r));
	assert_non_null(call);
	while (answers--) {
		assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, NULL), 1);
		assert_int_equal(kt_lease_drop(h->fd), 0);
		if (pause_ms)
			kt_sleep_ms(pause_ms);
		while (kt_lease_take(h->fd, F_WRLCK, SCENE_SIG) == -EAGAIN)
			;
	}
	*r.enough = true;
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	got_in = call->ret;
	kt_call_end(call);
	return got_in;
}

static void taking_it_back_at_once_starves_a_nonblocking_opener(void **state)
{
	struct held h;
	int got_in;

	(void)state;
	held_open(&h, EXT4, F_WRLCK);
	got_in = answer_retries(&h, 0, 200);
	print_message("no pause: got in %d times, 200 breaks answered\n", got_in);
	assert_true(got_in < 20);
	got_in = answer_retries(&h, 20, 12);
	print_message("20 ms pause: got in %d times, 12 breaks answered\n", got_in);
	assert_true(got_in > 5);
	held_close(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on_o_rdwr_only_f_unlck_answers_a_reader),
		cmocka_unit_test(on_o_rdonly_a_write_lease_can_be_downgraded),
		cmocka_unit_test(a_writer_after_a_reader_signals_again_a_second_writer_does_not),
		cmocka_unit_test(a_nonblocking_breaker_leaves_the_break_pending_and_silent),
		cmocka_unit_test(a_killed_breaker_leaves_the_break_pending_and_silent),
		cmocka_unit_test(a_new_lease_waits_for_the_opener_but_not_for_a_truncate),
		cmocka_unit_test(proc_names_the_breaker),
		cmocka_unit_test(taking_it_back_at_once_starves_a_nonblocking_opener),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
