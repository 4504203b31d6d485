/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 2: how bytes get into a range of a file, and survive a power cut there:
 *
 *			into the file			durable
 *   page cache		pwrite				msync (not staged), fdatasync
 *   fs-dax		libpmem2's copy			persist; copied: at once
 *   device-dax		the same			the same, and deep_flush
 *
 * fs-dax that the kernel does not map with MAP_SYNC is page cache in this table. map is the
 * lease's; offsets are relative to its range.
 */
#ifndef PL_DURABLE_H
#define PL_DURABLE_H

#include "filemap.h"
#include "staged.h"

/*
 * Gives a map that is not the file's own (staged, the application's) what its table row needs
 * to write, or to fill; nothing for the page cache. pl_filemap_free takes it back.
 */
int pl_durable_open(struct pl_map *map, int fd, const struct pl_fileid *id, uint64_t off, uint64_t len,
		    uint32_t access);
/*
 * Staged memory to its place in the file. Behind what the file has now -ENODATA, and not
 * SIGBUS; who may be stopped for longer than the guard holds asks for little at a time.
 */
int pl_durable_write(const struct pl_map *map, int fd, const struct pl_fileid *id, const struct pl_staged *s,
		     uint64_t off, uint64_t len);
/* As pl_staged_fill, for what read(2) cannot read, too. */
int pl_durable_fill(const struct pl_map *map, int fd, const struct pl_fileid *id, struct pl_staged *s,
		    bool (*stop)(void *arg), void *arg, struct pl_fill_error *at);
/* The right column for off..end, but for fdatasync. copied: what is there was, by pl_durable_write. */
int pl_durable_flush(const struct pl_map *map, const struct pl_fileid *id, uint64_t off, uint64_t end,
		     bool copied);
/* And nothing is left for fdatasync to do. */
bool pl_durable_is_flushed(const struct pl_map *map);

#endif
