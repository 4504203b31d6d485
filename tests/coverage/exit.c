/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A build with PINLEASE_COVERAGE: children of tests end by _exit(), which forgets what they have
 * counted. The linker sends it here (tests/common/CMakeLists.txt).
 */
#include <unistd.h>

void __gcov_dump(void);
void pl_coverage_dump(void) __attribute__((weak));	/* the shared library's own, dump.c */
__attribute__((noreturn)) void __real__exit(int status);
__attribute__((noreturn)) void __wrap__exit(int status);

void __wrap__exit(int status)
{
	__gcov_dump();
	if (pl_coverage_dump)
		pl_coverage_dump();
	__real__exit(status);
}
