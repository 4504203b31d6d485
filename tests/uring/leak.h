/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a call that failed must have left alone: this process's fds, mappings, locks,
 * leases and pinned memory. Text, so that a difference explains itself.
 */
#ifndef LEAK_H
#define LEAK_H

#include <stdbool.h>
#include <stddef.h>

#define LEAK_TEXT 65536

struct leak_mark {
	char fds[LEAK_TEXT], maps[LEAK_TEXT], locks[LEAK_TEXT];
	long pinned_kib;
};

/* 0 or -errno. The heap is not looked at: it grows and shrinks as the allocator likes. */
int leak_take(struct leak_mark *mark);
/* Forget the mappings that are no file's: the C library keeps stacks and arenas. */
void leak_files_only(struct leak_mark *mark);
/* True when nothing differs; says what does on stdout. */
bool leak_none(const struct leak_mark *before, const struct leak_mark *after);

#endif
