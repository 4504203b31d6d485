/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The flusher: an item of the agenda for each file, which the slow pass queues while a lease
 * with DIRTY_TOLD is larger than its share of the budget. It writes what is dirty when
 * that is more than half of the share: the other half is for what comes meanwhile.
 * Nothing holds up who marks, so a device that is faster than the disk for long gets past
 * it, and a break then keeps what it cannot write in time (LOST).
 *
 * One runs at a time in a ctx. A disk may hold it up for long, and then the other workers
 * are still there to write back what is broken.
 *
 * It writes as a sync does, beside traffic and without fdatasync: what it marks again
 * because operations are in flight stays dirty. It never takes more than a fifth of the
 * time, so that a lease whose operations never pause is not written for nothing all along.
 */
#include <errno.h>

#include "lease.h"
#include "sys.h"

#define FLUSH_NS   (100 * PL_NS_PER_MS)
#define FLUSH_REST 4 /* times as long as it took */

/* Locked. How much of it may be dirty; PL_NEVER: all, or it is no business of the flusher's. */
static uint64_t flush_share(struct pinlease *lease)
{
	uint64_t share;

	/* The state first: before it is ACTIVE the rest is its acquire's. */
	if (pl_lease_state(lease) != PINLEASE_ACTIVE || !pl_lease_reserved(lease) ||
	    !(lease->flags & PINLEASE_L_DIRTY_TOLD))
		return PL_NEVER;
	share = pl_disk_share(lease->file->disk, lease->range.len, pl_lease_window(lease));
	return share < lease->range.len ? share : PL_NEVER;
}

void pl_file_flush_look(struct pinlease_file *file)
{
	uint64_t share = PL_NEVER;
	struct pl_list *pos;

	if (!file->disk)
		return;
	pthread_mutex_lock(&file->lock);
	pl_list_for_each(pos, &file->leases)
		share = pl_min_u64(share, flush_share(pl_container(pos, struct pinlease, link)));
	if (share != PL_NEVER && !file->flushing) {
		file->flushing = true;
		pl_agenda_queue(&file->env->agenda, &file->flush, 0, PL_NEVER, true);
	}
	pthread_mutex_unlock(&file->lock);
}

/* Locked, dropped inside. A break waits for the piece under way, and a release for us. */
static void flush_lease(struct pinlease *lease, uint64_t share)
{
	struct pinlease_file *file = lease->file;
	uint64_t len = lease->now_len;
	int r = 0;

	lease->syncers++;
	lease->users++;
	pthread_mutex_unlock(&file->lock);
	if (pl_staged_dirty_bytes(lease->staged) > share / 2)
		r = pl_lease_write_out(lease, 0, len);
	pthread_mutex_lock(&file->lock);
	/* It is dirty still: a sync or a break will meet the same, and say so. */
	if (r && r != -EAGAIN)
		pl_log_write(&file->env->log, 4, "lease %p: cannot write back (%d)", (void *)lease, r);
	lease->syncers--;
	lease->users--;
	pthread_cond_broadcast(&file->cond);
}

void pl_file_flush_run(struct pl_work *work)
{
	struct pinlease_file *file = pl_container(work, struct pinlease_file, flush);
	uint64_t start = pl_sys_now(), share, now;
	struct pinlease *lease;
	struct pl_list *pos;
	bool again = false;

	if (atomic_exchange(&file->env->flushing, true)) {
		pl_agenda_queue(&file->env->agenda, work, start + FLUSH_NS, PL_NEVER, true);
		return;
	}
	pthread_mutex_lock(&file->lock);
	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		share = flush_share(lease);
		if (share == PL_NEVER || lease->busy || lease->syncers)
			continue;
		/* It stays in the list while we use it. */
		flush_lease(lease, share);
		again = true;
	}
	atomic_store(&file->env->flushing, false);
	now = pl_sys_now();
	file->flushing = again;
	if (again)
		pl_agenda_queue(&file->env->agenda, work,
				now + pl_max_u64(FLUSH_NS, FLUSH_REST * (now - start)), PL_NEVER, true);
	pthread_mutex_unlock(&file->lock);
}
