/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The states of a lease: every arrow of state.c is walked here and nowhere else, by
 * the function named beside it.
 *
 *	acquired, restored	pl_lease_activate	INIT, REVOKED, LOST -> ACTIVE
 *	break			pl_lease_break		ACTIVE -> BREAKING
 *	drained			pl_lease_look		BREAKING -> FENCING
 *	let go, lost		pl_lease_revoke		FENCING -> REVOKED, LOST
 *	lost			lease_dereg_failed	FENCING -> LOST, still registered
 *	released, refused	pl_lease_close		-> CLOSED
 */
#include <assert.h>
#include <errno.h>

#include "lease.h"
#include "sys.h"
#include "trace.h"

#define RETRY_MIN_MS 1u
#define RETRY_MAX_MS 50u

static void lease_set_state(struct pinlease *lease, enum pinlease_state to)
{
	enum pinlease_state from = pl_lease_state(lease);
	const char *arrow = pl_lease_arrow(from, to);

	assert(arrow);
	pl_log_write(&lease->file->env->log, 7, "lease %p gen %u: %s -> %s (%s)", (void *)lease,
		     pl_account_gen(&lease->account), pl_lease_state_name(from), pl_lease_state_name(to),
		     arrow);
	pl_trace_lease(lease, lease->file, from, to, pl_account_gen(&lease->account), arrow);
	pl_account_set_state(&lease->account, to);
	if (lease->file->trial)
		return;
	if (from == PINLEASE_INIT && to == PINLEASE_ACTIVE)
		pl_stats_add(&lease->file->env->stats.acquired, 1);
	else if (from != PINLEASE_INIT && to == PINLEASE_CLOSED)
		pl_stats_add(&lease->file->env->stats.released, 1);
}

void pl_lease_hold(struct pinlease *lease)
{
	if (!lease->holding)
		lease->file->holds++;
	lease->holding = true;
}

void pl_lease_unhold(struct pinlease *lease)
{
	if (lease->holding)
		lease->file->holds--;
	lease->holding = false;
}

void pl_lease_emit(struct pinlease *lease, struct pinlease_event *ev)
{
	/* The application does not know the lease that a probe tries. */
	if (lease->file->trial)
		return;
	ev->gen = pl_account_gen(&lease->account);
	pl_stats_event(&lease->file->env->stats, ev);
	pl_event_put(&lease->file->env->events, &lease->box, ev);
}

void pl_lease_queue(struct pinlease *lease, uint64_t due)
{
	bool restore = pl_lease_state(lease) == PINLEASE_REVOKED;

	/* Whoever waits for a break comes first. */
	pl_agenda_queue(&lease->file->env->agenda, &lease->work, due, restore ? PL_NEVER : lease->until_ns,
			restore || pl_lease_writes_back(lease));
}

void pl_lease_activate(struct pinlease *lease)
{
	lease->fenced = lease->written = lease->lost = false;
	lease->gave_up = lease->sync_failed = lease->loss_answered = false;
	lease->ack_due = false;
	lease->err = 0;
	lease->cut = 0;
	lease->retry_ms = 0;
	if (lease->grants)
		lease->grants->out = lease->grants->untold = 0;
	if (lease->staged)
		lease->staged->late = 0;
	lease->begun = pl_account_begun(&lease->account);
	lease_set_state(lease, PINLEASE_ACTIVE);
}

void pl_lease_break(struct pinlease *lease, uint32_t cause, uint64_t until, uint64_t off, uint64_t len)
{
	struct pinlease_event ev = { .type = PINLEASE_EV_BREAK, .cause = cause, .off = off, .len = len,
				     .deadline_ns = until };

	lease->until_ns = until;
	lease->cause = (uint8_t)cause;
	/* A release is the application's own doing: nobody is told, no ack is waited for. */
	lease->ack_due = cause && (lease->flags & PINLEASE_L_ACK);
	lease_set_state(lease, PINLEASE_BREAKING);
	if (!cause)
		return;
	lease->breaks++;
	pl_lease_emit(lease, &ev);
}

void pl_lease_close(struct pinlease *lease)
{
	lease_set_state(lease, PINLEASE_CLOSED);
}

uint32_t pl_lease_in_flight(struct pinlease *lease)
{
	return pl_account_in_flight(&lease->account) + (lease->grants ? lease->grants->out : 0);
}

static bool lease_drained(struct pinlease *lease)
{
	return !lease->ack_due && !lease->file->barrier_due && !pl_lease_in_flight(lease);
}

bool pl_lease_look(struct pinlease *lease, uint64_t now)
{
	struct pinlease_file *file = lease->file;
	bool drained;

	if (pl_lease_state(lease) != PINLEASE_BREAKING)
		return false;
	drained = lease_drained(lease);
	if (!drained) {
		if (now < lease->until_ns)
			return false;
		/* What is cut off has to be counted, and the next generation told from it. */
		if (file->barrier_due)
			pl_account_barrier();
		file->barrier_due = false;
	}
	lease_set_state(lease, PINLEASE_FENCING);
	/* Nothing registered, nothing to write: it is fenced by being marked. */
	if (!lease->reg_count && !pl_lease_writes_back(lease) && !lease->busy) {
		lease->cut = drained ? 0 : pl_lease_in_flight(lease);
		lease->fenced = lease->written = true;
		pl_lease_unhold(lease);
	}
	return true;
}

void pl_lease_revoke(struct pinlease *lease, bool expired)
{
	struct pinlease_event ev = { .type = PINLEASE_EV_REVOKED,
				     .cause = lease->cause,
				     .in_flight = lease->cut };
	bool lost = lease->lost || expired;

	lease->until_ns = pl_sys_now();
	if (lost) {
		ev.type = PINLEASE_EV_LOST;
		ev.err = lease->err ? lease->err : -ETIME;
		ev.lost_bytes = pl_lease_missing(lease, &ev.off, &ev.len);
		lease->err = ev.err;
		lease->lost = true;
	}
	lease_set_state(lease, lost ? PINLEASE_LOST : PINLEASE_REVOKED);
	pl_lease_emit(lease, &ev);
}

/*
 * The provider refuses to deregister (an application bound windows of its own): the
 * memory may still be reached. The guard is kept and the attempt repeated; once the
 * kernel has let the opener on, the lease is LOST and still is tried again.
 */
static void lease_dereg_failed(struct pinlease *lease, int err)
{
	struct pinlease_file *file = lease->file;
	struct pinlease_event ev = { .type = PINLEASE_EV_LOST, .cause = lease->cause, .err = err,
				     .in_flight = lease->cut };
	uint64_t now = pl_sys_now();

	lease->err = err;
	lease->retry_ms = (uint8_t)pl_min_u64(pl_max_u64(2ull * lease->retry_ms, RETRY_MIN_MS), RETRY_MAX_MS);
	if (file->state == PL_FILE_BREAKING && now >= file->limit_ns &&
	    pl_lease_state(lease) == PINLEASE_FENCING) {
		lease->lost = true;
		/* Writing back now would write into somebody else's file. */
		lease->written = true;
		pl_lease_mark_unknown(lease);
		lease_set_state(lease, PINLEASE_LOST);
		ev.lost_bytes = pl_lease_missing(lease, &ev.off, &ev.len);
		pl_lease_emit(lease, &ev);
		pl_events_wake(&file->env->events);
	}
	pl_log_write(&file->env->log, 4, "lease %p: cannot deregister (%d), trying again", (void *)lease,
		     err);
	pl_agenda_queue(&file->env->agenda, &lease->work, now + lease->retry_ms * PL_NS_PER_MS,
			lease->until_ns, false);
}

/*
 * The file's side of a lease that is done: the guard may be let go, or, when it is held
 * and nobody waits (an own change gave up on this lease), it is revoked on its own. Dropped inside.
 */
static void lease_fence_done(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;

	pl_lease_unhold(lease);
	if (!lease->waited) {
		/* Not busy any more, so a release may come between: it waits for us before it frees. */
		lease->users++;
		pl_file_ask(file);
		lease->users--;
	}
	if (file->state != PL_FILE_BREAKING && !lease->waited && pl_lease_state(lease) == PINLEASE_FENCING) {
		pl_lease_revoke(lease, false);
		pl_events_wake(&file->env->events);
		if (pl_lease_wants(lease))
			pl_file_want(file, pl_sys_now());
	}
	pl_file_settle(file);
}

void pl_lease_fence(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	int r;

	lease->busy = true;
	/* A sync stops at its next chunk: it has seen the state. */
	while (lease->syncers)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	lease->cut = pl_lease_in_flight(lease);
	pthread_mutex_unlock(&file->lock);
	r = pl_lease_unpin(lease);
	pthread_mutex_lock(&file->lock);
	if (r) {
		lease->busy = false;
		lease_dereg_failed(lease, r);
	} else {
		lease->fenced = true;
		pl_log_write(&file->env->log, 7, "lease %p gen %u: fenced", (void *)lease,
			     pl_account_gen(&lease->account));
		if (!lease->written)
			pl_lease_write_back(lease);
		lease->busy = false;
		lease_fence_done(lease);
	}
	pthread_cond_broadcast(&file->cond);
}

void pl_lease_run(struct pl_work *work)
{
	struct pinlease *lease = pl_container(work, struct pinlease, work);
	struct pinlease_file *file = lease->file;
	uint64_t now = pl_sys_now();

	if (lease->orphan) {
		pl_lease_orphan(lease);
		return;
	}
	pthread_mutex_lock(&file->lock);
	if (lease->busy) {
		pthread_mutex_unlock(&file->lock);
		return;
	}
	if (pl_lease_state(lease) == PINLEASE_BREAKING && !pl_lease_look(lease, now))
		pl_lease_queue(lease, lease->until_ns);
	switch (pl_lease_state(lease)) {
	case PINLEASE_REVOKED:
		if (lease->fenced && file->state == PL_FILE_HELD && !file->changing &&
		    pl_lease_wants(lease)) {
			pl_lease_restore_step(lease, NULL);
			break;
		}
		/* fall through */
	case PINLEASE_FENCING:
	case PINLEASE_LOST:
		if (!lease->fenced && !lease->busy)
			pl_lease_fence(lease);
		else
			pl_file_settle(file);
		break;
	default:
		break;
	}
	pthread_mutex_unlock(&file->lock);
}

static void lease_poke_locked(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;

	if (!pl_lease_look(lease, pl_sys_now()))
		return;
	if (!lease->fenced)
		pl_lease_queue(lease, 0);
	pl_file_settle(file);
	pthread_cond_broadcast(&file->cond);
}

void pl_lease_poke(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;

	pthread_mutex_lock(&file->lock);
	lease_poke_locked(lease);
	pthread_mutex_unlock(&file->lock);
}

void pl_lease_ack(struct pinlease *lease, uint32_t gen)
{
	struct pinlease_file *file = lease->file;
	bool due;

	pthread_mutex_lock(&file->lock);
	due = lease->ack_due && gen == pl_account_gen(&lease->account);
	if (due)
		lease->ack_due = false;
	pthread_mutex_unlock(&file->lock);
	if (due)
		pl_lease_poke(lease);
}

void pl_lease_end_late(struct pinlease *lease, uint32_t n, uint32_t gen)
{
	struct pinlease_file *file = lease->file;

	pthread_mutex_lock(&file->lock);
	pl_account_end_late(&lease->account, n, gen);
	/*
	 * Of this generation after all: a thread that had no memory for a counter of its own. In the
	 * same breath: a release that waits for it may free the lease as soon as it has the lock.
	 */
	lease_poke_locked(lease);
	pthread_mutex_unlock(&file->lock);
}
