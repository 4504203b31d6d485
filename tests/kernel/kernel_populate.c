/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What happens before pages are pinned for writing: holes, full file systems, shared
 * extents. Faulting a range in turns every failure into a SIGBUS or, by madvise, into
 * EFAULT; only fallocate says which it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

#define RANGE (256u << 10)

struct file {
	char path[KT_PATH_MAX];
	int fd;
	char *map; /* RANGE bytes, writable */
};

/* A sparse file of RANGE bytes in dir. */
static struct file sparse(const char *dir, const char *name)
{
	struct file f;

	assert_int_equal(kt_file(f.path, dir, name, 0), 0);
	f.fd = open(f.path, O_RDWR | O_CLOEXEC);
	assert_true(f.fd >= 0);
	assert_int_equal(ftruncate(f.fd, RANGE), 0);
	f.map = mmap(NULL, RANGE, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
	assert_true(f.map != MAP_FAILED);
	assert_int_equal(lseek(f.fd, 0, SEEK_HOLE), 0);
	return f;
}

static void drop(struct file *f)
{
	munmap(f->map, RANGE);
	close(f->fd);
	unlink(f->path);
}

static int populate(void *map, size_t len, int advice)
{
	return madvise(map, len, advice) ? -errno : 0;
}

static void populate_write_fills_holes_and_seek_hole_sees_it(void **state)
{
	(void)state;
	for_each_fs(which)
	{
		struct file f = sparse(scene_dir(which), "sparse");

		assert_int_equal(populate(f.map, RANGE / 2, MADV_POPULATE_WRITE), 0);
		assert_int_equal(lseek(f.fd, 0, SEEK_HOLE), RANGE / 2);
		assert_int_equal(fsync(f.fd), 0);
		assert_int_equal(lseek(f.fd, 0, SEEK_HOLE), RANGE / 2);
		assert_int_equal(populate(f.map, RANGE, MADV_POPULATE_WRITE), 0);
		assert_int_equal(lseek(f.fd, 0, SEEK_HOLE), RANGE); /* the one at the end of every file */
		drop(&f);
	}
}

static void a_read_fault_fills_a_hole_on_tmpfs_only(void **state)
{
	(void)state;
	for_each_fs(which)
	{
		struct file f = sparse(scene_dir(which), "sparse");

		assert_int_equal(populate(f.map, 4096, MADV_POPULATE_READ), 0);
		assert_int_equal(lseek(f.fd, 0, SEEK_HOLE), which == TMPFS ? 4096 : 0);
		drop(&f);
	}
}

/* Blocks that are there but were never written are holes to SEEK_HOLE; st_blocks knows better. */
static void seek_hole_takes_allocated_unwritten_blocks_for_a_hole(void **state)
{
	struct stat st;

	(void)state;
	for_each_fs(which)
	{
		struct file f = sparse(scene_dir(which), "sparse");

		assert_int_equal(fallocate(f.fd, 0, 0, RANGE), 0);
		assert_int_equal(fsync(f.fd), 0);
		assert_int_equal(lseek(f.fd, 0, SEEK_HOLE), 0);
		assert_int_equal(fstat(f.fd, &st), 0);
		assert_true(st.st_blocks * 512 >= RANGE);
		drop(&f);
	}
}

/* A small file system of each kind, filled up when it already had a sparse file and one that fallocate made
 * whole. */
static struct full {
	struct kt_fs fs;
	struct file sparse, reserved;
} filled[SCENE_FS_COUNT];

static struct full *full(enum scene_fs which)
{
	struct full *f = &filled[which];

	if (f->fs.dir[0])
		return f;
	assert_int_equal(kt_fs_make(&f->fs, scene_type(which), 8), 0);
	f->sparse = sparse(f->fs.dir, "sparse");
	f->reserved = sparse(f->fs.dir, "reserved");
	assert_int_equal(fallocate(f->reserved.fd, 0, 0, RANGE), 0);
	assert_int_equal(fsync(f->reserved.fd), 0);
	assert_int_equal(kt_fill_up(f->fs.dir), 0);
	return f;
}

static void on_a_full_file_system_populate_says_efault_and_fallocate_enospc(void **state)
{
	(void)state;
	for_each_fs(which)
	{
		struct file *f = &full(which)->sparse;

		assert_int_equal(populate(f->map, RANGE, MADV_POPULATE_WRITE), -EFAULT);
		assert_int_equal(fallocate(f->fd, 0, 0, RANGE), -1);
		assert_int_equal(errno, ENOSPC);
	}
}

static int store_to_the_end(const void *arg)
{
	int fd = open(arg, O_RDWR | O_CLOEXEC);
	volatile char *map;

	if (fd < 0)
		return -errno;
	map = mmap(NULL, RANGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (size_t i = 0; i < RANGE; i += 4096)
		map[i] = 1;
	return 0;
}

static void on_a_full_file_system_a_store_is_sigbus(void **state)
{
	struct kt_call *call;

	(void)state;
	for_each_fs(which)
	{
		const char *path = full(which)->sparse.path;

		call = kt_call_start(store_to_the_end, path, KT_PATH_MAX);
		assert_non_null(call);
		assert_int_equal(kt_call_exited(call, SCENE_LONG), 1);
		assert_true(WIFSIGNALED(call->status) && WTERMSIG(call->status) == SIGBUS);
		kt_call_end(call);
	}
}

/* btrfs needs room beside what it reserved, and up to 6.12 did not find it on a file system filled to the
 * brim. */
static void what_fallocate_reserved_can_be_populated_when_full_but_not_on_old_btrfs(void **state)
{
	(void)state;
	for_each_fs(which)
	{
		bool fails = which == BTRFS && !kt_kernel_from(6, 18);
		struct file *f = &full(which)->reserved;

		assert_int_equal(populate(f->map, RANGE, MADV_POPULATE_WRITE), fails ? -EFAULT : 0);
	}
}

static void populate_says_what_else_is_wrong(void **state)
{
	(void)state;
	for_each_fs(which)
	{
		struct file f = sparse(scene_dir(which), "sparse");
		void *read_only = mmap(NULL, RANGE, PROT_READ, MAP_SHARED, f.fd, 0);

		assert_true(read_only != MAP_FAILED);
		assert_int_equal(populate(read_only, RANGE, MADV_POPULATE_WRITE), -EINVAL);
		assert_int_equal(ftruncate(f.fd, 4096), 0);
		assert_int_equal(populate(f.map, 4096, MADV_POPULATE_WRITE), 0);
		assert_int_equal(populate(f.map, RANGE, MADV_POPULATE_WRITE), -EFAULT);
		munmap(read_only, RANGE);
		assert_int_equal(populate(read_only, RANGE, MADV_POPULATE_WRITE), -ENOMEM);
		drop(&f);
	}
}

static unsigned int extent_flags(int fd)
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + sizeof(struct fiemap_extent)];
	} u = { .map = { .fm_length = RANGE, .fm_flags = FIEMAP_FLAG_SYNC, .fm_extent_count = 1 } };

	assert_int_equal(ioctl(fd, FS_IOC_FIEMAP, &u.map), 0);
	assert_int_equal(u.map.fm_mapped_extents, 1);
	return u.map.fm_extents[0].fe_flags;
}

/* A file whose one extent it shares with another one. */
static struct file shared(enum scene_fs which)
{
	struct file f = sparse(scene_dir(which), "sparse");
	char clone[KT_PATH_MAX];
	int fd;

	memset(f.map, 'k', RANGE);
	assert_int_equal(fsync(f.fd), 0);
	assert_int_equal(kt_file(clone, scene_dir(which), "clone", 0), 0);
	fd = open(clone, O_RDWR | O_CLOEXEC);
	assert_int_equal(ioctl(fd, FICLONE, f.fd), 0);
	close(fd);
	assert_true(extent_flags(f.fd) & FIEMAP_EXTENT_SHARED);
	return f;
}

/* fallocate is content with a shared extent; a write fault is not. */
static void populate_write_unshares_extents_fallocate_does_not(void **state)
{
	(void)state;
	for (enum scene_fs which = XFS; which <= BTRFS; which++) {
		struct file f = shared(which);

		assert_int_equal(fallocate(f.fd, 0, 0, RANGE), 0);
		assert_true(extent_flags(f.fd) & FIEMAP_EXTENT_SHARED);
		assert_int_equal(populate(f.map, RANGE, MADV_POPULATE_WRITE), 0);
		assert_false(extent_flags(f.fd) & FIEMAP_EXTENT_SHARED);
		drop(&f);
	}
}

static void unshare_range_is_for_xfs_alone(void **state)
{
	const int mode = FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE;
	struct file f = shared(XFS);

	(void)state;
	assert_int_equal(fallocate(f.fd, mode, 0, RANGE), 0);
	assert_false(extent_flags(f.fd) & FIEMAP_EXTENT_SHARED);
	drop(&f);
	for_each_fs(which)
	{
		if (which == XFS)
			continue;
		f = sparse(scene_dir(which), "sparse");
		assert_int_equal(fallocate(f.fd, mode, 0, RANGE), -1);
		assert_int_equal(errno, EOPNOTSUPP);
		drop(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(populate_write_fills_holes_and_seek_hole_sees_it),
		cmocka_unit_test(a_read_fault_fills_a_hole_on_tmpfs_only),
		cmocka_unit_test(seek_hole_takes_allocated_unwritten_blocks_for_a_hole),
		cmocka_unit_test(on_a_full_file_system_populate_says_efault_and_fallocate_enospc),
		cmocka_unit_test(on_a_full_file_system_a_store_is_sigbus),
		cmocka_unit_test(what_fallocate_reserved_can_be_populated_when_full_but_not_on_old_btrfs),
		cmocka_unit_test(populate_says_what_else_is_wrong),
		cmocka_unit_test(populate_write_unshares_extents_fallocate_does_not),
		cmocka_unit_test(unshare_range_is_for_xfs_alone),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
