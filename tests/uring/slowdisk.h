/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that takes its time: a block device whose reads are answered after as long,
 * or when, the test says. A loop device lies over a file of a FUSE file system that a helper
 * process serves, so that the device's I/O is the kernel's own and cannot be cancelled.
 */
#ifndef SLOWDISK_H
#define SLOWDISK_H

#include <stdbool.h>
#include <stdint.h>

#include "kt.h"

#define SLOW_DISK_BYTE 0xee		/* what every byte of the disk reads as */

struct slow_shared {
	_Atomic uint32_t delay_ms;	/* of each read that arrives from now on */
	_Atomic bool hold;		/* ... and not before this is taken back */
	_Atomic uint32_t arrived, answered; /* reads */
};

struct slow_disk {
	char device[32];		/* open it O_DIRECT */
	struct slow_shared *shared;
	struct kt_call *server;
	int loop;
};

/* -ENOENT: no FUSE here; other -errno. */
int slow_disk_make(struct slow_disk *disk);
void slow_disk_drop(struct slow_disk *disk);

#endif
