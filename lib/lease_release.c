/* SPDX-License-Identifier: BSD-3-Clause */
/* Giving a lease back: the way of a break, walked by the caller's own thread. */
#include <errno.h>

#include "lease.h"
#include "sys.h"

/* How long a provider that refuses to deregister is asked again before release gives up. */
#define DEREG_PATIENCE_NS PL_NS_PER_S
/* Between two looks for a thread that has ended the last operation and is not out of the call yet. */
#define ENDING_LOOK_NS PL_NS_PER_MS

/* One attempt to fence; false: not fenced, and time is up. Locked. */
static bool release_fence(struct pinlease *lease, uint64_t until)
{
	struct pinlease_file *file = lease->file;
	uint64_t now;

	pl_lease_fence(lease);
	if (lease->fenced)
		return true;
	now = pl_sys_now();
	if (now >= until)
		return false;
	pl_sys_cond_wait(&file->cond, &file->lock, now + lease->retry_ms * PL_NS_PER_MS);
	return true;
}

/* Locked. Until nothing of ours reaches the memory; 0, or what dereg says. */
static int release_drain(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	uint64_t patience = PL_NEVER;

	for (;;) {
		if (lease->busy) {
			pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
		} else if (pl_lease_state(lease) == PINLEASE_BREAKING) {
			if (!pl_lease_look(lease, pl_sys_now()))
				pl_sys_cond_wait(&file->cond, &file->lock, lease->until_ns);
		} else if (lease->fenced) {
			return 0;
		} else {
			if (patience == PL_NEVER)
				patience = pl_sys_now() + DEREG_PATIENCE_NS;
			if (!release_fence(lease, patience))
				return lease->err;
		}
	}
}

/* Locked. It cannot go yet: it stays, LOST, for pinlease_save or another release. */
static void release_refuse(struct pinlease *lease, bool said)
{
	lease->releasing = lease->waited = false;
	if (pl_lease_state(lease) == PINLEASE_FENCING) {
		pl_lease_revoke(lease, true);
		said = true;
	}
	lease->loss_answered |= said;
	pl_events_wake(&lease->file->env->events);
}

int pl_lease_release(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	bool was_lost, said = false;
	int r;

	pthread_mutex_lock(&file->lock);
	if (lease->grants && !pl_list_empty(&lease->grants->list)) {
		pthread_mutex_unlock(&file->lock);
		return -EBUSY;
	}
	lease->releasing = lease->waited = true;
	/* Asked before the wait: what a break under way loses meanwhile, this release has to say. */
	was_lost = pl_lease_state(lease) == PINLEASE_LOST;
	while (lease->busy)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	/*
	 * An event that nobody has taken has told nobody, and is dropped with the lease: then this
	 * answer says it, once, and what is kept can still be saved.
	 */
	was_lost &= pl_lease_state(lease) == PINLEASE_LOST &&
		    (lease->loss_answered ||
		     !pl_event_untaken(&file->env->events, &lease->box, PINLEASE_EV_LOST));
	if (pl_lease_state(lease) == PINLEASE_ACTIVE) {
		pl_lease_break(lease, 0, pl_sys_now() + pl_lease_deadline(lease), 0, lease->now_len);
		pl_account_barrier();
	}
	r = release_drain(lease) ? -EBUSY : 0;
	if (!r) {
		pl_file_ask(file);
		if (pl_lease_state(lease) == PINLEASE_FENCING && pl_file_overdue(file))
			pl_lease_revoke(lease, true);
		said = lease->lost && !was_lost;
		r = said ? lease->err : 0;
	}
	if (r) {
		release_refuse(lease, said);
		pthread_mutex_unlock(&file->lock);
		return r;
	}
	pl_lease_close(lease);
	pl_range_remove(&file->ranges, &lease->range);
	pl_lease_unhold(lease);
	pl_file_settle(file);
	/* A sync that waits for the disk, a save: the opener need not wait for them, but the memory must. */
	while (lease->users)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	/* Nothing tells when it is: an end costs a few nanoseconds, and this is hardly ever met. */
	while (pl_account_is_ending(&lease->account))
		pl_sys_cond_wait(&file->cond, &file->lock, pl_sys_now() + ENDING_LOOK_NS);
	pl_list_del(&lease->link);
	pthread_mutex_unlock(&file->lock);
	pl_agenda_cancel(&file->env->agenda, &lease->work);
	pl_event_purge(&file->env->events, &lease->box);
	pl_lease_destroy(lease);
	return 0;
}

/* In a forked child: the mappings are not there (MADV_DONTFORK); the locks are the parent's. */
void pl_lease_forget(struct pinlease *lease)
{
	pl_sys_free(lease->regs);
	pl_sys_free(lease->grants);
	pl_sys_free(lease->staged);
	pl_sys_free(lease);
}
