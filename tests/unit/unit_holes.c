/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Holes: found, refused, filled; on a file system that has them. A read lease over a
 * hole is refused, since the page of zeros that is pinned there is not the one a
 * later O_DIRECT write goes to.
 */
#include <linux/magic.h>
#include <pinlease.h>
#include <sys/vfs.h>

#include "filemap.h"
#include "unit.h"

#define PAGE 4096ull
#define SIZE (64 * PAGE)

static struct scene {
	int fd;
	struct pl_fileid id;
	struct pl_map map;
} c;

/* Data in pages 8..15 and in the last one. */
static int setup(void **state)
{
	static const char block[8 * PAGE] = { 1 };
	uint32_t reason;

	(void)state;
	c.fd = unit_disk_file(SIZE);
	assert_int_equal(pwrite(c.fd, block, sizeof(block), 8 * PAGE), sizeof(block));
	assert_int_equal(pwrite(c.fd, block, PAGE, SIZE - PAGE), PAGE);
	assert_int_equal(pl_fileid_get(c.fd, &c.id, NULL, &reason), 0);
	return pl_filemap_new(c.fd, 0, SIZE, PINLEASE_READ, &c.id, &c.map);
}

static int teardown(void **state)
{
	(void)state;
	pl_filemap_free(&c.map);
	return close(c.fd);
}

static void found(void **state)
{
	(void)state;
	assert_int_equal(pl_sys_has_hole(c.fd, 0, SIZE), 1);
	assert_int_equal(pl_sys_has_hole(c.fd, 0, PAGE), 1);
	assert_int_equal(pl_sys_has_hole(c.fd, 8 * PAGE, 8 * PAGE), 0);
	assert_int_equal(pl_sys_has_hole(c.fd, 9 * PAGE, 100), 0);
	assert_int_equal(pl_sys_has_hole(c.fd, 9 * PAGE, 8 * PAGE), 1);
	assert_int_equal(pl_sys_has_hole(c.fd, 7 * PAGE, 2 * PAGE), 1);
	assert_int_equal(pl_sys_has_hole(c.fd, SIZE - PAGE, PAGE), 0);
	assert_int_equal(pl_sys_has_hole(c.fd, 0, 0), 0);
}

/* The application may share the description and read from it in another thread. */
static void no_offset_moves(void **state)
{
	(void)state;
	assert_int_equal(lseek(c.fd, 12345, SEEK_SET), 12345);
	assert_int_equal(pl_sys_has_hole(c.fd, 0, SIZE), 1);
	assert_int_equal(lseek(c.fd, 0, SEEK_CUR), 12345);
}

/* More extents than one question is answered with: every other page, then all. */
static void many_extents(void **state)
{
	char page[PAGE] = { 2 };
	uint64_t i;
	int fd = unit_disk_file(0);

	(void)state;
	for (i = 0; i < 400; i += 2) {
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
		assert_int_equal(fdatasync(fd), 0);
	}
	assert_int_equal(pl_sys_has_hole(fd, 0, 399 * PAGE), 1);
	for (i = 399; i; i -= 2) {
		assert_int_equal(pl_sys_has_hole(fd, 0, 400 * PAGE), 1);
		if (pwrite(fd, page, PAGE, (off_t)(i * PAGE)) != (ssize_t)PAGE)
			fail();
		if (i == 1)
			break;
	}
	assert_int_equal(pl_sys_has_hole(fd, 0, 400 * PAGE), 0);
	close(fd);
}

static int prepare(uint64_t off, uint64_t len, bool fill_holes, struct pl_fill_error *at)
{
	char *addr = (char *)c.map.addr + off;

	return pl_filemap_prepare(c.fd, off, len, addr, PINLEASE_READ, &c.id, fill_holes, NULL, NULL, at);
}

static void refused(void **state)
{
	struct pl_fill_error at = { 0 };

	(void)state;
	assert_int_equal(prepare(0, SIZE, false, &at), -ENODATA);
	assert_true(at.stage == PINLEASE_AT_ALLOCATE && at.reason == PINLEASE_WHY_HOLE);
	assert_int_equal(prepare(8 * PAGE, 8 * PAGE, false, &at), 0);
}

/* Through a mapping that cannot be written. What was there stays, and it is no hole afterwards. */
static void filled(void **state)
{
	struct pl_fill_error at = { 0 };
	const char *p = c.map.addr;

	(void)state;
	assert_int_equal(prepare(0, SIZE, true, &at), 0);
	assert_int_equal(pl_sys_has_hole(c.fd, 0, SIZE), 0);
	assert_true(p[0] == 0 && p[8 * PAGE] == 1 && p[SIZE - PAGE] == 1);
	assert_int_equal(prepare(0, SIZE, false, &at), 0);
	assert_int_equal(lseek(c.fd, 0, SEEK_END), SIZE);
}

/* Allocated and never written: the blocks are the file's, a write goes to them. */
static void preallocated_is_no_hole(void **state)
{
	(void)state;
	assert_int_equal(fallocate(c.fd, 0, 0, SIZE), 0);
	assert_int_equal(pl_sys_has_hole(c.fd, 0, SIZE), 0);
	assert_int_equal(fallocate(c.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * PAGE, PAGE), 0);
	assert_int_equal(pl_sys_has_hole(c.fd, 0, SIZE), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(found), TEST(no_offset_moves), TEST(many_extents), TEST(refused), TEST(filled),
		TEST(preallocated_is_no_hole),
	};
	struct statfs fs;

	if (statfs("/var/tmp", &fs) || (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC &&
					fs.f_type != BTRFS_SUPER_MAGIC)) {
		printf("/var/tmp is not on ext4, xfs or btrfs\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
