/* SPDX-License-Identifier: BSD-3-Clause */
/* What kt.c and kt_fs.c share with the undertaker; tests include kt.h only. */
#ifndef PL_TEST_KT_PRIVATE_H
#define PL_TEST_KT_PRIVATE_H

#include "kt.h"

#define KT_MOUNTS 16
#define KT_CALLS  96
#define KT_ARENA  (16u << 20)

#define KT_BREAK_TIME "/proc/sys/fs/lease-break-time"
#define KT_HUGEPAGES  "/proc/sys/vm/nr_hugepages"

/* One mapping, shared by the test, the clean room and every helper. */
struct kt_room {
	char base[KT_PATH_MAX];		     /* the folder all mount points are in, or "" */
	char mounts[KT_MOUNTS][KT_PATH_MAX]; /* "" is a free entry */
	int break_time, hugepages;	     /* what the sysctls were, or -1: untouched */
	size_t arena_used;
	struct kt_call calls[KT_CALLS];
	_Alignas(64) char arena[KT_ARENA];
};

extern struct kt_room *kt_room;

int kt_write_number(const char *path, long long number);

#endif
