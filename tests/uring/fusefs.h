/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A FUSE file system with one file in it, spoken over /dev/fuse without a library: the
 * smallest thing that is a foreign file system to the kernel and to libpinlease.
 */
#ifndef FUSEFS_H
#define FUSEFS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "kt.h"

#define FUSEFS_NAME "f"

struct fusefs {
	char dir[KT_PATH_MAX];
	size_t size;
	_Atomic int error;	/* of mounting; shared memory, as all of this */
	sem_t mounted;
	_Atomic uint32_t fsyncs;
	unsigned char data[1 << 20];
};

/* Mounts it on dir and serves it in a process of its own, with size bytes of 'k'. NULL: error is printed. */
struct fusefs *fusefs_start(const char *dir, size_t size);
void fusefs_stop(struct fusefs *fs);

#endif
