/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Persistent memory without a page cache: device-dax, which is no file but has everything a
 * static guard needs, and fs-dax, whose mappings say by MAP_SYNC whether stores can be made
 * durable from user space. In a guest with --pmem.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scene.h"

#define PAGE 4096u
#define HUGE (2u << 20)	/* the alignment that ndctl gives a device-dax, and a huge page */
#define FULL (4 * HUGE)

#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#endif

static char device[KT_PATH_MAX];
static int dev_fd;
static uint64_t dev_size;

static void *map(int fd, size_t len, int flags, off_t off)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, off);
}

/* -errno, or 0 and it is unmapped again. */
static int try_map(int fd, size_t len, int flags, off_t off)
{
	void *p = map(fd, len, flags, off);

	if (p == MAP_FAILED)
		return -errno;
	munmap(p, len);
	return 0;
}

static int ret(long r)
{
	return r < 0 ? -errno : 0;
}

/* Page faults that a store to each page of p..p+len takes. */
static long faults(volatile char *p, size_t len)
{
	struct rusage before, after;
	size_t at;

	getrusage(RUSAGE_SELF, &before);
	for (at = 0; at < len; at += PAGE)
		p[at] = 1;
	getrusage(RUSAGE_SELF, &after);
	return after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt;
}

static void device_dax_is_mapped_in_multiples_of_its_alignment(void **state)
{
	char *p;

	(void)state;
	assert_int_equal(dev_size % HUGE, 0);
	assert_int_equal(try_map(dev_fd, PAGE, MAP_SHARED, 0), -EINVAL);
	assert_int_equal(try_map(dev_fd, HUGE + PAGE, MAP_SHARED, 0), -EINVAL);
	assert_int_equal(try_map(dev_fd, HUGE, MAP_SHARED, PAGE), -EINVAL);
	assert_int_equal(try_map(dev_fd, HUGE, MAP_PRIVATE, 0), -EINVAL);
	assert_int_equal(try_map(dev_fd, HUGE, MAP_SHARED, HUGE), 0);
	assert_int_equal(try_map(dev_fd, HUGE, MAP_SHARED_VALIDATE | MAP_SYNC, 0), 0);
	p = map(dev_fd, FULL, MAP_SHARED, 0);
	assert_true(p != MAP_FAILED);
	assert_int_equal((uintptr_t)p % HUGE, 0);
	assert_int_equal(ret(munmap(p, PAGE)), -EINVAL);
	assert_int_equal(ret(mprotect(p, PAGE, PROT_READ)), -EINVAL);
	assert_in_range(faults(p, FULL), 1, FULL / HUGE + 8);
	assert_int_equal(munmap(p, FULL), 0);
}

static void device_dax_has_no_calls_but_mmap(void **state)
{
	struct stat st;
	char buf[8];
	void *p;

	(void)state;
	assert_int_equal(fstat(dev_fd, &st), 0);
	assert_true(S_ISCHR(st.st_mode) && st.st_size == 0);
	assert_int_equal(ret(pread(dev_fd, buf, sizeof(buf), 0)), -EINVAL);
	assert_int_equal(ret(pwrite(dev_fd, buf, sizeof(buf), 0)), -EINVAL);
	assert_int_equal(lseek(dev_fd, 0, SEEK_END), 0);
	assert_int_equal(ret(fsync(dev_fd)), -EINVAL);
	assert_int_equal(ret(fdatasync(dev_fd)), -EINVAL);
	p = map(dev_fd, HUGE, MAP_SHARED, 0);
	assert_true(p != MAP_FAILED);
	assert_int_equal(ret(msync(p, HUGE, MS_SYNC)), -EINVAL);
	/* Faulting in works, and nothing needs it. */
	assert_int_equal(ret(madvise(p, HUGE, MADV_POPULATE_WRITE)), 0);
	assert_int_equal(ret(madvise(p, HUGE, MADV_POPULATE_READ)), 0);
	assert_int_equal(ret(madvise(p, HUGE, MADV_DONTFORK)), 0);
	munmap(p, HUGE);
}

static void device_dax_has_no_layout_that_could_change(void **state)
{
	volatile char *p = map(dev_fd, HUGE, MAP_SHARED, 0);
	int fd;

	(void)state;
	assert_true(p != MAP_FAILED);
	*p = 'x';
	assert_int_equal(ret(ftruncate(dev_fd, 0)), -EINVAL);
	assert_int_equal(ret(truncate(device, 0)), -EINVAL);
	assert_int_equal(ret(fallocate(dev_fd, 0, 0, HUGE)), -ENODEV);
	assert_int_equal(ret(fallocate(dev_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE)),
			 -ENODEV);
	assert_int_equal(ret(madvise((void *)p, HUGE, MADV_REMOVE)), -ENODEV);
	fd = open(device, O_RDWR | O_TRUNC | O_CLOEXEC);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(*p, 'x');
	munmap((void *)p, HUGE);
}

static void device_dax_has_neither_leases_nor_seals(void **state)
{
	(void)state;
	assert_int_equal(ret(fcntl(dev_fd, F_SETLEASE, F_WRLCK)), -EINVAL);
	assert_int_equal(ret(fcntl(dev_fd, F_SETLEASE, F_RDLCK)), -EINVAL);
	assert_int_equal(fcntl(dev_fd, F_GETLEASE), F_UNLCK);
	assert_int_equal(ret(fcntl(dev_fd, F_GET_SEALS)), -EINVAL);
}

static void file_make(const struct kt_fs *fs, char path[KT_PATH_MAX], int *fd)
{
	assert_int_equal(kt_file(path, fs->dir, "file", 0), 0);
	*fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(*fd >= 0);
	assert_int_equal(fallocate(*fd, 0, 0, FULL), 0);
}

static void dax_file(struct kt_fs *fs, const char *type, char path[KT_PATH_MAX], int *fd)
{
	assert_int_equal(kt_fs_make(fs, type, 64), 0);
	file_make(fs, path, fd);
}

static bool is_dax(int fd)
{
	struct statx stx;

	assert_int_equal(statx(fd, "", AT_EMPTY_PATH, 0, &stx), 0);
	return stx.stx_attributes & STATX_ATTR_DAX;
}

static void fs_dax_is_mapped_with_map_sync_and_page_cache_is_not(void **state)
{
	static const char *const types[] = { "ext4_dax", "xfs_dax" };
	char path[KT_PATH_MAX];
	struct kt_fs fs;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		dax_file(&fs, types[i], path, &fd);
		assert_true(is_dax(fd));
		assert_int_equal(try_map(fd, FULL, MAP_SHARED_VALIDATE | MAP_SYNC, 0), 0);
		close(fd);
		kt_fs_drop(&fs);
	}
	for (enum scene_fs which = TMPFS; which < SCENE_FS_COUNT; which++) {
		scene_file(which, path);
		fd = open(path, O_RDWR | O_CLOEXEC);
		assert_false(is_dax(fd));
		assert_int_equal(try_map(fd, PAGE, MAP_SHARED_VALIDATE | MAP_SYNC, 0), -EOPNOTSUPP);
		close(fd);
	}
}

/* Blocks, offset and address must agree in their distance from a huge page, or each fault maps 4 KiB. */
static void fs_dax_maps_huge_pages_where_address_and_offset_agree(void **state)
{
	char path[KT_PATH_MAX], *room, *at;
	struct kt_fs fs;
	int fd;

	(void)state;
	/* Blocks in multiples of 2 MiB; without being told so mkfs leaves it to chance. */
	assert_int_equal(system("mkfs.ext4 -q -F -b 4096 -E stride=512,stripe_width=512 /dev/pmem0"), 0);
	assert_int_equal(kt_fs_mount(&fs, "ext4", "/dev/pmem0", "dax=always"), 0);
	file_make(&fs, path, &fd);
	room = mmap(NULL, FULL + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(room != MAP_FAILED);
	at = room + HUGE - (uintptr_t)room % HUGE;
	/* The blocks are made first, in both rounds alike. */
	assert_ptr_equal(mmap(at, FULL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), at);
	assert_int_equal(madvise(at, FULL, MADV_POPULATE_WRITE), 0);
	assert_ptr_equal(mmap(at, FULL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), at);
	assert_in_range(faults(at, FULL), 1, FULL / HUGE + 8);
	at += PAGE;
	assert_ptr_equal(mmap(at, FULL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), at);
	assert_in_range(faults(at, FULL), FULL / PAGE, FULL / PAGE + 8);
	munmap(room, FULL + 2 * HUGE);
	close(fd);
	kt_fs_drop(&fs);
}

static sigjmp_buf out;

static void on_sigbus(int signo)
{
	(void)signo;
	siglongjmp(out, 1);
}

static bool store_is_sigbus(volatile char *p)
{
	struct sigaction old, sa = { .sa_handler = on_sigbus };
	bool caught = true;

	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(out, 1)) {
		*p = 1;
		caught = false;
	}
	sigaction(SIGBUS, &old, NULL);
	return caught;
}

static void behind_the_end_of_a_cut_fs_dax_file_is_sigbus_until_it_grows(void **state)
{
	static const char *const types[] = { "ext4_dax", "xfs_dax" };
	char path[KT_PATH_MAX], *p;
	struct kt_fs fs;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		dax_file(&fs, types[i], path, &fd);
		p = map(fd, FULL, MAP_SHARED_VALIDATE | MAP_SYNC, 0);
		assert_true(p != MAP_FAILED);
		p[HUGE] = 'x';
		assert_int_equal(truncate(path, HUGE), 0);
		assert_true(store_is_sigbus(p + HUGE));
		assert_int_equal(ret(madvise(p + HUGE, PAGE, MADV_POPULATE_WRITE)), -EFAULT);
		assert_int_equal(truncate(path, FULL), 0);
		assert_int_equal(p[HUGE], 0);
		assert_false(store_is_sigbus(p + HUGE));
		munmap(p, FULL);
		close(fd);
		kt_fs_drop(&fs);
	}
}

static int setup(void **state)
{
	int r;

	if (scene_setup(state))
		return -1;
	r = kt_devdax(device, &dev_size);
	if (r == -ENODEV)
		kt_skip("no device-dax, and no /dev/pmem1 to make one of");
	if (r)
		return r;
	dev_fd = open(device, O_RDWR | O_CLOEXEC);
	return dev_fd < 0 ? -errno : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(device_dax_is_mapped_in_multiples_of_its_alignment),
		cmocka_unit_test(device_dax_has_no_calls_but_mmap),
		cmocka_unit_test(device_dax_has_no_layout_that_could_change),
		cmocka_unit_test(device_dax_has_neither_leases_nor_seals),
		cmocka_unit_test(fs_dax_is_mapped_with_map_sync_and_page_cache_is_not),
		cmocka_unit_test(fs_dax_maps_huge_pages_where_address_and_offset_agree),
		cmocka_unit_test(behind_the_end_of_a_cut_fs_dax_file_is_sigbus_until_it_grows),
	};

	kt_init();
	return cmocka_run_group_tests(tests, setup, NULL);
}
