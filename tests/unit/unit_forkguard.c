/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a child is left with. Memfds stand for the device's two fds: a mapping of the one
 * must not be inherited, and both numbers must be /dev/null in the child.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "forkguard.h"
#include "sys.h"
#include "unit.h"

#define PAGE 4096ull

static bool is_null_device(int fd)
{
	struct stat st, null;

	if (fstat(fd, &st) || stat("/dev/null", &null))
		return false;
	return S_ISCHR(st.st_mode) && st.st_rdev == null.st_rdev;
}

static bool is_closed(int fd)
{
	return fcntl(fd, F_GETFD) == -1 && errno == EBADF;
}

static bool is_mapped(void *addr)
{
	unsigned char vec;

	return !mincore(addr, PAGE, &vec);
}

/* Runs check in a child and expects it to be so there. */
static void in_child(bool (*check)(void *arg), void *arg)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(check(arg) ? 0 : 1);
	assert_int_equal(unit_wait_child(pid), 0);
}

static bool next_generation(void *arg)
{
	return pl_fork_generation() == *(uint32_t *)arg + 1;
}

static void a_child_is_another_generation(void **state)
{
	uint32_t now = pl_fork_generation();

	(void)state;
	in_child(next_generation, &now);
	assert_int_equal(pl_fork_generation(), now);
}

static void setting_up_twice_is_once(void **state)
{
	uint32_t now = pl_fork_generation();

	(void)state;
	assert_int_equal(pl_forkguard_setup(), 0);
	in_child(next_generation, &now);
}

static bool files_are_closed(void *arg)
{
	struct pl_fork_file *f = arg;

	return is_closed(f[0].fd) && is_closed(f[0].anchor) && is_closed(f[1].fd) && !is_closed(f[2].fd);
}

static void files_and_anchors_are_closed(void **state)
{
	struct pl_fork_file f[3];
	int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		f[i].fd = unit_memfd(PAGE);
		f[i].anchor = -1;
		pl_fork_file_add(&f[i]);
	}
	assert_int_equal(pl_sys_anchor_new(f[0].fd, &f[0].anchor), 0);
	pl_fork_file_remove(&f[2]);
	in_child(files_are_closed, f);
	pl_fork_file_remove(&f[0]);
	pl_fork_file_remove(&f[1]);
	for (i = 0; i < 3; i++)
		assert_int_equal(close(f[i].fd), 0);
	assert_int_equal(close(f[0].anchor), 0);
}

struct device {
	int cmd_fd, async_fd;
	void *map;		/* of cmd_fd */
	void *other;		/* of something else */
};

static void device_open(struct device *d)
{
	int other = unit_memfd(PAGE);

	d->cmd_fd = unit_memfd(4 * PAGE);
	d->async_fd = unit_memfd(0);
	d->other = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, other, 0);
	close(other);
	assert_int_equal(pl_fork_device_add(d->cmd_fd, d->async_fd), 0);
	/* After it was made known: queues are mapped when they are created. */
	d->map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->cmd_fd, (off_t)PAGE);
	assert_true(d->map != MAP_FAILED && d->other != MAP_FAILED);
}

static void device_close(struct device *d)
{
	munmap(d->map, PAGE);
	munmap(d->other, PAGE);
	close(d->cmd_fd);
	close(d->async_fd);
}

static bool device_is_out_of_reach(void *arg)
{
	struct device *d = arg;

	return is_null_device(d->cmd_fd) && is_null_device(d->async_fd) && !is_mapped(d->map) &&
	       is_mapped(d->other) && fcntl(d->cmd_fd, F_GETFD) == FD_CLOEXEC;
}

static bool device_is_inherited(void *arg)
{
	struct device *d = arg;

	return !is_null_device(d->cmd_fd) && !is_null_device(d->async_fd) && !is_closed(d->cmd_fd);
}

static void devices_are_out_of_reach(void **state)
{
	struct device d, e;

	(void)state;
	device_open(&d);
	device_open(&e);
	in_child(device_is_out_of_reach, &d);
	in_child(device_is_out_of_reach, &e);
	/* Nothing has changed for the parent. */
	assert_true(!is_null_device(d.cmd_fd) && is_mapped(d.map));
	*(volatile char *)d.map = 1;
	/* Known twice, forgotten once: still known. */
	assert_int_equal(pl_fork_device_add(d.cmd_fd, d.async_fd), 0);
	pl_fork_device_remove(d.cmd_fd);
	in_child(device_is_out_of_reach, &d);
	pl_fork_device_remove(d.cmd_fd);
	in_child(device_is_inherited, &d);
	in_child(device_is_out_of_reach, &e);
	pl_fork_device_remove(e.cmd_fd);
	device_close(&d);
	device_close(&e);
}

static void a_device_that_is_none(void **state)
{
	(void)state;
	assert_int_equal(pl_fork_device_add(1 << 20, -1), -EBADF);
	pl_fork_device_remove(1 << 20);
}

struct poor {
	struct device d;
	struct rlimit before, less;
};

/* No fd was left for /dev/null: the device is closed then. AddressSanitizer's _exit needs one again. */
static bool device_is_closed(void *arg)
{
	struct poor *p = arg;
	struct device *d = &p->d;

	if (setrlimit(RLIMIT_NOFILE, &p->before))
		return false;
	return is_closed(d->cmd_fd) && is_closed(d->async_fd) && !is_mapped(d->map);
}

static void without_a_free_fd(void **state)
{
	struct poor p;

	(void)state;
	device_open(&p.d);
	/* A first fork marks the mapping: without an fd the list of mappings cannot be read. */
	in_child(device_is_out_of_reach, &p.d);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &p.before), 0);
	p.less = p.before;
	p.less.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &p.less), 0);
	assert_int_equal(dup(2), -1);
	in_child(device_is_closed, &p);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &p.before), 0);
	pl_fork_device_remove(p.d.cmd_fd);
	device_close(&p.d);
}

/* The child starts anew: what it makes itself is guarded against its own children. */
static bool child_has_children(void *arg)
{
	struct pl_fork_file old = { .fd = -1 }, mine = { .fd = unit_memfd(PAGE), .anchor = -1 };
	struct device *d = arg, own;
	uint32_t now = pl_fork_generation();
	pid_t pid;

	/* Freeing what was the parent's does nothing. */
	pl_fork_device_remove(d->cmd_fd);
	pl_list_init(&old.link);
	pl_fork_file_remove(&old);
	device_open(&own);
	pl_fork_file_add(&mine);
	pid = fork();
	if (!pid)
		_exit(device_is_out_of_reach(&own) && is_closed(mine.fd) && next_generation(&now) ? 0 : 1);
	return unit_wait_child(pid) == 0;
}

static void grandchildren(void **state)
{
	struct device d;

	(void)state;
	device_open(&d);
	in_child(child_has_children, &d);
	pl_fork_device_remove(d.cmd_fd);
	device_close(&d);
}

static void *come_and_go(void *arg)
{
	_Atomic bool *stop = arg;
	struct pl_fork_file f = { .fd = memfd_create("busy", MFD_CLOEXEC), .anchor = -1 };

	while (!*stop) {
		pl_fork_file_add(&f);
		if (!pl_fork_device_add(f.fd, f.fd))
			pl_fork_device_remove(f.fd);
		pl_fork_file_remove(&f);
	}
	close(f.fd);
	return NULL;
}

static bool is_alive(void *arg)
{
	return pl_fork_generation() > 0 && arg;
}

/* Forks beside threads that use the lists: the child must not find them locked or half done. */
static void beside_busy_threads(void **state)
{
	_Atomic bool stop = false;
	struct device d;
	pthread_t thread;
	int i;

	(void)state;
	device_open(&d);
	assert_int_equal(pl_sys_thread_new(come_and_go, &stop, "busy", &thread), 0);
	for (i = 0; i < 50; i++)
		in_child(i % 2 ? device_is_out_of_reach : is_alive, &d);
	stop = true;
	pl_sys_thread_join(thread);
	pl_fork_device_remove(d.cmd_fd);
	device_close(&d);
}

static int setup_group(void **state)
{
	(void)state;
	return pl_forkguard_setup();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_is_another_generation),
		cmocka_unit_test(setting_up_twice_is_once),
		cmocka_unit_test(files_and_anchors_are_closed),
		cmocka_unit_test(devices_are_out_of_reach),
		cmocka_unit_test(a_device_that_is_none),
		cmocka_unit_test(without_a_free_fd),
		cmocka_unit_test(grandchildren),
		cmocka_unit_test(beside_busy_threads),
	};

	return cmocka_run_group_tests(tests, setup_group, NULL);
}
