/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 3: the objects. Who protects what:
 *
 *   file->lock	the guard's state, every member of the file and of its leases below
 *		"file's lock", and each change of a lease's word. Held for moments: never
 *		over a verbs call, file I/O, or waiting (the condition variable apart).
 *   account	the word is read without a lock by dma_begin and dma_end (account.h).
 *   constant	set before the object can be reached by another thread.
 *
 * Lock order: notices -> registry -> file -> { agenda, disks, events, accounts, forkguard }, one at a time.
 *
 * A lease is worked on by one thread at a time (busy), which drops the lock for what
 * may block; others wait on file->cond. A lease that the guard must be kept for
 * is holding: it is being acquired or restored, or ACTIVE, BREAKING, or FENCING and not
 * fenced and written back yet. The guard is let go when holds is 0.
 */
#ifndef PL_OBJECTS_H
#define PL_OBJECTS_H

#include <pthread.h>
#include <stdatomic.h>

#include <pinlease.h>
#include <pinlease/backend.h>

#include "account.h"
#include "budget.h"
#include "events.h"
#include "fileid.h"
#include "filemap.h"
#include "forkguard.h"
#include "guard.h"
#include "log.h"
#include "notice.h"
#include "range.h"
#include "registry.h"
#include "agenda.h"
#include "staged.h"
#include "state.h"
#include "stats.h"

/* What files and leases need of their ctx. */
struct pl_env {
	struct pl_agenda agenda;
	struct pl_event_queue events;
	struct pl_registry registry;
	struct pl_notices notices;
	struct pl_disks disks;
	_Atomic bool flushing;		/* one flusher at a time: a break must find a worker */
	struct pl_log log;
	struct pl_stats stats;
	int signo;
	pid_t breaker_tid;
	uint32_t fork_gen;
	_Atomic uint64_t break_time_ns; /* fs.lease-break-time, read by the slow pass; PL_NEVER: 0, never */
};

struct pinlease_file {
	struct pl_registered registered;	/* the fd, the references */
	struct pl_fork_file fork;
	struct pl_noticed noticed;
	struct pl_env *env;			/* constant, with what follows */
	struct pl_fileid id;
	uint32_t access, flags;
	uint32_t fork_gen;			/* of its own, as a lease: a child may free its ctx first */
	int fd, anchor;				/* anchor -1: none */
	struct pl_disk *disk;			/* NULL: a guard that never breaks, no budget */
	struct pl_map base;			/* seal: the whole file, mapped before it was sealed */
	bool came_sealed;
	bool appends;				/* O_APPEND: pwrite(2) does not write where it is told to */
	bool trial; /* probe asks: the file is not changed, nobody is told of its leases */
	bool abandoned;	/* a trial whose memory the provider would not give up: pl_probe_clean */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct pl_guard guard;			/* file's lock, with what follows */
	enum pl_file_state state;
	struct pl_list leases;
	struct pl_list buried;			/* orphans that could be undone, freed with the file */
	struct pl_range_tree ranges;
	uint32_t holds;
	bool barrier_due;			/* leases were marked, and no barrier has come since */
	bool changing;				/* a layout change of our own is under way */
	bool syncing;				/* an fdatasync is */
	bool flushing;				/* flush is queued, or runs */
	uint32_t syncs_begun, syncs_done;	/* fdatasyncs, for those who wait for the next one */
	uint32_t cause;				/* of the pending break */
	uint64_t unbroken_ns;			/* when the guard was last seen held and unbroken */
	uint64_t break_ns;			/* when the pending break was noticed */
	uint64_t limit_ns;			/* the kernel lets the opener on not before this */
	uint64_t armed_ns, backoff_ns;
	uint64_t breaks;			/* asked for so far */
	struct pl_work work;			/* takes the guard again */
	struct pl_work flush;			/* keeps told leases below their share */
};

struct pl_reg {
	const struct pinlease_backend *backend;	/* constant */
	void *arg;
	struct pinlease_handle handle; /* of what is registered; size 0: nothing is */
	uint32_t ibv_access;	       /* constant */
	int device_fd;		       /* the verbs device the fork handler knows, or -1 */
};

/* The ctx's agenda runs these. */
enum pl_work_kind { PL_WORK_LEASE, PL_WORK_FILE, PL_WORK_FLUSH };

/* Made by the first grant of a lease; file's lock. */
struct pl_grants {
	struct pl_list list;
	uint64_t id;				/* as the lease's peers know it */
	uint32_t out;				/* of this generation: a break waits for them */
	uint32_t untold;			/* those for writing that never said what they wrote */
};

/*
 * An application may have very many: the order leaves no holes, what is small is held in a byte
 * or a bit, and what not every lease has stands behind a pointer.
 */
struct pinlease {
	struct pl_account account;
	struct pinlease_file *file;		/* constant, with what follows */
	void *user;
	uint64_t iova;
	uint32_t deadline_ms, restore_ms; /* durations; restore 0: never given up */
	uint32_t fork_gen;
	uint8_t flags;
	uint8_t access, mode, mode_reason; /* enums; constant once acquired */
	struct pl_map map;		   /* the file's pages, or what was there before staged memory */
	struct pl_staged *staged;	   /* in its mode, else NULL; as map */
	struct pl_range range;		   /* off and len: as acquired; the rest: file's lock */
	struct pl_list link;		   /* file's lock, with what follows */
	struct pl_event_box box;
	struct pl_work work;
	struct pl_reg *regs;			/* NULL: for no device */
	struct pl_grants *grants;		/* NULL: there was none yet */
	uint64_t now_len;			/* of this generation: shorter after the file has shrunk */
	uint64_t until_ns;			/* BREAKING, FENCING: the deadline; then: when revoked */
	uint64_t breaks;
	uint32_t reg_count;
	uint32_t begun;				/* the account's begins when this generation started */
	uint32_t cut;				/* in flight when fenced */
	int err;				/* what makes it LOST, or failed the restore */
	uint32_t users;				/* calls that still look at it, but hold up no break */
	/* After a failed fdatasync (file_sync.c): the next sync answers loss_err, once. */
	uint16_t losses, losses_told;
	int16_t loss_err;
	uint8_t retry_ms;			/* between attempts to deregister */
	uint8_t syncers;			/* they come one at a time */
	uint8_t cause;				/* enum; of the last break */
	bool orphan;				/* constant then: its acquire failed, but it is registered */
	bool holding : 1, busy : 1, ack_due : 1;
	bool fenced : 1;			/* nothing of ours reaches the memory */
	bool written : 1; /* FENCING: and what it wrote is in the file, or lost is set */
	bool lost : 1;
	bool sync_failed : 1;
	bool redirty : 1;			/* not staged: pages are called clean that were not written */
	bool waited : 1;			/* a release or own change takes it on from FENCING */
	bool releasing : 1, gave_up : 1;
	bool loss_answered : 1;			/* LOST: a release has said so */
};

/* Is what was made in this generation of forks the parent's? */
static inline bool pl_forked(uint32_t fork_gen)
{
	return pl_unlikely(fork_gen != pl_fork_generation());
}

static inline uint64_t pl_lease_deadline(const struct pinlease *lease)
{
	return lease->deadline_ms * PL_NS_PER_MS;
}

static inline enum pinlease_state pl_lease_state(struct pinlease *lease)
{
	return pl_account_state(&lease->account);
}

/* Under the file's lock: has it a share of the disk's budget? */
static inline bool pl_lease_reserved(const struct pinlease *lease)
{
	return lease->staged && lease->staged->reserved;
}

/* Staged memory that somebody writes: there may be something to write back. */
static inline bool pl_lease_writes_back(const struct pinlease *lease)
{
	return lease->mode == PINLEASE_MODE_STAGED && lease->access == PINLEASE_WRITE && !lease->file->trial;
}

#endif
