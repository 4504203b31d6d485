/* SPDX-License-Identifier: BSD-3-Clause */
/* What of a file is there: on its disk, or in memory. */
#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys.h"
#include "util.h"

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* on every architecture but alpha */
#endif

#define FIEMAP_BATCH 32
#define FIEMAP_SIZE  (sizeof(struct fiemap) + FIEMAP_BATCH * sizeof(struct fiemap_extent))

/*
 * FIEMAP and not lseek(SEEK_HOLE): that moves the offset of an open file description
 * which the application may share and read from in another thread, and no way of
 * putting it back is free of a race; another description would break the lease. Extents
 * that are allocated and unwritten are no holes here: a write goes to their blocks.
 */
int pl_sys_has_hole(int fd, uint64_t off, uint64_t len)
{
	_Alignas(struct fiemap) char room[FIEMAP_SIZE];
	struct fiemap *f = (struct fiemap *)room;
	uint64_t at = off, end = off + len;
	const struct fiemap_extent *e;

	while (at < end) {
		*f = (struct fiemap){ .fm_start = at, .fm_length = end - at };
		f->fm_extent_count = FIEMAP_BATCH;
		if (ioctl(fd, FS_IOC_FIEMAP, f) < 0)
			return errno == ENOTTY ? -EOPNOTSUPP : -errno;
		for (e = f->fm_extents; e < f->fm_extents + f->fm_mapped_extents; e++) {
			if (e->fe_logical > at)
				return 1;
			at = pl_max_u64(at, e->fe_logical + e->fe_length);
		}
		if (at < end && f->fm_mapped_extents < FIEMAP_BATCH)
			return 1;
	}
	return 0;
}

int pl_sys_cached(int fd, uint64_t off, uint64_t len, uint64_t *pages)
{
	/* As linux/mman.h has them, where it does. */
	struct {
		uint64_t off, len;
	} range = { off, len };
	struct {
		uint64_t cache, dirty, writeback, evicted, recently_evicted;
	} stat;

	if (syscall(SYS_cachestat, fd, &range, &stat, 0))
		return -errno;
	*pages = stat.cache;
	return 0;
}
