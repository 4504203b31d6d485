/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 2: staged memory: anonymous, filled from a range of the file and written back to
 * it. Offsets are relative to the range. What is dirty is known by the page: marking
 * and clearing are atomic and may go on side by side; who clears before writing back
 * marks again what could not be written.
 */
#ifndef PL_STAGED_H
#define PL_STAGED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filemap.h"

struct pl_staged {
	void *addr;
	uint64_t len;			/* bytes in use: may become less than was asked for */
	uint64_t map_len;
	uint64_t file_off;
	uint8_t page_shift;
	bool writable, unfilled;
	/* What follows is the lease's, and under its file's lock. */
	bool reserved;			/* of the disk's budget */
	/*
	 * Granules that are in the file, and not on the disk as far as we know: written before
	 * the fdatasync that is under way began, and the others (file_sync.c).
	 */
	uint64_t covered, uncovered;
	uint64_t late;			/* and those that turned out not to be when LOST had been told */
	/* A bit a page. writable: the dirty ones; unfilled: and behind them those that were ever marked. */
	_Atomic uint64_t bits[];
};

/* Of how it is used: what is written back, and if what nobody marks is never to be. */
#define PL_STAGED_WRITABLE 1u
/*
 * It will not be filled: pl_staged_mark_granules keeps to pages that were marked before. Until
 * pl_staged_fill. Only with WRITABLE.
 */
#define PL_STAGED_UNFILLED 2u

/*
 * At addr, in place of what is mapped there, or anywhere (NULL). page is a power of two. Not
 * inherited by children. On failure addr still has what was there, or, when *out is set,
 * anonymous memory: pl_staged_unmap_back is due then.
 */
int pl_staged_new(struct pl_staged **out, void *addr, uint64_t file_off, uint64_t len, uint64_t page,
		  uint32_t use);
void pl_staged_free(struct pl_staged *s);	/* NULL: nothing */
/* As pl_staged_free, and the file is mapped in its place; pmem: with MAP_SYNC, if that can be. */
int pl_staged_unmap_back(struct pl_staged *s, int fd, int prot, bool pmem);
/* Reads the file; zeros beyond its end. stop is asked between pieces: true is -EAGAIN. -errno and *at. */
int pl_staged_fill(struct pl_staged *s, int fd, bool (*stop)(void *arg), void *arg, struct pl_fill_error *at);

/* The same from memory that the file is mapped at, for what read(2) cannot read. */
int pl_staged_fill_from(struct pl_staged *s, const void *from, bool (*stop)(void *arg), void *arg,
			struct pl_fill_error *at);

void pl_staged_mark(struct pl_staged *s, uint64_t off, uint64_t len);
/*
 * A 64th of the memory, in whole pages, is a granule: coarse enough that a word remembers
 * of all of it what is in the file and not yet known to be on the disk.
 */
uint64_t pl_staged_granules(const struct pl_staged *s, uint64_t off, uint64_t len);
void pl_staged_mark_granules(struct pl_staged *s, uint64_t granules);
void pl_staged_clear(struct pl_staged *s, uint64_t off, uint64_t len);
/* The pages that lie in it whole. */
void pl_staged_clear_whole(struct pl_staged *s, uint64_t off, uint64_t len);
void pl_staged_clean(struct pl_staged *s);
/*
 * The next run of dirty pages that touches from..end, at most max_bytes of it (rounded
 * up to a page); clear: its pages are clean then, and no others. False: none.
 */
bool pl_staged_next(struct pl_staged *s, uint64_t from, uint64_t end, uint64_t max_bytes, bool clear,
		    uint64_t *off, uint64_t *len);
uint64_t pl_staged_dirty_bytes(struct pl_staged *s);
/* Writes off..off+len to its place in fd. 0, -errno. */
int pl_staged_write(const struct pl_staged *s, int fd, uint64_t off, uint64_t len);

#endif
