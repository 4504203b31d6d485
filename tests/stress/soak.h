/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The soak: processes that lease files at random and have devices write into them, others that
 * open, write, cut and extend the same files, and one that kills, stops and orders forks. All
 * keep a journal in shared memory, by which each byte of each file is accounted for.
 *
 * Every word of a block says file, block and sequence number. Of each block the journal has
 *
 *	settled <= acked <= posted
 *
 * posted: the last number that anybody has given to a write of it; acked: the last write that a
 * device, or an opener, was told is complete; settled: what somebody has seen in the file, or
 * what a sync that returned 0 covered. Who has a file open holds off every lease of it, so the
 * file stands still: then each word of it must be from acked..posted, and from settled..posted
 * only where an event said that the block was lost (LOST, and pinlease_dirty_next names it), or
 * where the owner of staged memory was killed (docs/design.md, the table of promises). And it
 * must stand still: what changes under an opener is a late write.
 *
 * An owner claims a file, so that there is one at a time that posts; openers that look or change
 * take the file's mutex, others do not. Sequence numbers are drawn by fetch_add, so both may.
 */
#ifndef SOAK_H
#define SOAK_H

#include <pinlease.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kt.h"

#define SOAK_BLOCK   4096u
#define SOAK_BLOCKS  64u	/* of a file, at most */
#define SOAK_FILES   8u
#define SOAK_OWNERS  6u
#define SOAK_OPENERS 4u
#define SOAK_STEADY  2u		/* the first so many owners are not killed: their memory must stay flat */
#define SOAK_SLOTS   2u		/* leases of a file */
#define SOAK_DEPTH   8u		/* writes in flight of an owner */
#define SOAK_MS	     UINT64_C(1000000)

#define SOAK_BREAK_TIME 5u	/* s, lease-break-time */
#define SOAK_STUCK_NS	(4000 * SOAK_MS) /* an opener whose owner runs */
#define SOAK_WAIT_NS	(20000 * SOAK_MS) /* for an outcome, whatever happens: owners are stopped for 6 s */

#define SOAK_PENDING	(1ull << 63)

struct block {
	_Atomic uint64_t settled, acked, posted;
	_Atomic uint64_t zero;	/* the number that zeros stand for: of the last punch or extension */
	_Atomic uint64_t posting; /* a write that is being posted, SOAK_PENDING; see judge_posted() */
};

enum slot_state { SLOT_NONE, SLOT_HELD, SLOT_REVOKED, SLOT_LOST, SLOT_DEAD };

struct slot {			/* a lease, as its owner last saw it */
	_Atomic uint32_t state;
	_Atomic uint64_t since;	/* ns: looked at not before this */
	_Atomic uint32_t first, count, mode;
	_Atomic uint64_t missing; /* LOST: a bit for each block of the file */
};

struct soak_file {
	char path[KT_PATH_MAX];
	unsigned int number;
	bool tmpfs, planted;
	_Atomic int owner;	/* who leases it, -1 */
	pthread_mutex_t openers; /* robust: an owner may be killed with it */
	struct slot slot[SOAK_SLOTS];
	struct block block[SOAK_BLOCKS];
	_Atomic uint64_t violations;
};

struct soak_owner {
	_Atomic bool stop_wanted, stopped;
	_Atomic uint64_t ran_ns;	/* running since: the last SIGCONT */
	_Atomic uint64_t sessions;
	_Atomic long fds, threads, rss_kib;	/* between two sessions, after the first few */
	_Atomic long fds_max, threads_max, rss_max;
};

struct counts {
	_Atomic uint64_t breaks, revoked, lost, lost_blocks, restored, restore_failed;
	_Atomic uint64_t leases, pinned, refused;
	_Atomic uint64_t writes, cut_off, syncs, changes, forks, killed, stopped, stopped_long;
	_Atomic uint64_t opens, foreign, cuts, punches, busy, looked, excused_lost, excused_dead;
	_Atomic uint64_t unexplained, blocked_max, late, outrun, excused_outrun;
};

struct soak {
	bool rdma, plant;
	unsigned int seed, seconds, blocks;
	unsigned int slow;		/* an emulated machine needs so many times the time for a session */
	_Atomic bool stop;		/* openers and owners come to their end */
	_Atomic bool halt;		/* openers only */
	_Atomic uint64_t violations;
	struct counts n;
	struct soak_owner owner[SOAK_OWNERS];
	_Atomic uint64_t waits_since[SOAK_OPENERS]; /* an opener that is blocked, since when */
	struct soak_file file[SOAK_FILES];
};

extern struct soak *soak;	/* in kt_shared memory */

/* soak.c */
void soak_report(struct soak_file *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline void soak_count(_Atomic uint64_t *n, uint64_t more)
{
	atomic_fetch_add_explicit(n, more, memory_order_relaxed);
}
void soak_max(_Atomic uint64_t *max, uint64_t value);
unsigned int soak_roll(unsigned int *seed, unsigned int below);

/* soak_judge.c. The caller holds the mutex and has the file open since in_ns, in fd. */
struct look {
	uint64_t size;			/* of the file, in blocks */
	_Alignas(SOAK_BLOCK) uint64_t word[SOAK_BLOCKS][SOAK_BLOCK / sizeof(uint64_t)]; /* O_DIRECT */
};
void judge_lock(struct soak_file *f);
bool judge_try_lock(struct soak_file *f);
void judge_unlock(struct soak_file *f);
void judge_stamp(const struct soak_file *f, unsigned int block, uint64_t seq, void *to);
void judge_look(struct soak_file *f, int fd, uint64_t in_ns, struct look *look);
/* The same bytes as in look? Says what changed. */
void judge_still(struct soak_file *f, int fd, const struct look *look);
uint64_t judge_draw(struct soak_file *f, unsigned int block);		/* the next number */
/*
 * Around the posting of a write, after its number was drawn. Who is not run in between for so
 * long that the lease was revoked and restored may write over an opener's newer number, and
 * nothing is wrong with that: outrun says that it may have been so.
 */
void judge_posting(struct soak_file *f, unsigned int block, uint64_t seq);
void judge_posted(struct soak_file *f, unsigned int block, uint64_t seq, bool outrun);
void judge_killed(struct soak_file *f); /* its owner, who may have been posting */
void judge_wrote(struct soak_file *f, unsigned int block, uint64_t seq); /* acked and settled */
void judge_zeroed(struct soak_file *f, unsigned int block);		/* before it is */

/* soak_opener.c, soak_owner.c: processes. */
struct soak_arg {
	struct soak *soak;
	unsigned int number;
};
int opener_main(const void *arg);
int owner_main(const void *arg);

/* soak_weigh.c: called between two sessions. */
void weigh(struct soak_owner *m);
bool is_sanitized(void);
bool leaks(void); /* at the end, and known only under a sanitizer */

/* soak_device.c: what writes. Numbers of requests are below SOAK_DEPTH. */
struct device;
struct device_done {
	unsigned int request;
	bool ok;
};
struct device *device_open(void);
void device_close(struct device *d);
void device_opts(struct device *d, struct pinlease_opts *opts);
void *device_source(struct device *d, unsigned int request); /* SOAK_BLOCK bytes, to be filled before */
/* uncounted: without dma_begin, as a peer that knows nothing; RDMA only. 0: there will be a completion. */
int device_write(struct device *d, struct pinlease *lease, unsigned int request, uint64_t off,
		 bool uncounted);
bool device_next(struct device *d, unsigned int ms, struct device_done *done);

#endif
