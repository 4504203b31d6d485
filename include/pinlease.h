/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libpinlease: leases on file-backed RDMA memory.
 *
 * A pin lease is a file range + a guard (what makes the kernel tell us before the
 * file's layout changes) + a registration (what the device reaches) + an account
 * of the DMA in flight. When somebody wants to change the file, the library hears
 * of it first, tells the application, drains the DMA, fences what does not drain,
 * unpins, and only then lets the change go on.
 *
 * Conventions. Functions return 0 (or a positive answer) or -errno. On failure no
 * output is touched, except *why, which is written on failure only. All functions
 * may be called from any thread unless said otherwise; none is async-signal-safe.
 * "May block" means on a device, a disk or a drain, never on an event not polled.
 * Every structure with a size member starts with it: set it to sizeof, leave what
 * you do not use 0; a size the library cannot know is -EINVAL, set bytes beyond
 * what it knows -E2BIG. In a forked child every call answers -ECHILD and every
 * free only frees memory. NULL where an object is needed is -EINVAL; freeing NULL
 * is 0. Overview: pinlease(7); states, modes, guards, durability: pinlease_states(7),
 * pinlease_modes(7), pinlease_guards(7), pinlease_durability(7).
 */
#ifndef PINLEASE_H
#define PINLEASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ibv_pd;
struct ibv_mr;
struct ibv_context;
struct pinlease_ctx;
struct pinlease_file;
struct pinlease;
struct pinlease_backend;	/* pinlease/backend.h */

/* What the device does to the memory; WRITE includes READ. */
enum pinlease_access { PINLEASE_READ = 1, PINLEASE_WRITE = 2 };

/* How the device reaches the file, pinlease_modes(7). */
enum pinlease_mode {
	PINLEASE_MODE_AUTO,	/* the best that works here; pinlease_lease_info() says which and why */
	PINLEASE_MODE_PINNED,	/* the file's pages, under a long-term pin */
	PINLEASE_MODE_ODP,	/* the file's pages, through the MMU notifier (on-demand paging) */
	PINLEASE_MODE_STAGED,	/* anonymous memory, filled from the file and written back to it */
};

/* What makes the kernel tell us before a layout change, pinlease_guards(7). */
enum pinlease_guard {
	PINLEASE_GUARD_AUTO,
	PINLEASE_GUARD_LEASE,	/* fcntl(F_SETLEASE): F_WRLCK for WRITE, F_RDLCK for READ */
	PINLEASE_GUARD_SEAL,	/* memfd seals: nothing can change, never breaks */
	PINLEASE_GUARD_STATIC,	/* device-dax: the layout cannot change */
	PINLEASE_GUARD_NONE,	/* only changes made through the library are known; never chosen by AUTO */
};

/* pinlease_states(7) has the arrows. */
enum pinlease_state {
	PINLEASE_INIT,		/* being acquired */
	PINLEASE_ACTIVE,	/* DMA may be started */
	PINLEASE_BREAKING,	/* no new DMA; waiting for what is in flight, and for acks */
	PINLEASE_FENCING,	/* deregistering, writing back, waiting for the guard to be let go */
	PINLEASE_REVOKED,	/* the device does not reach the file; may be restored */
	PINLEASE_LOST,		/* as REVOKED, but data may be missing from the file */
	PINLEASE_CLOSED,	/* being freed */
};

/* The states of a file; the same page. */
enum pinlease_file_state {
	PINLEASE_FILE_HELD,	/* the guard is held and unbroken */
	PINLEASE_FILE_BREAKING,	/* a break is pending; the opener waits for us */
	PINLEASE_FILE_FREE,	/* let go, no guard */
	PINLEASE_FILE_EXPIRED,	/* the kernel let the opener on before we did */
	PINLEASE_FILE_REARMING,	/* the guard is being taken again */
};

enum pinlease_event_type {
	PINLEASE_EV_BREAK = 1,		/* stop starting DMA, end what is in flight, before deadline_ns */
	PINLEASE_EV_REVOKED,		/* fenced and let go; in_flight says what the fence cut off */
	PINLEASE_EV_RESTORED,		/* new generation: read a new view */
	PINLEASE_EV_RESTORE_FAILED,	/* err says why; pinlease_restore may be tried again */
	PINLEASE_EV_LOST,		/* the change went on first, or data was not written: lost_bytes */
	PINLEASE_EV_NOTICE,		/* the path was renamed, unlinked or replaced; DMA goes on */
};

/* Who made the break. */
enum pinlease_cause {
	PINLEASE_BY_READER = 1,		/* an open for reading (also with O_TRUNC: the kernel says no more) */
	PINLEASE_BY_WRITER,		/* an open for writing, truncate(2) */
	PINLEASE_BY_OWNER,		/* pinlease_file_truncate or _allocate */
	PINLEASE_BY_NAMESPACE,		/* rename, unlink, replacement of the path */
};

#define PINLEASE_F_NO_ANCHOR	(1u << 0)	/* file: no promise for a killed owner, one fd less */
#define PINLEASE_L_ACK		(1u << 0)	/* lease: a break also waits for pinlease_ack */
#define PINLEASE_L_MANUAL	(1u << 1)	/* lease: restored by pinlease_restore only */
#define PINLEASE_L_FILL_NONE	(1u << 2)	/* staged: do not read the file first */
#define PINLEASE_L_DIRTY_TOLD	(1u << 3)	/* staged: only what mark_dirty names is dirty */
#define PINLEASE_L_HOLE_FILL	(1u << 4)	/* READ lease of a file opened with WRITE, over a hole: fill
						 * it instead of -ENODATA (file opened READ: -EINVAL) */
#define PINLEASE_L_GRANTED	(1u << 5)	/* lease: only peers with a grant write from afar */

/* Where a call failed. */
enum pinlease_stage {
	PINLEASE_AT_ARGS = 1,	/* checking what was passed */
	PINLEASE_AT_OPEN,	/* opening or duplicating the file */
	PINLEASE_AT_GUARD,	/* taking or retaking the guard */
	PINLEASE_AT_ANCHOR,	/* putting the leased fd in flight */
	PINLEASE_AT_SIZE,	/* comparing the range with the file */
	PINLEASE_AT_MAP,	/* mapping the file, or checking the application's mapping */
	PINLEASE_AT_ALLOCATE,	/* allocating blocks and faulting pages in */
	PINLEASE_AT_FILL,	/* reading the file into staged memory */
	PINLEASE_AT_CHECK,	/* asking the device, or checking its data path */
	PINLEASE_AT_REGISTER,	/* ibv_reg_mr, or the backend's pin */
};

/* Why; pinlease_reason_str() has the sentence for a user. Numbers are stable, new ones come last. */
enum pinlease_reason {
	PINLEASE_WHY_NONE,
	PINLEASE_WHY_ARGUMENT,		/* a pointer, flag, enum or combination that is not legal */
	PINLEASE_WHY_OPTS_SIZE,		/* opts.size is none of this library's, or unknown bytes are set */
	PINLEASE_WHY_ALIGNMENT,		/* offset, or address, is not a multiple of the file's page size */
	PINLEASE_WHY_RANGE,		/* empty, or ends beyond the end of the file */
	PINLEASE_WHY_OVERLAP,		/* overlaps another lease, and one of the two is staged for writing */
	PINLEASE_WHY_BAD_FD,		/* closed, O_PATH, or not open for what the access needs */
	PINLEASE_WHY_NOT_REGULAR,	/* a directory, pipe, socket, or device other than device-dax */
	PINLEASE_WHY_FILESYSTEM,	/* leases here only notify, or miss an opener (NFS, overlayfs, ...) */
	PINLEASE_WHY_NO_LEASES,		/* the file system or the sysctl fs.leases-enable refuses leases */
	PINLEASE_WHY_NOT_OWNER,		/* not the file's owner, and no CAP_LEASE */
	PINLEASE_WHY_OWN_FD,		/* this process has the file open elsewhere */
	PINLEASE_WHY_OWN_MAPPING,	/* this process has a mapping of the file left from a closed fd */
	PINLEASE_WHY_OPENER,		/* another process (why.pid, if it was found) has the file open */
	PINLEASE_WHY_LEASED,		/* this open file description carries a lease already */
	PINLEASE_WHY_IN_FLIGHT_FDS,	/* no room for the anchor: EMFILE, or the uid's fds in flight */
	PINLEASE_WHY_FD_REPLACED,	/* the library's file descriptor was closed or replaced under it */
	PINLEASE_WHY_BROKEN,		/* a break came in the middle of it: try again */
	PINLEASE_WHY_STATE,		/* not in this state */
	PINLEASE_WHY_MAPPING,		/* opts.addr is not a shared mapping of this range of this file */
	PINLEASE_WHY_NO_SPACE,		/* ENOSPC or EDQUOT while allocating the range */
	PINLEASE_WHY_HOLE,		/* a read lease over a hole: a later O_DIRECT write would go unseen */
	PINLEASE_WHY_IO,		/* the file could not be read, or faulted in */
	PINLEASE_WHY_MEMLOCK,		/* RLIMIT_MEMLOCK */
	PINLEASE_WHY_MEMORY,		/* out of memory, or of address space */
	PINLEASE_WHY_DIRTY_TRACKED,	/* a long-term write pin of dirty-tracked page cache is never made */
	PINLEASE_WHY_PIN_REFUSED,	/* the kernel or the provider refused to register: why.sys_errno */
	PINLEASE_WHY_DAX,		/* the kernel refuses long-term pins of fs-dax */
	PINLEASE_WHY_NO_ODP,		/* the device does not do on-demand paging for this */
	PINLEASE_WHY_DATA_CHECK,	/* the device failed the check of its data path under ODP, or
					 * could not be put to it */
	PINLEASE_WHY_BACKEND,		/* the application's backend said no */
	PINLEASE_WHY_SEALED,		/* the file came sealed: writable only through opts.addr */
	PINLEASE_WHY_NO_SEALS,		/* not a memfd, or one that refuses seals */
	PINLEASE_WHY_STAGED_SEALED,	/* staged memory cannot be written back to a sealed file */
	PINLEASE_WHY_DEREG,		/* the provider refuses to deregister (windows bound to it?) */
	PINLEASE_WHY_EXPIRED,		/* the guard expired before the DMA was fenced or the data written */
	PINLEASE_WHY_SHRUNK,		/* the file now ends before the range */
	PINLEASE_WHY_BEST,		/* chosen: reaches the file's pages, nothing better exists */
	PINLEASE_WHY_ASKED,		/* chosen: asked for by name */
	PINLEASE_WHY_OPEN,		/* open(2) said no: why.sys_errno */
	PINLEASE_WHY_WOULD_BREAK,	/* probe: process why.pid holds a lease, which an open would break */
	PINLEASE_WHY_NO_WRITE,		/* staged cannot be written back: hugetlbfs, a fd with O_APPEND */
	PINLEASE_WHY_NOT_STATIC,	/* the static guard was asked for, on what is no device-dax */
	PINLEASE_WHY_BUDGET,		/* more staged memory than can be written back in lease-break-time */
	PINLEASE_WHY_LAST,		/* not a reason: one more than the last */
};

struct pinlease_why {			/* written on failure only; every pointer to it may be NULL */
	uint32_t stage;			/* enum pinlease_stage */
	uint32_t reason;		/* enum pinlease_reason, see pinlease_reason_str */
	int32_t sys_errno;		/* what the kernel or the provider said, or 0 */
	uint32_t mode, guard;		/* what was being tried */
	int32_t pid;			/* who is in the way, where that could be found, or 0 */
};

/* Every opts struct: .size = sizeof, other fields 0 = default. NULL opts = all defaults. */
struct pinlease_ctx_opts {
	size_t size;
	uint32_t flags;			/* 0 */
	int32_t signo;			/* real-time signal reserved for the library; 0 = SIGRTMAX - 2 */
	void (*log)(void *arg, int level, const char *msg);	/* level as in syslog(3); from any thread,
								 * under locks: must not call the library */
	void *log_arg;
};

struct pinlease_file_opts {
	size_t size;
	uint32_t access;		/* enum pinlease_access; 0 = WRITE */
	uint32_t guard;			/* enum pinlease_guard */
	uint32_t flags;			/* PINLEASE_F_* */
	uint32_t reserved;		/* 0 */
};

struct pinlease_opts {
	size_t size;
	struct ibv_pd *pd;		/* NULL: no verbs registration (another backend, or none) */
	uint32_t mode, access, flags;	/* access 0 = the file's */
	uint32_t ibv_access;		/* IBV_ACCESS_* passed on; LOCAL_WRITE is added for PINLEASE_WRITE */
	uint64_t iova;			/* 0 = the address */
	void *addr;			/* existing MAP_SHARED mapping of off..off+len, or NULL: we map.
					 * view.addr equals it in every mode: staged memory takes its
					 * place (MAP_FIXED) until release maps the file back */
	uint32_t deadline_ms;		/* 0 = 5000; capped below lease-break-time */
	uint32_t restore_ms;		/* give up restoring after; 0 = never */
	void *user;			/* comes back in every event */
	const struct pinlease_backend *backend;	/* not together with pd, but for BACKEND_OWN_MR */
	void *backend_arg;
};

struct pinlease_view {			/* one consistent reading of one generation */
	size_t size;
	void *addr;			/* stable until release, also over restore */
	uint64_t iova, len;		/* len may be shorter after a restore */
	uint32_t lkey, rkey, gen, mode, guard;
	struct ibv_mr *mr;
};

struct pinlease_event {
	size_t size;
	uint32_t type, cause;
	struct pinlease *lease;
	void *user;
	uint32_t gen;			/* the generation it is about; RESTORED: the new one */
	int32_t err;
	uint64_t off, len;		/* what was touched, restored or lost; the whole lease if unknown */
	uint64_t deadline_ns;		/* BREAK: CLOCK_MONOTONIC */
	uint64_t in_flight;		/* REVOKED, LOST: operations the fence cut off */
	uint64_t lost_bytes;		/* LOST: dirty bytes not in the file, kept for pinlease_save */
};

struct pinlease_lease_info {		/* for people and logs: consistent, but old when you read it */
	size_t size;
	uint32_t state, mode, guard, gen;
	uint32_t mode_reason;		/* enum pinlease_reason: why no better mode, or BEST, or ASKED */
	uint32_t registrations;
	uint64_t off, len;
	uint64_t in_flight;		/* of this generation */
	uint64_t late;			/* begun in fenced generations and not yet ended */
	uint64_t dirty_bytes;		/* staged: what a break would write back now */
	uint64_t breaks;		/* so far */
};

struct pinlease_file_info {		/* as lease_info */
	size_t size;
	uint32_t state;			/* enum pinlease_file_state */
	uint32_t guard, access, flags;
	int32_t fd;			/* the library's: do not use it */
	uint32_t anchored;		/* 1: one more reference to it is in flight */
	uint32_t leases;
	uint32_t cause;			/* of the pending, or the last, break */
	uint64_t breaks;		/* so far */
};

#define PINLEASE_STATS_EVENTS 16	/* room: by enum pinlease_event_type */
#define PINLEASE_STATS_BUCKETS 32

struct pinlease_ctx_stats {		/* since ctx_new; each number is right by itself */
	size_t size;
	uint64_t files, leases;		/* now */
	uint64_t acquired, released;	/* leases */
	uint64_t events[PINLEASE_STATS_EVENTS];	/* of all leases, taken by the application or not */
	uint64_t cut_off;		/* operations that a fence cut off */
	uint64_t answered;		/* breaks of a file's guard that ended in letting it go */
	uint64_t expired;		/* of those: the kernel had let the opener on, or may have */
	uint64_t break_ns_sum, break_ns_max;	/* from being noticed to letting go */
	uint64_t break_hist[PINLEASE_STATS_BUCKETS];	/* i: below 2^i us and not below half of it */
};

#define PINLEASE_PROBE_FORCE (1u << 0)	/* break the lease that somebody holds on the file, and wait for it */
#define PINLEASE_PROBE_NO_MEMBARRIER (1u << 0)	/* result: begin and end pay for a barrier each */
#define PINLEASE_PROBE_CELLS 48		/* room; count are used */

struct pinlease_probe_opts {
	size_t size;
	struct ibv_pd *pd;		/* NULL: no registration */
	const struct pinlease_backend *backend;	/* not together with pd */
	void *backend_arg;
	uint64_t off, len;		/* as acquire's; len 0: a page at off, or what the file has of it */
	uint32_t access;		/* ask about this one only; 0 = both */
	uint32_t ibv_access;		/* of WRITE; READ gets what of it does not write */
	uint32_t file_flags;		/* PINLEASE_F_* */
	uint32_t flags;			/* PINLEASE_PROBE_FORCE */
};

struct pinlease_probe_cell {
	uint32_t guard, mode, access;	/* never AUTO */
	int32_t err;			/* 0: it works; or what file_open or acquire says */
	struct pinlease_why why;	/* set if err is */
};

struct pinlease_probe_auto {
	uint32_t access;		/* 0: was not asked about */
	int32_t err;			/* 0, and guard, mode and mode_reason are set; else why */
	uint32_t guard, mode, mode_reason;
	struct pinlease_why why;
};

struct pinlease_probe_result {
	size_t size;
	uint32_t flags;			/* PINLEASE_PROBE_NO_MEMBARRIER */
	uint32_t count;			/* of cells */
	int32_t odp_err;		/* 0: AUTO trusts the device with on-demand paging; or why */
	uint32_t odp_reason;		/* NONE, NO_ODP, DATA_CHECK */
	struct pinlease_probe_auto auto_read, auto_write;
	struct pinlease_probe_cell cell[PINLEASE_PROBE_CELLS];
};

/*
 * ctx: threads, event queue, statistics. Makes one thread that waits for the
 * reserved signal (the breaker), one that looks for what that has missed, and a
 * small pool of workers; all signals are blocked in them. signo must be in
 * SIGRTMIN..SIGRTMAX, and the application must leave it alone: its default action
 * kills the process. -EINVAL, -ENOMEM, -EAGAIN (threads), -EMFILE. Does not block.
 */
int pinlease_ctx_new(const struct pinlease_ctx_opts *opts, struct pinlease_ctx **ctx);
/* Joins the threads. -EBUSY while the ctx has files: nothing is freed then. */
int pinlease_ctx_free(struct pinlease_ctx *ctx);
/* For poll, epoll, select: readable while events are queued. Owned by the ctx; do not read it. */
int pinlease_ctx_fd(const struct pinlease_ctx *ctx);
/*
 * 1 and *ev, or 0: none now. Set ev->size. Never blocks. Each kind of event is held
 * once per lease, the newest wins (in_flight adds up), in the order of the last
 * occurrence. No event of a lease is returned after pinlease_release returned.
 */
int pinlease_ctx_next_event(struct pinlease_ctx *ctx, struct pinlease_event *ev);

/*
 * Open path (O_RDWR for WRITE, O_RDONLY for READ; O_CLOEXEC), or duplicate fd, and
 * take the guard at once. Attach puts the guard on fd's open file description,
 * which the application shares then: its own calls through it are not told of.
 * -EINVAL; what open(2) says; -EBADF (why.reason BAD_FD); -EAGAIN: somebody has
 * the file open (OWN_FD, OWN_MAPPING, OPENER + pid); -EBUSY: the description
 * carries a lease already; -EACCES: not the owner; -EOPNOTSUPP: no guard here
 * (FILESYSTEM, NO_LEASES, NO_SEALS); -EMFILE, -ETOOMANYREFS: no room for the
 * anchor; -ENOMEM. May block as open(2) does; sends no break of ours.
 */
int pinlease_file_open(struct pinlease_ctx *ctx, const char *path, const struct pinlease_file_opts *opts,
		       struct pinlease_why *why, struct pinlease_file **file);
int pinlease_file_attach(struct pinlease_ctx *ctx, int fd, const struct pinlease_file_opts *opts,
			 struct pinlease_why *why, struct pinlease_file **file);
/* Lets the guard go and closes the fd. -EBUSY while the file has leases. */
int pinlease_file_close(struct pinlease_file *file);
/*
 * ftruncate(2) and fallocate(2) of the guarded file: break exactly the leases whose
 * range is touched (cause BY_OWNER), change, restore those. Block for the drain
 * (deadline as in a break) and the change. -EBADF and -EINVAL of a file opened with
 * READ, -EPERM of a sealed one break nothing. Otherwise the kernel's answer; the
 * leases are restored also when it is an error. -EAGAIN: a break from outside
 * is being answered.
 */
int pinlease_file_truncate(struct pinlease_file *file, uint64_t len);
int pinlease_file_allocate(struct pinlease_file *file, int mode, uint64_t off, uint64_t len);

/*
 * Lease off..off+len (bytes; off a multiple of the file's page size, the end not
 * beyond the end of the file). Allocates, fills and faults in what a writable
 * registration needs, so that a full disk is an error here and not a SIGBUS later.
 * May block on the disk and the device. -EINVAL (ARGUMENT, OPTS_SIZE, ALIGNMENT,
 * RANGE, MAPPING), -E2BIG, -EEXIST (OVERLAP), -EAGAIN (BROKEN: a break came in
 * the middle; OPENER, OWN_FD: the guard could not be retaken), -EACCES (more access
 * than the file has), -ENODATA (HOLE), -ENOSPC, -EDQUOT, -EIO, -ENOMEM (MEMLOCK,
 * MEMORY), -EPERM (SEALED), -EBADF (FD_REPLACED), -EFBIG (BUDGET: staged for writing, more
 * than can be written back in lease-break-time), -EOPNOTSUPP and what the provider
 * said (DIRTY_TRACKED, PIN_REFUSED, DAX, NO_ODP, DATA_CHECK, BACKEND). -ENOSPC also
 * when this process has 262,144 leases.
 */
int pinlease_acquire(struct pinlease_file *file, uint64_t off, uint64_t len, const struct pinlease_opts *opts,
		     struct pinlease_why *why, struct pinlease **lease);
/*
 * Drains (until the deadline), fences, writes back, unmaps, frees; may block. 0: it
 * is gone. -EIO, -ENOSPC, ... of the writeback, -EBUSY when the provider refuses to
 * deregister: the lease is there still, in LOST, and release may be tried again;
 * a second release after a failed writeback drops the data. -EBUSY also while it has
 * grants (pinlease/peers.h): then nothing has happened. Other threads may be in
 * pinlease_dma_end of what it waits for, and in no other call on this lease.
 */
int pinlease_release(struct pinlease *lease);
/*
 * From REVOKED or LOST: take the guard if nobody else has the file open, check the
 * size, register again, generation + 1; drops what LOST kept, so save first. 0 also
 * when ACTIVE already. -EAGAIN: still breaking, or somebody has the file open;
 * -EBUSY: still registered (DEREG); otherwise as acquire. May block. A range that the
 * file's new end has shortened comes back shorter; one beyond it is -ENODATA (SHRUNK).
 */
int pinlease_restore(struct pinlease *lease, struct pinlease_why *why);
/*
 * One more registration of the same memory, in another PD; *index is for view_get.
 * It is fenced and restored with the others. -EAGAIN unless ACTIVE. May block.
 */
int pinlease_mr_add(struct pinlease *lease, struct ibv_pd *pd, uint32_t ibv_access, uint32_t *index);
/* The keys of registration mr_index (0: acquire's). -EAGAIN unless ACTIVE, -ERANGE. Set view->size. */
int pinlease_view_get(struct pinlease *lease, uint32_t mr_index, struct pinlease_view *view);
/* L_ACK: what must stop has stopped, for generation gen. 0 also when not, or no longer, due. Never blocks. */
int pinlease_ack(struct pinlease *lease, uint32_t gen);
/* Set info->size. -EINVAL. Never blocks on a device or disk. */
int pinlease_lease_info(struct pinlease *lease, struct pinlease_lease_info *info);
/* The same of a file, and of all that a ctx has done. Set info->size, stats->size. */
int pinlease_file_info(struct pinlease_file *file, struct pinlease_file_info *info);
int pinlease_ctx_stats(struct pinlease_ctx *ctx, struct pinlease_ctx_stats *stats);

/*
 * The account. begin before n operations are started that reach the lease's memory,
 * end when they have completed, from any thread, with the generation that begin
 * gave; keys and address are valid in between. begin: 0; -EAGAIN: stop, a break
 * is being answered, or not restored yet; -ESTALE: LOST; -ECHILD; -ENOMEM only at
 * a thread's first use of a lease. A few nanoseconds, wait-free while ACTIVE.
 * end: a stale gen is legal and disturbs nothing.
 */
int pinlease_dma_begin(struct pinlease *lease, uint32_t n, uint32_t *gen);
void pinlease_dma_end(struct pinlease *lease, uint32_t n, uint32_t gen);
#if defined(__GNUC__) && !defined(__clang__)
/* Called by way of the caller's GOT, without the jump through its PLT. */
extern __typeof__(pinlease_dma_begin) pinlease_dma_begin __attribute__((__noplt__));
extern __typeof__(pinlease_dma_end) pinlease_dma_end __attribute__((__noplt__));
#endif

/*
 * L_DIRTY_TOLD: off..off+len (relative to the lease) was or is being written; call
 * it between begin and end. 0; -ERANGE: not in the lease, or, with L_FILL_NONE, not whole
 * pages; -EINVAL without L_DIRTY_TOLD. Wait-free.
 */
int pinlease_mark_dirty(struct pinlease *lease, uint64_t off, uint64_t len);
/*
 * What was ordered before it is durable when it returns 0. off, len relative to the
 * lease; len 0 = to the end; flags 0. Beside traffic: no mode quiesces,
 * pinlease_durability(7). -EAGAIN: not ACTIVE, or a break came in the middle; -EIO, -ENOSPC,
 * -EDQUOT: the data is dirty still, try again or pinlease_save. May block.
 */
int pinlease_sync(struct pinlease *lease, uint64_t off, uint64_t len, uint32_t flags);
/*
 * Write the dirty ranges of a staged lease to fd, at the file's offsets: in LOST, or
 * after a failed sync. The lease stays as it is. -EAGAIN elsewhere, -ENODATA when
 * nothing is dirty; what pwrite(2) says. May block.
 */
int pinlease_save(struct pinlease *lease, int fd);
/*
 * The ranges that pinlease_save would write, one by one: the first at or after from
 * (relative to the lease), in *off and *len. 1; 0: no more; -EAGAIN elsewhere, -ERANGE.
 * Does not block.
 */
int pinlease_dirty_next(struct pinlease *lease, uint64_t from, uint64_t *off, uint64_t *len);

/*
 * What would file_open (of probe_fd: attach) and acquire say, here and now, for each guard,
 * mode and access, and what would AUTO take? Each cell is tried, in the code that those
 * calls run, and undone: the guard is taken for a moment, during which an opener waits;
 * nothing is sealed, allocated, faulted in or written, so a full disk is not foreseen. A
 * file that somebody leases is not opened: -EBUSY (WOULD_BREAK, why.pid), unless
 * PROBE_FORCE, or access is READ and the lease is for reading. Set result->size. 0: the
 * question is answered, whatever the cells say; else *result is untouched. -EINVAL, -E2BIG;
 * open(2) of the path with O_PATH; -EBADF, -EISDIR, -EINVAL (NOT_REGULAR); -EBUSY (DEREG: the
 * provider or backend keeps what it was given; the ctx stays busy). Makes file and lease
 * of the ctx for the moment; its events are not the application's. May block.
 */
int pinlease_probe(struct pinlease_ctx *ctx, const char *path, const struct pinlease_probe_opts *opts,
		   struct pinlease_why *why, struct pinlease_probe_result *result);
int pinlease_probe_fd(struct pinlease_ctx *ctx, int fd, const struct pinlease_probe_opts *opts,
		      struct pinlease_why *why, struct pinlease_probe_result *result);

/* A sentence in English for enum pinlease_reason; never NULL. */
const char *pinlease_reason_str(uint32_t reason);
/* "DIRTY_TRACKED" of PINLEASE_WHY_DIRTY_TRACKED, for logs and programs; never NULL. */
const char *pinlease_reason_name(uint32_t reason);
/* "0.1.0" */
const char *pinlease_version(void);

#ifdef __cplusplus
}
#endif
#endif
