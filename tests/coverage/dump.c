/* SPDX-License-Identifier: BSD-3-Clause */
/* Part of the shared library in a build with PINLEASE_COVERAGE: each shared object counts for itself. */
void __gcov_dump(void);
__attribute__((visibility("default"))) void pl_coverage_dump(void);

void pl_coverage_dump(void)
{
	__gcov_dump();
}
