/* SPDX-License-Identifier: BSD-3-Clause */
/* Staged memory is clear once it is freed, whatever munmap(2) and mmap(2) say to it (the linker's --wrap). */
#include <sys/mman.h>

#include "staged.h"
#include "unit.h"

#define PAGE 4096ull
#define LEN  (200 * PAGE - 100)

static bool unmap_fails, map_fails;
int __real_pl_sys_unmap(void *addr, size_t len);
int __wrap_pl_sys_unmap(void *addr, size_t len);

int __wrap_pl_sys_unmap(void *addr, size_t len)
{
	return unmap_fails ? -ENOMEM : __real_pl_sys_unmap(addr, len);
}

int __real_pl_sys_map(void *addr, size_t len, int prot, int fd, uint64_t off, void **out);
int __wrap_pl_sys_map(void *addr, size_t len, int prot, int fd, uint64_t off, void **out);

int __wrap_pl_sys_map(void *addr, size_t len, int prot, int fd, uint64_t off, void **out)
{
	return map_fails ? -ENOMEM : __real_pl_sys_map(addr, len, prot, fd, off, out);
}

static unsigned char all_of(const unsigned char *at)
{
	unsigned char sum = 0;
	unsigned int i;

	for (i = 0; i < LEN; i++)
		sum |= at[i];
	return sum;
}

/* What peers have written is in no memory of this process any more, also where it stays mapped. */
static void freed_memory_is_clear(void **state)
{
	unsigned char present, *at;
	struct pl_staged *s;

	(void)state;
	for (unmap_fails = false;; unmap_fails = true) {
		assert_int_equal(pl_staged_new(&s, NULL, 0, LEN, PAGE, PL_STAGED_WRITABLE), 0);
		at = s->addr;
		memset(at, 0x5e, LEN);
		assert_int_equal(mincore(at, PAGE, &present), 0);
		pl_staged_free(s);
		if (unmap_fails)
			break;
		assert_true(mincore(at, PAGE, &present) < 0 && errno == ENOMEM);
	}
	unmap_fails = false;
	assert_int_equal(all_of(at), 0);
	assert_int_equal(munmap(at, 200 * PAGE), 0);
}

/* In place of a mapping of the application's, which cannot be put back. */
static void memory_that_stays_is_clear(void **state)
{
	int fd = memfd_create("file", MFD_CLOEXEC);
	struct pl_staged *s = NULL;
	unsigned char *map;

	(void)state;
	assert_int_equal(ftruncate(fd, 200 * PAGE), 0);
	map = mmap(NULL, 200 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(pl_staged_new(&s, map, 0, LEN, PAGE, PL_STAGED_WRITABLE), 0);
	memset(map, 0x5e, LEN);
	map_fails = true;
	assert_int_equal(pl_staged_unmap_back(s, fd, PROT_READ | PROT_WRITE, false), -ENOMEM);
	map_fails = false;
	assert_int_equal(all_of(map), 0);
	assert_int_equal(munmap(map, 200 * PAGE), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freed_memory_is_clear),
		cmocka_unit_test(memory_that_stays_is_clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
