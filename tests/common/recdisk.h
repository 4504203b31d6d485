/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk whose writes are recorded in the order in which a power cut would keep them,
 * by one of two recorders that write the same log (disklog.h):
 *
 * REC_DM    the kernel's dm-log-writes over two loop devices, where there is a device mapper.
 * REC_FUSE  a loop device over the only file of a FUSE file system that a helper process
 *	     serves. The loop driver turns a flush into an fsync of its file, so what
 *	     was written before FUSE_FSYNC is what the flush covers.
 */
#ifndef PL_TEST_RECDISK_H
#define PL_TEST_RECDISK_H

#include <stdint.h>

#include "disklog.h"
#include "kt.h"

enum rec_kind { REC_DM, REC_FUSE };

struct rec_shared;

struct rec_disk {
	char device[48];
	enum rec_kind kind;
	uint64_t size;
	int loop, log_loop, log; /* fds */
	struct kt_fs dir;	 /* FUSE: where its files are */
	struct rec_shared *shared;
	struct kt_call *server;
};

/* All zeros. -ENOENT, -ENODEV: this recorder is not to be had here. One at a time. */
int rec_disk_make(struct rec_disk *disk, enum rec_kind kind, unsigned int mib);
/* From any thread. Whatever had completed before stands before the mark, if it was flushed. */
int rec_disk_mark(struct rec_disk *disk, uint32_t number);
/* The device must not be in use any more; log is NULL when nobody wants to know. */
int rec_disk_end(struct rec_disk *disk, struct dl_log *log);

/* REC_FUSE: each write takes that much longer from now on, one after the other. */
void rec_fuse_slow(struct rec_disk *disk, unsigned int ms);

/* The halves, for recdisk.c. */
int rec_dm_make(struct rec_disk *disk);
int rec_dm_mark(struct rec_disk *disk, uint32_t number);
int rec_dm_end(struct rec_disk *disk);
int rec_fuse_make(struct rec_disk *disk);
int rec_fuse_mark(struct rec_disk *disk, uint32_t number);
int rec_fuse_end(struct rec_disk *disk);

/* For baddisk.c: an fd of what is on the disk, and where it is to answer EIO to writes. */
struct bad_range;
int rec_fuse_image(struct rec_disk *disk);
int rec_fuse_refuse(struct rec_disk *disk, const struct bad_range *range, unsigned int ranges);

#endif
