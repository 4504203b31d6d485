/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Wrong input, by table. A row is a call that must fail in one documented way. Each is
 * made twice: the first time lets the allocator and the C library take what they keep,
 * around the second everything is compared.
 */
#ifndef INPUT_H
#define INPUT_H

#include "ut.h"

struct input_row {
	const char *name;
	int (*call)(struct pinlease_why *why);	/* asserts its own outputs, answers what the library did */
	int err;
	uint32_t stage, reason;			/* 0, 0: why is not written, or the call takes none */
};

void input_check(const struct input_row *rows, size_t count);

/*
 * Run fn in a fresh process that may not lease other people's files, nor pin more memory
 * than memlock bytes; fn's answer.
 */
int input_unprivileged(int (*fn)(const void *arg), const void *arg, size_t len);
int input_drop_privilege(uint64_t memlock); /* what fn calls first */

#endif
