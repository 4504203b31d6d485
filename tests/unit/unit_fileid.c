/* SPDX-License-Identifier: BSD-3-Clause */
/* Which file it is, and what may be done there. */
#include <pinlease.h>
#include <sys/socket.h>

#include "fileid.h"
#include "unit.h"

static void memory_files(void **state)
{
	int fd = unit_memfd(12345), again;
	struct pl_fileid id, other;
	uint64_t size = 0;
	uint32_t reason;
	char path[64];

	(void)state;
	assert_int_equal(pl_fileid_get(fd, &id, &size, &reason), 0);
	assert_true(size == 12345 && id.fs == PL_FS_TMPFS && id.page == 4096 && !id.dax && id.ino);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pl_fileid_get(again, &other, NULL, &reason), 0);
	assert_true(other.dev == id.dev && other.ino == id.ino);
	assert_int_equal(pl_fileid_same(again, &id), 0);
	close(again);
	close(fd);
}

/* The fd was closed and its number taken by another file. */
static void a_replaced_fd_is_another_file(void **state)
{
	int fd = unit_memfd(1), other = unit_memfd(1);
	struct pl_fileid id;
	uint32_t reason;

	(void)state;
	assert_int_equal(pl_fileid_get(fd, &id, NULL, &reason), 0);
	assert_int_equal(dup2(other, fd), fd);
	assert_int_equal(pl_fileid_same(fd, &id), -EBADF);
	close(fd);
	assert_int_equal(pl_fileid_same(fd, &id), -EBADF);
	close(other);
}

static void its_size_is_asked_for(void **state)
{
	struct pl_fileid id, device = { .fs = PL_FS_DEVDAX, .size = 88 };
	int fd = unit_memfd(12345), other = unit_memfd(1);
	uint64_t size = 77;
	uint32_t reason;

	(void)state;
	assert_int_equal(pl_fileid_get(fd, &id, NULL, &reason), 0);
	assert_false(pl_fileid_pmem(&id));
	assert_int_equal(ftruncate(fd, 54321), 0);
	assert_int_equal(pl_fileid_size(fd, &id, &size), 0);
	assert_int_equal(size, 54321);
	assert_int_equal(pl_fileid_size(other, &id, &size), -EBADF);
	assert_int_equal(size, 54321);
	/* stat(2) says 0 for a device: what it was found to have. */
	device.dev = id.dev;
	device.ino = id.ino;
	assert_true(pl_fileid_pmem(&device));
	assert_int_equal(pl_fileid_size(fd, &device, &size), 0);
	assert_int_equal(size, 88);
	close(fd);
	close(other);
}

static void refuse(int fd, int err, uint32_t why)
{
	struct pl_fileid id = { .ino = 77 };
	uint64_t size = 77;
	uint32_t reason = PINLEASE_WHY_NONE;

	assert_int_equal(pl_fileid_get(fd, &id, &size, &reason), err);
	assert_int_equal(reason, why);
	assert_true(id.ino == 77 && size == 77);
	close(fd);
}

static void what_is_no_regular_file(void **state)
{
	int fds[2];

	(void)state;
	refuse(open("/var/tmp", O_RDONLY | O_CLOEXEC), -EISDIR, PINLEASE_WHY_NOT_REGULAR);
	refuse(open("/dev/null", O_RDWR | O_CLOEXEC), -EINVAL, PINLEASE_WHY_NOT_REGULAR);
	assert_int_equal(pipe(fds), 0);
	refuse(fds[0], -EINVAL, PINLEASE_WHY_NOT_REGULAR);
	close(fds[1]);
	refuse(socket(AF_UNIX, SOCK_STREAM, 0), -EINVAL, PINLEASE_WHY_NOT_REGULAR);
	refuse(1 << 20, -EBADF, PINLEASE_WHY_BAD_FD);
}

/* procfs: a regular file on a file system that nobody knows anything of. */
static void unknown_is_foreign(void **state)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	struct pl_fileid id;
	uint32_t reason;

	(void)state;
	assert_int_equal(pl_fileid_get(fd, &id, NULL, &reason), 0);
	assert_int_equal(id.fs, PL_FS_FOREIGN);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_files),
		cmocka_unit_test(a_replaced_fd_is_another_file),
		cmocka_unit_test(its_size_is_asked_for),
		cmocka_unit_test(what_is_no_regular_file),
		cmocka_unit_test(unknown_is_foreign),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
