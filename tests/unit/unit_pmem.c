/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The seam to libpmem2, on files of a page cache: there every mapping is by_page, unless
 * libpmem2 is told to believe otherwise, which it reads from its environment when it is loaded.
 */
#include <pinlease.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "durable.h"
#include "pmem.h"
#include "unit.h"

#define PAGE  4096u
#define HUGE  (2u << 20)
#define SIZE  (3 * HUGE + 2 * PAGE + 100)
#define FORCE "PMEM2_FORCE_GRANULARITY"

static int memfd(void)
{
	int fd = unit_memfd(SIZE);
	uint64_t at;

	for (at = 0; at < SIZE; at += PAGE)
		assert_int_equal(pwrite(fd, &at, sizeof(at), (off_t)at), sizeof(at));
	return fd;
}

static bool forced(void)
{
	return getenv(FORCE) != NULL;
}

static void no_device(void **state)
{
	uint64_t size = 77, alignment = 77;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	assert_int_equal(pl_pmem_device(fd, &size, &alignment), -EINVAL);
	assert_true(size == 77 && alignment == 77);
	close(fd);
}

/* Where a huge page fits in, address and offset agree modulo its size; what is there is the file's. */
static void addresses(void **state)
{
	static const struct {
		uint64_t off, len;
	} ranges[] = {
		{ 0, HUGE },
		{ PAGE, HUGE + 7 * PAGE },
		{ HUGE + 5 * PAGE, 2 * HUGE - 5 * PAGE },
		{ 3 * PAGE, PAGE },
	};
	struct pl_pmem *pmem;
	int fd = memfd();
	uint64_t at;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		assert_int_equal(pl_pmem_map(fd, ranges[i].off, ranges[i].len, false, &pmem), 0);
		assert_int_equal(pmem->len, ranges[i].len);
		assert_true(ranges[i].len < HUGE || (uintptr_t)pmem->addr % HUGE == ranges[i].off % HUGE);
		for (at = 0; at < ranges[i].len; at += PAGE)
			assert_int_equal(*(uint64_t *)(void *)((char *)pmem->addr + at), ranges[i].off + at);
		assert_int_equal(pmem->by_page, !forced());
		pl_pmem_unmap(pmem);
	}
	close(fd);
}

/* The last page reaches beyond the end of the file. */
static void last_page(void **state)
{
	struct pl_pmem *pmem;
	int fd = memfd();

	(void)state;
	assert_int_equal(pl_pmem_map(fd, 3 * HUGE, 3 * PAGE, true, &pmem), 0);
	memset((char *)pmem->addr + 2 * PAGE, 'x', PAGE);
	pl_pmem_unmap(pmem);
	close(fd);
}

static void errors(void **state)
{
	struct pl_pmem *pmem = (void *)77;
	int fd = memfd(), ro;
	char path[64];

	(void)state;
	assert_int_equal(pl_pmem_map(1 << 20, 0, PAGE, false, &pmem), -EINVAL);
	assert_int_equal(pl_pmem_map(fd, 7, PAGE, false, &pmem), -EINVAL);
	assert_int_equal(pl_pmem_map(fd, 4 * HUGE, PAGE, false, &pmem), -EINVAL);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(pl_pmem_map(ro, 0, PAGE, true, &pmem) < 0);
	assert_ptr_equal(pmem, (void *)77);
	assert_int_equal(pl_pmem_map(ro, 0, PAGE, false, &pmem), 0);
	pl_pmem_unmap(pmem);
	close(ro);
	close(fd);
}

/* By what it is and not by where it was: a sanitizer may have put memory of its own there. */
static bool memfd_is_mapped(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	bool found = false;
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		found |= strstr(line, "/memfd:") != NULL;
	if (f)
		fclose(f);
	return found;
}

static void not_inherited(void **state)
{
	struct pl_pmem *pmem;
	int fd = memfd();
	pid_t pid;

	(void)state;
	assert_int_equal(pl_pmem_map(fd, PAGE, HUGE, true, &pmem), 0);
	assert_true(memfd_is_mapped());
	pid = fork();
	assert_true(pid >= 0);
	/* Nor the rest of the huge page in front of it, which is mapped with it. */
	if (!pid)
		_exit(memfd_is_mapped());
	assert_int_equal(unit_wait_child(pid), 0);
	pl_pmem_unmap(pmem);
	close(fd);
}

static void copies(void **state)
{
	char data[5000], back[5000];
	struct pl_pmem *pmem;
	int fd = memfd();

	(void)state;
	if (!forced())
		return;
	memset(data, 'd', sizeof(data));
	assert_int_equal(pl_pmem_map(fd, PAGE, 4 * PAGE, true, &pmem), 0);
	pl_pmem_copy(pmem, 33, data, sizeof(data));
	assert_int_equal(pread(fd, back, sizeof(back), PAGE + 33), sizeof(back));
	assert_memory_equal(data, back, sizeof(back));
	pl_pmem_persist(pmem, 33, sizeof(data));
	pl_pmem_persist(pmem, 0, 4 * PAGE);
	assert_int_equal(pl_pmem_deep_flush(pmem, 0, 4 * PAGE), 0);
	assert_int_equal(pl_pmem_deep_flush(pmem, 0, 2 * SIZE), -EINVAL);
	pl_pmem_unmap(pmem);
	close(fd);
}

/* Page cache, and fs-dax without MAP_SYNC: nothing is kept mapped, and writing goes by pwrite. */
static void durable(void **state)
{
	struct pl_fileid id = { .page = PAGE, .dax = true };
	struct pl_staged s = { .len = PAGE, .map_len = PAGE, .file_off = PAGE, .page_shift = 12 };
	struct pl_map map = { .addr = NULL };
	char data[PAGE], back[PAGE];
	int fd = memfd();
	struct stat st;

	(void)state;
	memset(data, 's', sizeof(data));
	s.addr = data;
	assert_int_equal(pl_durable_open(&map, fd, &id, PAGE, PAGE, PINLEASE_READ), 0);
	assert_null(map.pmem);
	assert_int_equal(pl_durable_open(&map, fd, &id, PAGE, PAGE, PINLEASE_WRITE), 0);
	assert_int_equal(pl_durable_is_flushed(&map), forced());
	assert_true(forced() == (map.pmem != NULL));
	assert_int_equal(fstat(fd, &st), 0);
	id.dev = st.st_dev;
	id.ino = st.st_ino;
	assert_int_equal(pl_durable_write(&map, fd, &id, &s, 0, PAGE), 0);
	assert_int_equal(pread(fd, back, sizeof(back), PAGE), sizeof(back));
	assert_memory_equal(data, back, sizeof(back));
	assert_int_equal(ftruncate(fd, PAGE), 0);
	assert_int_equal(pl_durable_write(&map, fd, &id, &s, 0, PAGE), forced() ? -ENODATA : 0);
	pl_filemap_free(&map);
	close(fd);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_device),	 cmocka_unit_test(addresses), cmocka_unit_test(last_page),
		cmocka_unit_test(errors),	 cmocka_unit_test(not_inherited), cmocka_unit_test(copies),
		cmocka_unit_test(durable),
	};
	char self[256];
	ssize_t n;

	(void)argc;
	if (cmocka_run_group_tests(tests, NULL, NULL))
		return 1;
	if (forced())
		return 0;
	setenv(FORCE, "CACHE_LINE", 1);
	/* By its name: under valgrind the link itself leads to valgrind. */
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n < 0 ? 0 : n] = 0;
	execv(self, argv);
	return 1;
}
