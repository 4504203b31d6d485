/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 2: which file it is, and what its file system lets us do. */
#ifndef PL_FILEID_H
#define PL_FILEID_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

enum pl_fs {
	PL_FS_PAGECACHE,	/* ext4, xfs, btrfs, f2fs: dirty-tracked page cache */
	PL_FS_TMPFS,		/* tmpfs, memfd: nothing is written back, pins are allowed */
	PL_FS_HUGETLBFS,
	PL_FS_DEVDAX,		/* a device: memory without a file system */
	PL_FS_OVERLAY,		/* an open of the upper file is not seen */
	PL_FS_FOREIGN,		/* leases notify only, or unknown */
};

struct pl_fileid {
	uint64_t dev, ino;
	uint64_t page;		/* offsets are multiples of it */
	uint64_t size;		/* of a device; a file's is asked for */
	enum pl_fs fs;
	bool dax;		/* fs-dax */
};

/*
 * Of an open file. 0; -EBADF, -EISDIR, -EINVAL: no regular file, no device-dax; *reason is
 * set then. *size may be NULL.
 */
int pl_fileid_get(int fd, struct pl_fileid *id, uint64_t *size, uint32_t *reason);
/* fd still is this file. 0; -EBADF: closed, or another one; other -errno: it cannot be told. */
int pl_fileid_same(int fd, const struct pl_fileid *id);
/*
 * fd is known not to be this file any more: closed, or another one. A file system that cannot say
 * just now (ESTALE, EIO) is no such thing: whoever waits for the guard is not to wait for that.
 */
static inline bool pl_fileid_other(int fd, const struct pl_fileid *id)
{
	return pl_fileid_same(fd, id) == -EBADF;
}

/* As pl_fileid_same, and *size is what the file has now. */
int pl_fileid_size(int fd, const struct pl_fileid *id, uint64_t *size);
/* And is there as much allocated to it, wherever? */
int pl_fileid_size_full(int fd, const struct pl_fileid *id, uint64_t *size, bool *full);

/* Persistent memory that a mapping reaches without a page cache in between. */
static inline bool pl_fileid_pmem(const struct pl_fileid *id)
{
	return id->dax || id->fs == PL_FS_DEVDAX;
}

#endif
