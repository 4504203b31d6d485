/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 0: the seam to libpmem2: files on persistent memory that is reached without a page
 * cache (fs-dax, device-dax). Offsets and lengths below are relative to the range mapped.
 * 0 or -errno throughout.
 */
#ifndef PL_PMEM_H
#define PL_PMEM_H

#include <stdbool.h>
#include <stdint.h>

struct pl_pmem {
	void *addr;		/* of the range */
	uint64_t len;		/* as asked for */
	bool by_page;		/* no MAP_SYNC: stores are durable after msync only, never after persist */
	void *map;		/* libpmem2's */
};

/* What size and alignment a device-dax has; stat(2) says 0. -EINVAL: fd is none. */
int pl_pmem_device(int fd, uint64_t *size, uint64_t *alignment);
/*
 * Maps off..off+len shared; the last page may reach beyond the end of the file. Where a huge
 * page of the file lies in the range, the address lets the kernel map it as one. Children
 * do not inherit it.
 */
int pl_pmem_map(int fd, uint64_t off, uint64_t len, bool writable, struct pl_pmem **out);
void pl_pmem_unmap(struct pl_pmem *pmem);

/* What these two are given touches memory: behind the end of a file that was cut, SIGBUS. Not by_page. */
void pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
void pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len); /* durable */
/* Beyond the platform's write queues, where persist ends: for what has no fsync(2). */
int pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len);

#endif
