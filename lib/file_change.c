/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layout changes of our own. They go through our open file description, so the kernel
 * breaks nothing for them: the leases they touch are broken here, one change at a time,
 * while the guard stays held and the other leases of the file go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdint.h>

#include "lease.h"
#include "sys.h"

/* How long past the deadline a lease that cannot be fenced is waited for. */
#define CHANGE_PATIENCE_NS PL_NS_PER_S

struct change {
	uint64_t off, end;	/* what it touches; off == end: nothing that is leased */
	bool truncate;
	int mode;
	uint64_t arg_off, arg_len;
};

static bool change_touches(const struct change *c, const struct pinlease *lease)
{
	return lease->range.off < c->end && lease->range.off + lease->range.len > c->off;
}

/* Calls fn for every lease the change touches. */
static void change_each(struct pinlease_file *file, const struct change *c,
			void (*fn)(struct pinlease *lease, const struct change *c))
{
	struct pl_list *pos;
	struct pinlease *lease;

	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		if (change_touches(c, lease))
			fn(lease, c);
	}
}

static void change_break(struct pinlease *lease, const struct change *c)
{
	uint64_t off = pl_sub_sat(c->off, lease->range.off),
		 end = pl_min_u64(c->end - lease->range.off, lease->now_len);

	if (pl_lease_state(lease) != PINLEASE_ACTIVE)
		return;
	lease->waited = true;
	off = pl_min_u64(off, end);
	pl_lease_break(lease, PINLEASE_BY_OWNER, pl_sys_now() + pl_lease_deadline(lease), off, end - off);
}

static void change_look(struct pinlease *lease, const struct change *c)
{
	uint64_t now = pl_sys_now();

	(void)c;
	if (lease->releasing)
		return;
	if (pl_lease_state(lease) == PINLEASE_BREAKING && !pl_lease_look(lease, now))
		pl_lease_queue(lease, lease->until_ns);
	else if (pl_lease_state(lease) == PINLEASE_FENCING && !lease->fenced)
		pl_lease_queue(lease, 0);
}

/* Fenced, and nobody else has revoked it meanwhile (a break from outside that was answered would). */
static void change_revoke(struct pinlease *lease, const struct change *c)
{
	(void)c;
	if (lease->waited && !lease->releasing && pl_lease_state(lease) == PINLEASE_FENCING && lease->fenced)
		pl_lease_revoke(lease, pl_file_overdue(lease->file));
}

/*
 * Whoever broke it: one that is being released by another thread, and one that an earlier change
 * or release has given up on, are still registered as well.
 */
static bool change_meets(const struct change *c, struct pinlease *lease)
{
	uint32_t state = pl_lease_state(lease);

	if (!change_touches(c, lease) || state == PINLEASE_ACTIVE || state == PINLEASE_CLOSED)
		return false;
	return !lease->fenced || lease->busy;
}

/* Locked. Waits until every touched lease is fenced and written; -EBUSY: one cannot be. */
static int change_drain(struct pinlease_file *file, const struct change *c)
{
	uint64_t latest = pl_sys_now(), now;
	struct pl_list *pos;
	struct pinlease *lease, *waiting;

	for (;;) {
		waiting = NULL;
		pl_list_for_each(pos, &file->leases) {
			lease = pl_container(pos, struct pinlease, link);
			if (!change_meets(c, lease))
				continue;
			waiting = lease;
			latest = pl_max_u64(latest, lease->until_ns);
		}
		if (!waiting)
			break;
		now = pl_sys_now();
		/* Slow writeback is waited for as long as it takes; a provider that refuses is not. */
		if (now > latest + CHANGE_PATIENCE_NS && (waiting->err || waiting->orphan) && !waiting->busy)
			return -EBUSY;
		pl_sys_cond_wait(&file->cond, &file->lock, now + 100 * PL_NS_PER_MS);
	}
	return 0;
}

/* An orphan stays INIT, for as long as the provider likes. */
static bool change_unsettled(struct pinlease_file *file, const struct change *c)
{
	struct pl_list *pos;
	struct pinlease *lease;
	bool acquired;

	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		acquired = pl_lease_state(lease) == PINLEASE_INIT && !lease->orphan;
		if (change_touches(c, lease) && (lease->busy || acquired))
			return true;
	}
	return false;
}

static int change_apply(struct pinlease_file *file, const struct change *c)
{
	/* Never of another file that has got our number. */
	int r = pl_fileid_same(file->fd, &file->id);

	if (r)
		return r;
	do {
		r = c->truncate ? pl_sys_truncate(file->fd, c->arg_len) :
				  pl_sys_allocate(file->fd, c->mode, c->arg_off, c->arg_len);
	} while (r == -EINTR);
	return r;
}

/* Locked, dropped inside. Restores what the change had broken, in this thread: done on return. */
static void change_restore(struct pinlease_file *file)
{
	struct pl_list *pos;
	struct pinlease *lease;
	bool again = true;

	while (again) {
		again = false;
		pl_list_for_each(pos, &file->leases) {
			lease = pl_container(pos, struct pinlease, link);
			if (!lease->waited || lease->releasing)
				continue;
			/* One that was given up, and is just being tried again, is its worker's. */
			lease->waited = false;
			if (lease->busy || file->state != PL_FILE_HELD || !pl_lease_wants(lease))
				continue;
			pl_lease_restore_step(lease, NULL);
			/* The list may have changed while the lock was dropped. */
			again = true;
			break;
		}
	}
	/* Overtaken by a break from outside, they come back later; and others may have waited for us. */
	pl_file_want(file, pl_sys_now() + (file->state == PL_FILE_FREE ? file->backoff_ns : 0));
}

static int file_change(struct pinlease_file *file, const struct change *c)
{
	int r = 0;

	/* The kernel says no (EBADF, EINVAL, EPERM), or nothing that is leased moves. */
	if (!file->guard.ops->changes || file->access == PINLEASE_READ || c->off >= c->end)
		return change_apply(file, c);
	pthread_mutex_lock(&file->lock);
	pl_file_ask(file);
	while (file->changing)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	if (file->state != PL_FILE_HELD && file->state != PL_FILE_FREE) {
		pthread_mutex_unlock(&file->lock);
		return -EAGAIN;
	}
	file->changing = true;
	/* An acquire or a restore under way has looked at the size already: let finish, and broken then. */
	while (change_unsettled(file, c))
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	change_each(file, c, change_break);
	pl_account_barrier();
	pl_events_wake(&file->env->events);
	change_each(file, c, change_look);
	r = change_drain(file, c);
	pl_file_ask(file);
	change_each(file, c, change_revoke);
	pl_events_wake(&file->env->events);
	if (!r) {
		pthread_mutex_unlock(&file->lock);
		r = change_apply(file, c);
		pthread_mutex_lock(&file->lock);
	}
	change_restore(file);
	file->changing = false;
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
	return r;
}

int pl_file_truncate(struct pinlease_file *file, uint64_t len)
{
	struct change c = { .off = len, .end = UINT64_MAX, .truncate = true, .arg_len = len };

	if (len > INT64_MAX)
		return -EINVAL;
	return file_change(file, &c);
}

int pl_file_allocate(struct pinlease_file *file, int mode, uint64_t off, uint64_t len)
{
	struct change c = {
		.off = off, .end = pl_add_sat(off, len), .mode = mode, .arg_off = off, .arg_len = len
	};

	if (off > INT64_MAX || len > INT64_MAX)
		return -EINVAL;
	/* Plain allocation gives holes blocks and moves nothing; these two move all that follows. */
	if (!(mode & ~FALLOC_FL_KEEP_SIZE))
		c.end = c.off;
	else if (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE))
		c.end = UINT64_MAX;
	return file_change(file, &c);
}
