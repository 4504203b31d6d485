/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who is in the way. Each case first asks the kernel for the lease: the culprit is only
 * looked for, and only found, where that says EAGAIN.
 */
#include <pinlease.h>
#include <signal.h>

#include "culprit.h"
#include "sys.h"
#include "unit.h"

#define PAGE 4096ull

static struct scene {
	char path[32];
	int fd;
	struct pl_fileid id;
} c;

static int setup(void **state)
{
	uint32_t reason;

	(void)state;
	c.fd = unit_named_file(c.path, PAGE);
	return pl_fileid_get(c.fd, &c.id, NULL, &reason);
}

static int teardown(void **state)
{
	(void)state;
	unlink(c.path);
	return c.fd >= 0 ? close(c.fd) : 0;
}

static int lease(int fd, int type)
{
	int r = fcntl(fd, F_SETLEASE, type) ? errno : 0;

	if (!r)
		fcntl(fd, F_SETLEASE, F_UNLCK);
	return r;
}

static void expect(int fd, int type, uint32_t reason, int32_t pid)
{
	uint32_t got = PINLEASE_WHY_NONE;
	int32_t got_pid = -1;

	assert_int_equal(lease(fd, type), EAGAIN);
	pl_culprit_find(&c.id, fd, &got, &got_pid);
	assert_int_equal(got, reason);
	assert_int_equal(got_pid, pid);
}

/* The lease can be had: whatever else is open must not be blamed either. */
static void expect_nobody(int fd, int type)
{
	uint32_t got = PINLEASE_WHY_NONE;
	int32_t got_pid = -1;

	assert_int_equal(lease(fd, type), 0);
	pl_culprit_find(&c.id, fd, &got, &got_pid);
	assert_true(got == PINLEASE_WHY_OPENER && got_pid == 0);
}

static int reopen(int flags)
{
	int fd = open(c.path, flags | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void nobody(void **state)
{
	int path_only = reopen(O_PATH), copy = dup(c.fd);

	(void)state;
	expect_nobody(c.fd, F_WRLCK);
	close(path_only);
	close(copy);
}

static void a_second_fd_of_ours(void **state)
{
	int second = reopen(O_RDONLY);

	(void)state;
	expect(c.fd, F_WRLCK, PINLEASE_WHY_OWN_FD, 0);
	close(second);
	expect_nobody(c.fd, F_WRLCK);
}

/* A read lease stands beside readers; a writer is in its way. */
static void readers_and_a_read_lease(void **state)
{
	int ours = reopen(O_RDONLY), reader = reopen(O_RDONLY), writer;

	(void)state;
	close(c.fd);
	c.fd = -1;
	expect_nobody(ours, F_RDLCK);
	writer = reopen(O_RDWR);
	expect(ours, F_RDLCK, PINLEASE_WHY_OWN_FD, 0);
	close(writer);
	expect_nobody(ours, F_RDLCK);
	close(reader);
	close(ours);
}

static void a_mapping_left_behind(void **state)
{
	int second = reopen(O_RDWR);
	void *map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, second, 0);

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	close(second);
	expect(c.fd, F_WRLCK, PINLEASE_WHY_OWN_MAPPING, 0);
	munmap(map, PAGE);
	expect_nobody(c.fd, F_WRLCK);
}

/* A child that opens the file as told, and lives until it is killed. */
static pid_t opener(int flags)
{
	int ready[2], parent = getpid();
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (flags >= 0)
			close(c.fd);
		if (flags >= 0 && open(c.path, flags) < 0)
			_exit(1);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		while (getppid() == parent)
			unit_sleep_ms(50);
		_exit(0);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void gone(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(unit_wait_child(pid), 128 + SIGKILL);
}

static void another_process(void **state)
{
	pid_t pid = opener(O_RDONLY);

	(void)state;
	expect(c.fd, F_WRLCK, PINLEASE_WHY_OPENER, pid);
	gone(pid);
	expect_nobody(c.fd, F_WRLCK);
}

/* One that only holds a path to it, or inherited our own description, is not in the way. */
static void bystanders(void **state)
{
	pid_t path_only = opener(O_PATH), heir = opener(-1), pid;

	(void)state;
	expect_nobody(c.fd, F_WRLCK);
	pid = opener(O_RDWR);
	expect(c.fd, F_WRLCK, PINLEASE_WHY_OPENER, pid);
	gone(pid);
	gone(path_only);
	gone(heir);
}

static void a_writer_elsewhere_and_a_read_lease(void **state)
{
	int ours = reopen(O_RDONLY);
	pid_t reader, writer;

	(void)state;
	close(c.fd);
	c.fd = ours;
	reader = opener(O_RDONLY);
	expect_nobody(ours, F_RDLCK);
	writer = opener(O_WRONLY);
	expect(ours, F_RDLCK, PINLEASE_WHY_OPENER, writer);
	gone(reader);
	gone(writer);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nobody),
		TEST(a_second_fd_of_ours),
		TEST(readers_and_a_read_lease),
		TEST(a_mapping_left_behind),
		TEST(another_process),
		TEST(bystanders),
		TEST(a_writer_elsewhere_and_a_read_lease),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
