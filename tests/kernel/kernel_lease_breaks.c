/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What breaks a lease, and how: one table, asked on every file system for a write
 * lease (O_RDWR + MAP_SHARED) and a read lease (O_RDONLY + MAP_SHARED). The holder is
 * the test itself, everybody else a process that shares nothing with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "scene.h"

enum outcome {
	NONE,	  /* nobody is told, the call is through at once */
	WAIT_RD,  /* signal, F_GETLEASE says F_RDLCK, the caller sleeps until F_UNLCK */
	WAIT_UN,  /* the same with F_UNLCK */
	AGAIN_RD, /* signal, EWOULDBLOCK at once, the break stays pending */
	AGAIN_UN,
};

struct what {
	char path[KT_PATH_MAX], dir[KT_PATH_MAX];
	int row, fd;
	pid_t pid;
};

struct row {
	const char *name;
	int (*call)(const struct what *w, long arg); /* in the helper: fd, 0 or -errno */
	long arg;
	enum outcome on_write, on_read;
	int ret_write, ret_read; /* what the call comes back with, once let in */
	long long size_after;	 /* -1: as before */
};

static int ret_errno(int ret)
{
	return ret < 0 ? -errno : ret;
}

static int do_open(const struct what *w, long flags)
{
	return ret_errno(open(w->path, (int)flags | O_CLOEXEC));
}

static int do_reopen(const struct what *w, long flags)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)w->pid, w->fd);
	return ret_errno(open(link, (int)flags | O_CLOEXEC));
}

static int do_handle(const struct what *w, long flags)
{
	union {
		struct file_handle h;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u = { .h = { .handle_bytes = MAX_HANDLE_SZ } };
	int dir = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), id;

	if (dir < 0 || name_to_handle_at(AT_FDCWD, w->path, &u.h, &id, 0))
		return -EIO;
	return ret_errno(open_by_handle_at(dir, &u.h, (int)flags | O_CLOEXEC));
}

static int do_truncate(const struct what *w, long size)
{
	return ret_errno(truncate(w->path, size));
}

static int do_exec(const struct what *w, long arg)
{
	char *const argv[] = { (char *)(uintptr_t)w->path, NULL };

	(void)arg;
	return ret_errno(execve(w->path, argv, NULL));
}

/* rename there and back, link, unlink of the link, chmod, chown, setxattr: the namespace and the inode, not
 * the data. */
static int do_names(const struct what *w, long arg)
{
	char other[KT_PATH_MAX + 2];

	(void)arg;
	snprintf(other, sizeof(other), "%s+", w->path);
	if (rename(w->path, other) || rename(other, w->path) || link(w->path, other) || unlink(other))
		return -errno;
	if (chmod(w->path, 0755) || chown(w->path, 0, 0) || setxattr(w->path, "trusted.kt", "x", 1, 0))
		return -errno;
	return 0;
}

#define HALF (SCENE_SIZE / 2)
#define ANY  12345 /* any fd number */

static const struct row rows[] = {
	{ "open(O_RDONLY)", do_open, O_RDONLY, WAIT_RD, NONE, ANY, ANY, -1 },
	{ "open(O_RDONLY|O_NONBLOCK)", do_open, O_RDONLY | O_NONBLOCK, AGAIN_RD, NONE, -EAGAIN, ANY, -1 },
	{ "open(O_RDWR)", do_open, O_RDWR, WAIT_UN, WAIT_UN, ANY, ANY, -1 },
	{ "open(O_WRONLY)", do_open, O_WRONLY, WAIT_UN, WAIT_UN, ANY, ANY, -1 },
	{ "open(O_RDWR|O_NONBLOCK)", do_open, O_RDWR | O_NONBLOCK, AGAIN_UN, AGAIN_UN, -EAGAIN, -EAGAIN, -1 },
	{ "open(O_WRONLY|O_TRUNC)", do_open, O_WRONLY | O_TRUNC, WAIT_UN, WAIT_UN, ANY, ANY, 0 },
	{ "open(O_RDONLY|O_TRUNC)", do_open, O_RDONLY | O_TRUNC, WAIT_RD, NONE, ANY, ANY, 0 },
	{ "open(O_PATH)", do_open, O_PATH, NONE, NONE, ANY, ANY, -1 },
	{ "open(/proc/PID/fd/N, O_RDWR)", do_reopen, O_RDWR, WAIT_UN, WAIT_UN, ANY, ANY, -1 },
	{ "open_by_handle_at(O_RDWR)", do_handle, O_RDWR, WAIT_UN, WAIT_UN, ANY, ANY, -1 },
	{ "truncate(half)", do_truncate, HALF, WAIT_UN, WAIT_UN, 0, 0, HALF },
	{ "truncate(same size)", do_truncate, SCENE_SIZE, WAIT_UN, WAIT_UN, 0, 0, -1 },
	{ "truncate(grow)", do_truncate, 2 * SCENE_SIZE, WAIT_UN, WAIT_UN, 0, 0, 2 * SCENE_SIZE },
	/* The row before the file becomes executable and ... */
	{ "rename, link, unlink, chmod, chown, setxattr", do_names, 0, NONE, NONE, 0, 0, -1 },
	/* ... the one that needs it so. ENOEXEC: nothing stopped it but the contents. */
	{ "execve", do_exec, 0, WAIT_RD, NONE, -ETXTBSY, -ENOEXEC, -1 },
};

static int run_row(const void *arg)
{
	const struct what *w = arg;

	return rows[w->row].call(w, rows[w->row].arg);
}

static void check_wait(struct kt_call *call, const struct held *h, int target)
{
	held_is_broken_to(h, target);
	assert_int_equal(kt_call_blocked(call, SCENE_MS), 1);
	assert_int_equal(size_of(h->path), SCENE_SIZE);
	assert_int_equal(kt_lease_drop(h->fd), 0);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
}

static void check_outcome(struct kt_call *call, const struct held *h, enum outcome outcome)
{
	switch (outcome) {
	case NONE:
		assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
		held_is_untouched(h);
		break;
	case WAIT_RD:
		check_wait(call, h, F_RDLCK);
		break;
	case WAIT_UN:
		check_wait(call, h, F_UNLCK);
		break;
	case AGAIN_RD:
	case AGAIN_UN:
		assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
		held_is_broken_to(h, outcome == AGAIN_RD ? F_RDLCK : F_UNLCK);
		assert_int_equal(kt_lease_drop(h->fd), 0);
		break;
	}
}

static void ask(enum scene_fs which, int row, int type)
{
	const struct row *r = &rows[row];
	enum outcome outcome = type == F_WRLCK ? r->on_write : r->on_read;
	int ret = type == F_WRLCK ? r->ret_write : r->ret_read;
	struct what w = { .row = row, .pid = getpid() };
	struct kt_call *call;
	struct held h;

	print_message("%s, %s lease: %s\n", scene_type(which), type == F_WRLCK ? "write" : "read", r->name);
	held_open(&h, which, type);
	assert_int_equal(chmod(h.path, 0755), 0);
	w.fd = h.fd;
	snprintf(w.path, sizeof(w.path), "%s", h.path);
	snprintf(w.dir, sizeof(w.dir), "%s", scene_dir(which));
	call = kt_call_start(run_row, &w, sizeof(w));
	assert_non_null(call);
	check_outcome(call, &h, outcome);
	if (ret == ANY)
		assert_true(call->ret >= 0);
	else
		assert_int_equal(call->ret, ret);
	assert_int_equal(size_of(h.path), r->size_after < 0 ? SCENE_SIZE : r->size_after);
	kt_call_end(call);
	held_close(&h);
}

static void ask_all(int type)
{
	for_each_fs(which) for (int row = 0; row < (int)(sizeof(rows) / sizeof(rows[0])); row++)
		ask(which, row, type);
}

static void a_write_lease_is_broken_by_every_open_and_truncate(void **state)
{
	(void)state;
	ask_all(F_WRLCK);
}

static void a_read_lease_is_broken_by_writers_but_not_by_rdonly_trunc(void **state)
{
	(void)state;
	ask_all(F_RDLCK);
}

static void *own_open(void *arg)
{
	struct held *h = arg;
	int fd = open(h->path, O_RDWR | O_CLOEXEC);

	return (void *)(intptr_t)fd;
}

static void the_holders_own_second_open_waits_like_any_other(void **state)
{
	pthread_t thread;
	struct held h;
	void *fd;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		assert_int_equal(pthread_create(&thread, NULL, own_open, &h), 0);
		held_is_broken_to(&h, F_UNLCK);
		assert_int_equal(pthread_tryjoin_np(thread, &fd), EBUSY);
		kt_sleep_ms(SCENE_MS);
		assert_int_equal(pthread_tryjoin_np(thread, &fd), EBUSY);
		assert_int_equal(kt_lease_drop(h.fd), 0);
		assert_int_equal(pthread_join(thread, &fd), 0);
		assert_true((intptr_t)fd >= 0);
		close((int)(intptr_t)fd);
		held_close(&h);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_write_lease_is_broken_by_every_open_and_truncate),
		cmocka_unit_test(a_read_lease_is_broken_by_writers_but_not_by_rdonly_trunc),
		cmocka_unit_test(the_holders_own_second_open_waits_like_any_other),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
