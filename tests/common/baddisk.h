/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk parts of which can be made to fail, and to work again, under a mounted file
 * system: by a table of dm-linear and dm-error that is swapped, or by the FUSE file of
 * recdisk.h, whose server refuses to write there. For that not by dm-flakey: its error_writes fails
 * the flushes of the whole device too, and a file system that cannot commit (btrfs on 7.2:
 * transaction aborted, read-only) has met another fault than lost data. Where all of a disk is to
 * come and go, it is the thing.
 */
#ifndef PL_TEST_BADDISK_H
#define PL_TEST_BADDISK_H

#include <stdbool.h>

#include "recdisk.h"

#define BAD_RANGES 8u

struct bad_range {
	uint64_t from, len; /* bytes */
};

struct bad_disk {
	struct rec_disk rec; /* device is what to mount; DM: its loop and size only */
	struct bad_range range[BAD_RANGES];
	unsigned int ranges;
	int image;
	char on[KT_DEVICE_MAX]; /* DM: what is below it */
};

/* All of it works. -ENOENT, -ENODEV: not to be had here. One at a time. */
int bad_disk_make(struct bad_disk *disk, enum rec_kind kind, unsigned int mib);
/* Where it is to fail: all the blocks of a file, or of all data where new data goes elsewhere (btrfs). */
int bad_disk_file(struct bad_disk *disk, const char *type, const char *path);
/* From now on. What is on its way may or may not fail; nothing is written to the disk for this. */
int bad_disk_set(struct bad_disk *disk, bool bad);
/* DM: all of it works for some seconds and fails for some, for ever; down 0: it works. */
int bad_disk_flaky(struct bad_disk *disk, unsigned int up_s, unsigned int down_s);
/* A memfd with a copy of what is on it. */
int bad_disk_copy(struct bad_disk *disk);
void bad_disk_end(struct bad_disk *disk);

#endif
