/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What an RDMA device may pin: one table, a column for each generation of kernels.
 * RO: remote read only. LW: the device writes. ODP: LW with IBV_ACCESS_ON_DEMAND.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rdma_scene.h"

#define ODP (KT_ACCESS_WRITE | IBV_ACCESS_ON_DEMAND)

/* errno, 0 for a registration that works */
static const int odp_error[] = { [LONGTERM_WRITE] = EINVAL, [NO_ODP] = EOPNOTSUPP, [WITH_ODP] = 0 };

static int try_register(void *map, size_t len, unsigned int access)
{
	struct ibv_mr *mr;

	errno = 0;
	mr = ibv_reg_mr(rdma.pd, map, len, access);
	if (!mr)
		return errno;
	assert_int_equal(ibv_dereg_mr(mr), 0);
	return 0;
}

static void ask_file(const char *what, int fd, size_t len, int lw_error)
{
	void *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_true(map != MAP_FAILED);
	print_message("%s: RO, LW, ODP\n", what);
	assert_int_equal(try_register(map, len, KT_ACCESS_READ), 0);
	assert_int_equal(try_register(map, len, KT_ACCESS_WRITE), lw_error);
	assert_int_equal(try_register(map, len, ODP), odp_error[generation()]);
	munmap(map, len);
}

static void ask_fs(enum scene_fs which, int lw_error)
{
	char path[KT_PATH_MAX];
	int fd;

	scene_file(which, path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	ask_file(scene_type(which), fd, SCENE_SIZE, lw_error);
	close(fd);
}

static void tmpfs_takes_every_pin(void **state)
{
	(void)state;
	ask_fs(TMPFS, 0);
}

static void page_cache_takes_write_pins_before_6_5_only(void **state)
{
	(void)state;
	for (enum scene_fs which = EXT4; which <= BTRFS; which++)
		ask_fs(which, generation() == LONGTERM_WRITE ? 0 : EFAULT);
}

static void anonymous_memory_and_memfd_take_every_pin(void **state)
{
	int fd = memfd_create("kt", MFD_CLOEXEC);
	void *map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_int_equal(ftruncate(fd, SCENE_SIZE), 0);
	ask_file("memfd", fd, SCENE_SIZE, 0);
	close(fd);
	assert_int_equal(try_register(map, SCENE_SIZE, KT_ACCESS_WRITE), 0);
	assert_int_equal(try_register(map, SCENE_SIZE, ODP), odp_error[generation()]);
	munmap(map, SCENE_SIZE);
}

static void reserve_hugepages(int pages)
{
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "we");

	assert_non_null(f);
	fprintf(f, "%d\n", pages);
	fclose(f);
}

static void hugetlbfs_takes_every_pin(void **state)
{
	const size_t huge = 2u << 20;
	char path[KT_PATH_MAX + 8];
	struct kt_fs fs;
	int fd;

	(void)state;
	reserve_hugepages(4);
	assert_int_equal(kt_fs_make(&fs, "hugetlbfs", 8), 0);
	snprintf(path, sizeof(path), "%s/f", fs.dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, (off_t)huge), 0);
	ask_file("hugetlbfs", fd, huge, 0);
	close(fd);
	kt_fs_drop(&fs);
	reserve_hugepages(0);
}

/* scripts/vm --pmem has /dev/pmem0 and /dev/pmem1; without them nobody is asked. */
static bool with_pmem(const char *what)
{
	if (!access("/dev/pmem0", F_OK))
		return true;
	kt_note("%s: no /dev/pmem0", what);
	return false;
}

static void fs_dax_takes_odp_only(void **state)
{
	static const char *const types[] = { "ext4_dax", "xfs_dax" };
	char path[KT_PATH_MAX];
	struct kt_fs fs;
	void *map;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < 2 && with_pmem(types[i]); i++) {
		assert_int_equal(kt_fs_make(&fs, types[i], 64), 0);
		assert_int_equal(kt_file(path, fs.dir, "f", SCENE_SIZE), 0);
		fd = open(path, O_RDWR | O_CLOEXEC);
		map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
		assert_true(map != MAP_FAILED);
		assert_int_equal(try_register(map, SCENE_SIZE, KT_ACCESS_READ), EOPNOTSUPP);
		assert_int_equal(try_register(map, SCENE_SIZE, KT_ACCESS_WRITE), EOPNOTSUPP);
		assert_int_equal(try_register(map, SCENE_SIZE, ODP), odp_error[generation()]);
		munmap(map, SCENE_SIZE);
		close(fd);
		kt_fs_drop(&fs);
	}
}

static void device_dax_takes_every_pin(void **state)
{
	const size_t size = 4u << 20;
	char path[KT_PATH_MAX];
	uint64_t all;
	void *map;
	int fd;

	(void)state;
	if (!with_pmem("device-dax"))
		return;
	assert_int_equal(kt_devdax(path, &all), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	ask_file("device-dax", fd, size, 0);
	close(fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	assert_int_equal(try_register(map, size, KT_ACCESS_READ),
			 generation() == LONGTERM_WRITE ? EFAULT : 0);
	munmap(map, size);
	close(fd);
}

static void a_read_registration_of_an_o_rdonly_mapping_fails_before_6_5(void **state)
{
	char path[KT_PATH_MAX];

	(void)state;
	for_each_fs(which)
	{
		void *map;
		int fd;

		scene_file(which, path);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		map = mmap(NULL, SCENE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
		assert_true(map != MAP_FAILED);
		assert_int_equal(try_register(map, SCENE_SIZE, KT_ACCESS_READ),
				 generation() == LONGTERM_WRITE ? EFAULT : 0);
		munmap(map, SCENE_SIZE);
		close(fd);
	}
}

static void a_read_registration_fills_holes_before_6_5(void **state)
{
	char path[KT_PATH_MAX];

	(void)state;
	for (enum scene_fs which = EXT4; which <= BTRFS; which++) {
		void *map;
		int fd;

		assert_int_equal(kt_file(path, scene_dir(which), "hole", 0), 0);
		fd = open(path, O_RDWR | O_CLOEXEC);
		assert_int_equal(ftruncate(fd, SCENE_SIZE), 0);
		map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		assert_int_equal(try_register(map, SCENE_SIZE, KT_ACCESS_READ), 0);
		assert_int_equal(fsync(fd), 0);
		assert_int_equal(lseek(fd, 0, SEEK_HOLE), generation() == LONGTERM_WRITE ? SCENE_SIZE : 0);
		munmap(map, SCENE_SIZE);
		close(fd);
	}
}

static void the_rxe_provider_of_rdma_core_44_has_neither_rereg_nor_advise(void **state)
{
	struct ibv_sge sge;
	struct target t;

	(void)state;
	target_make(&t, TMPFS, KT_ACCESS_WRITE);
	sge = (struct ibv_sge){ (uintptr_t)t.map, PAGE, t.mr->lkey };
	assert_int_equal(
		ibv_advise_mr(rdma.pd, IBV_ADVISE_MR_ADVICE_PREFETCH, IBV_ADVISE_MR_FLAG_FLUSH, &sge, 1),
		EOPNOTSUPP);
	errno = 0;
	assert_true(ibv_rereg_mr(t.mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, KT_ACCESS_READ) != 0);
	assert_int_equal(errno, EOPNOTSUPP);
	target_drop(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tmpfs_takes_every_pin),
		cmocka_unit_test(page_cache_takes_write_pins_before_6_5_only),
		cmocka_unit_test(anonymous_memory_and_memfd_take_every_pin),
		cmocka_unit_test(hugetlbfs_takes_every_pin),
		cmocka_unit_test(fs_dax_takes_odp_only),
		cmocka_unit_test(device_dax_takes_every_pin),
		cmocka_unit_test(a_read_registration_of_an_o_rdonly_mapping_fails_before_6_5),
		cmocka_unit_test(a_read_registration_fills_holes_before_6_5),
		cmocka_unit_test(the_rxe_provider_of_rdma_core_44_has_neither_rereg_nor_advise),
	};

	kt_init();
	return cmocka_run_group_tests(tests, rdma_setup, rdma_teardown);
}
