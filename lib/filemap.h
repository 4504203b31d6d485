/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 2: ranges of a file as memory: mapped, checked, allocated and faulted in. */
#ifndef PL_FILEMAP_H
#define PL_FILEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fileid.h"
#include "sys.h"

struct pl_map {
	void *addr;
	size_t len;
	struct pl_pmem *pmem;	/* the range as persistent memory; NULL: page cache */
	bool ours;		/* to be unmapped by us */
	int prot;
};

/* Where filling a range with pages, or memory with data, went wrong. */
struct pl_fill_error {
	uint32_t stage, reason;
	int sys_errno;
};

/* Maps off..off+len shared, len rounded up to the file's page; not inherited by children. */
int pl_filemap_new(int fd, uint64_t off, uint64_t len, uint32_t access, const struct pl_fileid *id,
		   struct pl_map *map);
/* An application's mapping stays; what we have made beside it goes. */
void pl_filemap_free(struct pl_map *map);
/* Is this memory a shared mapping of off..off+len of the file, as the access needs? 0 and *prot, -EINVAL. */
int pl_filemap_check(const void *addr, uint64_t off, uint64_t len, uint32_t access,
		     const struct pl_fileid *id, int *prot);
/* Is it a mapping of this file? */
bool pl_filemap_is(const struct pl_sys_mapping *m, const struct pl_fileid *id);

#define PL_FILL_HOLES 1u
#define PL_FILL_FULL  2u /* pl_fileid_size_full() has just said so */
/*
 * Makes sure that every page of the range can be reached without an error later: for
 * WRITE allocates the blocks and faults the pages in writable; for READ faults them in,
 * and answers -ENODATA where the file has a hole, unless PL_FILL_HOLES. addr: the
 * mapping; NULL: blocks only. stop is asked between steps of at most 64 MiB and when a
 * signal interrupts; true ends it with -EAGAIN. -errno and *at.
 */
int pl_filemap_prepare(int fd, uint64_t off, uint64_t len, void *addr, uint32_t access,
		       const struct pl_fileid *id, uint32_t how, bool (*stop)(void *arg), void *arg,
		       struct pl_fill_error *at);

#endif
