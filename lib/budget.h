/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: how much staged memory may be dirty at a time, so that a break can write it back
 * before the kernel lets the opener on.
 *
 *	|<------------------------ lease-break-time ------------------------>|
 *	| slack |  drain, at most  |       write back         |    margin    |
 *
 * Slack: the break may have come right after the guard was last seen unbroken, and its
 * signal be lost until the next slow pass.
 *
 * Leases reserve what may be dirty of them: of those that are wholly dirty their length,
 * and a share of what is left for those that a flusher keeps below it. Sums are by file
 * system and not by file: a backup run opens one file after the other, and one disk has to
 * take what they all write back. Disks shared with others in other ways are not known.
 *
 * The rate. pwrite goes to the page cache: at the speed of memory, until
 * balance_dirty_pages() makes the writer wait for the disk, when and how long nobody can
 * foresee: that depends on what everybody else has written. So what is measured is
 * written and synced, which is a rate that the disk has shown to give, beside
 * everything else it had to do. pwrite alone counts only where it was slower. A sample is
 * thus never too high for its time, but may be too low (a short write that waited for a
 * commit): higher ones count half, lower ones an eighth.
 */
#ifndef PL_BUDGET_H
#define PL_BUDGET_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "list.h"

#define PL_SAMPLE_BYTES (1u << 20)   /* less says more about latency than about the rate */
#define PL_RATE_SLOWEST (8ull << 20) /* of a disk somebody may lease files on: asked no further below it */
#define PL_CHUNK_BYTES	(1u << 20)   /* of writeback between two looks at the clock, at most */
#define PL_CHUNK_MIN	(64u << 10)
#define PL_CHUNK_NS	(50ull * 1000000)

struct pl_disk { /* a file system, while a file of it is open */
	struct pl_list link;
	uint64_t dev;
	uint32_t users;
	/* Changed under the table's lock, read without. */
	_Atomic uint64_t rate;	      /* bytes a second; 0: not measured yet */
	_Atomic uint64_t whole, told; /* leased for writing: all of it may be dirty; kept below a share */
};

struct pl_disks {
	pthread_mutex_t lock; /* leaf */
	struct pl_list list;
};

void pl_disks_init(struct pl_disks *disks);
void pl_disks_fini(struct pl_disks *disks);
void pl_disks_forget(struct pl_disks *disks);			   /* in a forked child: the memory only */
struct pl_disk *pl_disk_get(struct pl_disks *disks, uint64_t dev); /* NULL: no memory */
void pl_disk_put(struct pl_disks *disks, struct pl_disk *disk);	   /* NULL is nothing */

/* Durations; a break_time of PL_NEVER is no bound. */
uint64_t pl_budget_margin(uint64_t break_time);
/* For writing back, beside a drain of at most half of what margin and slack leave. */
uint64_t pl_budget_window(uint64_t break_time, uint64_t deadline);
/* When draining has to end, that what is reserved on the disk can be written back: slack and drain. */
uint64_t pl_budget_drain(const struct pl_disk *disk, uint64_t break_time, uint64_t deadline);

/* Bytes were written in ns; synced: and are on the disk. */
void pl_disk_measured(struct pl_disks *disks, struct pl_disk *disk, uint64_t bytes, uint64_t ns, bool synced);
uint64_t pl_disk_bytes(const struct pl_disk *disk, uint64_t ns);
/* 0, -EFBIG: it cannot all be written back within window. */
int pl_disk_reserve(struct pl_disks *disks, struct pl_disk *disk, uint64_t len, bool told, uint64_t window);
void pl_disk_return(struct pl_disks *disks, struct pl_disk *disk, uint64_t len, bool told);
/* How much of a told lease may be dirty; len: all of it. */
uint64_t pl_disk_share(const struct pl_disk *disk, uint64_t len, uint64_t window);
/* Can what may be dirty all at once be written back within window, on every disk? */
bool pl_disks_fit(struct pl_disks *disks, uint64_t window);

/* The size of the next piece, so that none takes longer than PL_CHUNK_NS. */
uint64_t pl_chunk_first(const struct pl_disk *disk);
uint64_t pl_chunk_next(uint64_t bytes, uint64_t took_ns);

#endif
