/* SPDX-License-Identifier: BSD-3-Clause */
/* Staged memory is clear once it is freed, whatever munmap(2) says to it (the linker's --wrap). */
#include <sys/mman.h>

#include "staged.h"
#include "unit.h"

#define PAGE 4096ull
#define LEN  (200 * PAGE - 100)

static bool unmap_fails;
int __real_pl_sys_unmap(void *addr, size_t len);
int __wrap_pl_sys_unmap(void *addr, size_t len);

int __wrap_pl_sys_unmap(void *addr, size_t len)
{
	return unmap_fails ? -ENOMEM : __real_pl_sys_unmap(addr, len);
}

/* What peers have written is in no memory of this process any more, also where it stays mapped. */
static void freed_memory_is_clear(void **state)
{
	unsigned char present, *at, sum;
	struct pl_staged *s;
	unsigned int i;

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
	for (sum = 0, i = 0; i < LEN; i++)
		sum |= at[i];
	assert_int_equal(sum, 0);
	assert_int_equal(munmap(at, 200 * PAGE), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freed_memory_is_clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
