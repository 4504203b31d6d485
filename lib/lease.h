/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 4: what happens to files and leases. lease.c owns every state change; the other
 * files of this layer call it. "Locked" means: called with the file's lock held.
 */
#ifndef PL_LEASE_H
#define PL_LEASE_H

#include "objects.h"

#define PL_BACKOFF_MIN_NS (20 * PL_NS_PER_MS)
#define PL_BACKOFF_MAX_NS (1000 * PL_NS_PER_MS)

/* Beside PINLEASE_F_*, for probe: what it opens and acquires is a trial (trial.h); an open does not wait. */
#define PL_F_TRIAL   (1u << 31)
#define PL_F_NO_WAIT (1u << 30)

/* lease.c: the arrows of state.c, the break from mark to let-go */
void pl_lease_hold(struct pinlease *lease);		/* locked */
void pl_lease_unhold(struct pinlease *lease);		/* locked */
void pl_lease_emit(struct pinlease *lease, struct pinlease_event *ev); /* locked; all but gen is set */
void pl_lease_activate(struct pinlease *lease);		/* locked: INIT, REVOKED, LOST -> ACTIVE */
void pl_lease_break(struct pinlease *lease, uint32_t cause, uint64_t until, uint64_t off, uint64_t len);
							/* locked: ACTIVE -> BREAKING; a barrier is due */
void pl_lease_revoke(struct pinlease *lease, bool expired); /* locked: FENCING -> REVOKED, LOST */
void pl_lease_close(struct pinlease *lease);		/* locked: -> CLOSED */
uint32_t pl_lease_in_flight(struct pinlease *lease);	/* locked: operations, and grants that are out */
bool pl_lease_look(struct pinlease *lease, uint64_t now); /* locked: BREAKING -> FENCING if it may: true */
void pl_lease_fence(struct pinlease *lease);		/* locked, dropped inside: unpin, write back */
void pl_lease_queue(struct pinlease *lease, uint64_t due); /* locked */
void pl_lease_run(struct pl_work *work);		/* a worker's entry: the lease's next step */
void pl_lease_poke(struct pinlease *lease);		/* an end, or an ack, may have been the last one */
void pl_lease_ack(struct pinlease *lease, uint32_t gen);
void pl_lease_end_late(struct pinlease *lease, uint32_t n, uint32_t gen);

/* file_break.c: the guard's side */
/* Breaker: is it broken? Marks; true: barrier, then answer, with this number of the break. */
bool pl_file_mark(struct pinlease_file *file, uint64_t *number);
void pl_file_answer(struct pinlease_file *file, uint64_t number, bool may_fence); /* here, if that is short */
/*
 * Locked, dropped inside. What the breaker would do if it came now: it may not have been told, or this
 * process was stopped until the kernel let the opener on. For who is about to say that nothing is lost.
 */
void pl_file_ask(struct pinlease_file *file);
bool pl_file_overdue(const struct pinlease_file *file);	/* locked: the kernel may have let the opener on */
void pl_file_settle(struct pinlease_file *file);	/* locked: lets the guard go if nobody needs it */
int pl_file_arm(struct pinlease_file *file, uint32_t *reason); /* locked: FREE -> HELD, or stays FREE */
void pl_file_disarm(struct pinlease_file *file);		/* locked: no leases, about to be closed */
bool pl_file_wanted(struct pinlease_file *file, const struct pinlease *but); /* locked: by a lease but that */
void pl_file_want(struct pinlease_file *file, uint64_t due);   /* locked: take the guard again then */
void pl_file_run(struct pl_work *work);			/* a worker's entry: rearm */

/* lease_restore.c */
bool pl_lease_wants(const struct pinlease *lease);	/* locked: to be restored automatically */
/* Not locked: memory and registrations. */
int pl_lease_prepare(struct pinlease *lease, bool first, struct pinlease_why *why);
int pl_lease_pin(struct pinlease *lease, struct pl_reg *reg);
void pl_lease_dirty(struct pinlease *lease);		/* not locked, a syncer: the backends' dirty */
int pl_lease_unpin(struct pinlease *lease);		/* not locked: every registration; 0: fenced */
int pl_lease_restore_step(struct pinlease *lease, struct pinlease_why *why); /* locked, dropped inside */
int pl_lease_restore(struct pinlease *lease, struct pinlease_why *why);
void pl_why_set(struct pinlease_why *why, uint32_t stage, uint32_t reason, int err);
/* The same where no system call said so; answers err. */
int pl_refuse(struct pinlease_why *why, uint32_t stage, uint32_t reason, int err);

/* lease_data.c */
void pl_lease_write_back(struct pinlease *lease);	/* locked, dropped inside: FENCING, fenced */
int pl_lease_mark_dirty(struct pinlease *lease, uint64_t off, uint64_t len);
int pl_lease_sync(struct pinlease *lease, uint64_t off, uint64_t len);
uint64_t pl_lease_dirty_bytes(struct pinlease *lease);
void pl_lease_mark_unknown(struct pinlease *lease);	/* what may have been written is dirty from now on */

bool pl_file_in_time(struct pinlease_file *file);	/* locked: may another piece be written? */
/* Not locked, a syncer: from..end, or what is told dirty of it, into the file. -EAGAIN: broken. */
int pl_lease_write_out(struct pinlease *lease, uint64_t from, uint64_t end);

/* lease_budget.c, lease_flush.c */
uint64_t pl_lease_window(const struct pinlease *lease); /* for writing back: ns */
int pl_lease_reserve(struct pinlease *lease, struct pinlease_why *why); /* not locked, mapped: -EFBIG */
void pl_lease_unreserve(struct pinlease *lease);
void pl_file_flush_look(struct pinlease_file *file);	/* slow pass: queues the flusher if it is needed */
void pl_file_flush_run(struct pl_work *work);

/* lease_kept.c: what is not in the file */
/* Locked. The sum; *off and *len: from the first byte of it to the last. Not staged: 0, and all of it. */
uint64_t pl_lease_missing(struct pinlease *lease, uint64_t *off, uint64_t *len);
int pl_lease_save(struct pinlease *lease, int fd);
int pl_lease_dirty_next(struct pinlease *lease, uint64_t from, uint64_t *off, uint64_t *len);

/* file_sync.c: fdatasync, and who hears that it failed */
/*
 * Locked, dropped inside. All that was written to the file before is on the disk, or its leases
 * have a loss more. 0, or the error of the fdatasync that this call made itself.
 */
int pl_file_datasync(struct pinlease_file *file);
void pl_file_lose(struct pinlease_file *file, int err);	/* locked: the kernel says err, and will not again */
/* Locked. Has the lease had a loss since it had so many? Then it is told now. */
bool pl_lease_told(struct pinlease *lease, uint16_t since, int *err);

/* lease_acquire.c, lease_mr.c, lease_release.c */
int pl_lease_acquire(struct pinlease_file *file, uint64_t off, uint64_t len, const struct pinlease_opts *opts,
		     struct pinlease_why *why, struct pinlease **out);
int pl_reg_init(struct pl_reg *reg, const struct pinlease_backend *backend, void *arg, uint32_t ibv_access,
		struct ibv_pd *pd);			/* of which the fork handler learns; NULL: no verbs */
void pl_reg_fini(struct pl_reg *reg);
int pl_lease_view(struct pinlease *lease, uint32_t index, struct pinlease_view *view);
void pl_lease_get_info(struct pinlease *lease, struct pinlease_lease_info *info);
int pl_lease_mr_add(struct pinlease *lease, struct ibv_pd *pd, uint32_t ibv_access, uint32_t *index);
void pl_lease_orphan(struct pinlease *lease); /* not locked: INIT, still registered; tries to undo it */
int pl_lease_release(struct pinlease *lease);
void pl_lease_forget(struct pinlease *lease);		/* a forked child's release: memory only */
void pl_lease_destroy(struct pinlease *lease);		/* not locked, off every list: memory, slots */

/* file.c, file_change.c */
int pl_file_open(struct pl_env *env, const char *path, const struct pinlease_file_opts *opts,
		 struct pinlease_why *why, struct pinlease_file **file);
int pl_file_attach(struct pl_env *env, int fd, const struct pinlease_file_opts *opts,
		   struct pinlease_why *why, struct pinlease_file **file);
int pl_file_close(struct pinlease_file *file);
void pl_file_get_info(struct pinlease_file *file, struct pinlease_file_info *info);
void pl_file_put(struct pinlease_file *file);
void pl_file_notice(struct pl_noticed *who);		/* renamed, or a name less: its leases are told */
int pl_file_truncate(struct pinlease_file *file, uint64_t len);
int pl_file_allocate(struct pinlease_file *file, int mode, uint64_t off, uint64_t len);

#endif
