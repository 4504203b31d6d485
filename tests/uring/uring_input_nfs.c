/* SPDX-License-Identifier: BSD-3-Clause */
/* NFS is refused with its reason, since an opener on the server does not wait for the client's lease. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_LEN (16 * UT_BLOCK)

static struct kt_nfs nfs;
static struct ut u;
static char server_path[KT_PATH_MAX], path[KT_PATH_MAX];

static struct pinlease_file *const none = (void *)1;

static int try_open(const char *name, uint32_t access, uint32_t guard, struct pinlease_why *why)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .access = access, .guard = guard };
	struct pinlease_file *file = none;
	int ret = pinlease_file_open(u.ctx, name, &opts, why, &file);

	if (ret)
		assert_ptr_equal(file, none);
	else
		assert_int_equal(pinlease_file_close(file), 0);
	return ret;
}

static int on_the_server(struct pinlease_why *why)
{
	return try_open(server_path, PINLEASE_WRITE, PINLEASE_GUARD_AUTO, why);
}

static int for_writing(struct pinlease_why *why)
{
	return try_open(path, PINLEASE_WRITE, PINLEASE_GUARD_AUTO, why);
}

static int for_reading(struct pinlease_why *why)
{
	return try_open(path, PINLEASE_READ, PINLEASE_GUARD_AUTO, why);
}

static int by_name(struct pinlease_why *why)
{
	return try_open(path, PINLEASE_READ, PINLEASE_GUARD_LEASE, why);
}

static int no_guard(struct pinlease_why *why)
{
	return try_open(path, PINLEASE_WRITE, PINLEASE_GUARD_NONE, why);
}

static int attached(struct pinlease_why *why)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .access = PINLEASE_WRITE };
	struct pinlease_file *file = none;
	int fd = open(path, O_RDWR | O_CLOEXEC), ret;

	assert_true(fd >= 0);
	ret = pinlease_file_attach(u.ctx, fd, &opts, why, &file);
	assert_ptr_equal(file, none);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
	close(fd);
	return ret;
}

#define REFUSED -EOPNOTSUPP, PINLEASE_AT_GUARD, PINLEASE_WHY_FILESYSTEM

static const struct input_row rows[] = {
	{ "open for writing", for_writing, REFUSED },
	{ "open for reading", for_reading, REFUSED },
	{ "lease by name", by_name, REFUSED },
	{ "attach", attached, REFUSED },
	{ "control: no guard, by name", no_guard, 0, 0, 0 },
};

static void table(void **state)
{
	struct stat before, after;
	struct pinlease_why why = { 0 };
	int ret;

	(void)state;
	assert_int_equal(stat(server_path, &before), 0);
	input_check(rows, sizeof(rows) / sizeof(rows[0]));
	assert_int_equal(stat(server_path, &after), 0);
	assert_int_equal(before.st_size, after.st_size);
	assert_int_equal(before.st_blocks, after.st_blocks);
	/* It is the way to the file that is refused, not the file; the server keeps it open for a while. */
	ret = on_the_server(&why);
	for (int i = 0; ret == -EAGAIN && i < 3000; i++) {
		kt_sleep_ms(10);
		ret = on_the_server(&why);
	}
	assert_int_equal(ret, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(table) };
	int ret;

	ut_begin();
	ret = kt_nfs_make(&nfs);
	if (ret == -ENODEV)
		kt_skip("this kernel has no NFS server");
	if (ret)
		print_error("NFS: %s\n", strerror(-ret));
	assert_int_equal(ret, 0);
	ut_file(server_path, nfs.server.dir, "f", FILE_LEN / UT_BLOCK);
	snprintf(path, sizeof(path), "%.64s/f", nfs.client.dir);
	ut_start(&u, 8, 8);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	ut_stop(&u);
	kt_nfs_drop(&nfs);
	return ret;
}
