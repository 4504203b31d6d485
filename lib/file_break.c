/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A break from the file's side: noticed, answered when the last lease has been fenced,
 * and the guard taken again later. file_set_state walks the file's arrows.
 */
#include <assert.h>
#include <errno.h>

#include "backend.h"
#include "lease.h"
#include "sys.h"
#include "trace.h"

static void file_set_state(struct pinlease_file *file, enum pl_file_state to)
{
	const char *arrow = pl_file_arrow(file->state, to);

	assert(arrow);
	pl_trace_file(file, file->fd, file->state, to, arrow);
	file->state = to;
}

/*
 * When draining must end. It counts from the last moment the guard was seen unbroken,
 * not from now: the signal may have been lost, or this process stopped.
 */
static uint64_t break_until(const struct pinlease_file *file, const struct pinlease *lease, uint64_t now)
{
	uint64_t limit = atomic_load_explicit(&file->env->break_time_ns, memory_order_relaxed), drain;

	if (limit == PL_NEVER)
		return pl_add_sat(now, pl_lease_deadline(lease));
	/* What has to be written back afterwards needs its time, too. */
	drain = pl_lease_reserved(lease) ?
			pl_budget_drain(file->disk, limit, pl_lease_deadline(lease)) :
			limit - pl_budget_margin(limit);
	return pl_min_u64(pl_add_sat(now, pl_lease_deadline(lease)), file->unbroken_ns + drain);
}

static void break_lease(struct pinlease_file *file, struct pinlease *lease, uint64_t now)
{
	enum pinlease_state state = pl_lease_state(lease);

	if (state == PINLEASE_ACTIVE)
		pl_lease_break(lease, file->cause, break_until(file, lease, now), 0, lease->now_len);
	else if (state == PINLEASE_BREAKING)
		/* By a release, or a change of our own: that was not under the kernel's clock. */
		lease->until_ns = pl_min_u64(lease->until_ns, break_until(file, lease, now));
}

/* Locked, HELD. True: broken, and nobody knew. */
static bool file_mark(struct pinlease_file *file)
{
	uint64_t now = pl_sys_now();
	struct pl_list *pos;
	/* Asked, not believed: the signal may be stale, or meant for an fd whose number was reused. */
	int cause = file->guard.ops->pending(&file->guard);

	/* Nor the number: closed under us, it may be another file's by now, leased by its owner. */
	if (!cause && file->guard.ops->breaks && pl_fileid_other(file->fd, &file->id))
		cause = -EBADF;
	if (!cause) {
		file->unbroken_ns = now;
		return false;
	}
	file->cause = cause < 0 ? PINLEASE_BY_WRITER : (uint32_t)cause;
	file->break_ns = now;
	file->limit_ns = pl_add_sat(file->unbroken_ns,
				    atomic_load_explicit(&file->env->break_time_ns, memory_order_relaxed));
	file->breaks++;
	/* An end, an ack or a release that comes before the barrier must not believe its sum (account.h). */
	file->barrier_due = true;
	file_set_state(file, PL_FILE_BREAKING);
	pl_list_for_each(pos, &file->leases)
		break_lease(file, pl_container(pos, struct pinlease, link), now);
	return true;
}

bool pl_file_mark(struct pinlease_file *file, uint64_t *number)
{
	bool marked;

	pthread_mutex_lock(&file->lock);
	/* BREAKING: the slow pass, or a second breaker, looks again at what drains. */
	marked = file->state == PL_FILE_HELD ? file_mark(file) : file->state == PL_FILE_BREAKING;
	*number = file->breaks;
	pthread_mutex_unlock(&file->lock);
	return marked;
}

void pl_file_ask(struct pinlease_file *file)
{
	uint64_t number;

	if (file->state != PL_FILE_HELD || !file_mark(file))
		return;
	number = file->breaks;
	pthread_mutex_unlock(&file->lock);
	pl_account_barrier();
	pl_file_answer(file, number, false);
	pthread_mutex_lock(&file->lock);
}

/* "Pending" and "expired" look the same to F_GETLEASE, and others may keep the guard for long. */
bool pl_file_overdue(const struct pinlease_file *file)
{
	return file->state == PL_FILE_BREAKING && pl_sys_now() >= file->limit_ns;
}

/*
 * Short enough for the breaker itself: a single small registration that is idle. Another
 * thread's turn would come 15 us later, as much again as all the rest. Should the device
 * hang all the same, the slow pass, which never gets here, goes on with other breaks.
 */
static bool lease_is_short(const struct pinlease *lease)
{
	const struct pinlease_backend *backend = lease->reg_count == 1 ? lease->regs[0].backend : NULL;

	return !pl_lease_writes_back(lease) && !lease->syncers && lease->now_len <= 4u << 20 &&
	       (backend == &pl_backend_pinned || backend == &pl_backend_odp) &&
	       lease->link.next == lease->link.prev;
}

void pl_file_answer(struct pinlease_file *file, uint64_t number, bool may_fence)
{
	struct pl_list *pos;
	struct pinlease *lease, *inline_one = NULL;
	uint64_t now = pl_sys_now();
	bool waits;

	pthread_mutex_lock(&file->lock);
	/* Of a later break, whose leases were marked after our barrier, it is due still. */
	if (number == file->breaks)
		file->barrier_due = false;
	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		if (pl_lease_state(lease) == PINLEASE_BREAKING && !pl_lease_look(lease, now)) {
			pl_lease_queue(lease, lease->until_ns);
		} else if (pl_lease_state(lease) == PINLEASE_FENCING && !lease->fenced && !lease->busy) {
			if (may_fence && lease_is_short(lease))
				inline_one = lease;
			else
				pl_lease_queue(lease, 0);
		}
	}
	if (inline_one)
		pl_lease_fence(inline_one);
	else
		pl_file_settle(file);
	/* Else who let go has told of it: the opener may be waiting for this very processor. */
	waits = file->state == PL_FILE_BREAKING;
	/* A release that waits for its drain may have been overtaken by this break. */
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
	if (waits)
		pl_events_wake(&file->env->events);
}

/*
 * Twice as long as the last break took, so that whoever retries an O_NONBLOCK open in
 * between gets in (taking the lease back at once starved such an opener); doubled
 * while breaks keep coming right after the guard was taken.
 */
static void file_back_off(struct pinlease_file *file, uint64_t now)
{
	uint64_t base = pl_max_u64(PL_BACKOFF_MIN_NS, 2 * (now - file->break_ns));

	if (file->backoff_ns && file->break_ns - file->armed_ns < file->backoff_ns)
		base = pl_max_u64(base, 2 * file->backoff_ns);
	file->backoff_ns = pl_min_u64(base, PL_BACKOFF_MAX_NS);
}

static void file_let_go(struct pinlease_file *file)
{
	struct pl_list *pos;
	struct pinlease *lease;
	bool wanted = false, doubt;
	uint64_t now;
	int r;

	pl_log_write(&file->env->log, 7, "file %p: letting go", (void *)file);
	/* Never somebody else's lease: 0.5 us beside the 2 of the F_UNLCK. */
	r = pl_fileid_other(file->fd, &file->id) ? -EBADF : file->guard.ops->let_go(&file->guard);
	now = pl_sys_now();
	doubt = !r && now >= file->limit_ns;
	/*
	 * EAGAIN: a writer's break had expired. A reader's that expires leaves the lease
	 * downgraded and answers 0, so our own clock decides; staged memory may then have
	 * been written back beside the reader.
	 */
	if (r)
		file_set_state(file, PL_FILE_EXPIRED);
	file_set_state(file, PL_FILE_FREE);
	file_back_off(file, now);
	if (!file->trial)
		pl_stats_break(&file->env->stats, now - file->break_ns, r != 0 || doubt);
	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		if (pl_lease_state(lease) == PINLEASE_FENCING)
			pl_lease_revoke(lease, r != 0 || (doubt && pl_lease_writes_back(lease)));
		wanted |= pl_lease_wants(lease);
	}
	if (wanted)
		pl_file_want(file, now + file->backoff_ns);
	pl_events_wake(&file->env->events);
	pthread_cond_broadcast(&file->cond);
}

void pl_file_settle(struct pinlease_file *file)
{
	if (file->state == PL_FILE_BREAKING && !file->holds)
		file_let_go(file);
}

void pl_file_disarm(struct pinlease_file *file)
{
	pl_file_settle(file);
	if (file->state != PL_FILE_HELD)
		return;
	file->guard.ops->let_go(&file->guard);
	file_set_state(file, PL_FILE_FREE);
}

void pl_file_want(struct pinlease_file *file, uint64_t due)
{
	pl_agenda_queue(&file->env->agenda, &file->work, due, due, false);
}

int pl_file_arm(struct pinlease_file *file, uint32_t *reason)
{
	uint64_t now = pl_sys_now();
	int r = pl_fileid_same(file->fd, &file->id);

	*reason = PINLEASE_WHY_FD_REPLACED;
	file_set_state(file, PL_FILE_REARMING);
	if (!r)
		r = file->guard.ops->take(&file->guard, reason);
	if (r) {
		file_set_state(file, PL_FILE_FREE);
		return r;
	}
	file->armed_ns = file->unbroken_ns = now;
	file_set_state(file, PL_FILE_HELD);
	return 0;
}

/* After an attempt that failed with err: who gives up? True if somebody goes on waiting. */
static bool file_give_up(struct pinlease_file *file, int err, uint64_t now)
{
	struct pinlease_event ev = { .type = PINLEASE_EV_RESTORE_FAILED, .err = err };
	struct pl_list *pos;
	struct pinlease *lease;
	bool wanted = false;

	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		if (!pl_lease_wants(lease))
			continue;
		if (err == -EAGAIN &&
		    (!lease->restore_ms || now - lease->until_ns < lease->restore_ms * PL_NS_PER_MS)) {
			wanted = true;
			continue;
		}
		lease->gave_up = true;
		pl_lease_emit(lease, &ev);
	}
	pl_events_wake(&file->env->events);
	return wanted;
}

bool pl_file_wanted(struct pinlease_file *file, const struct pinlease *but)
{
	struct pinlease *lease;
	struct pl_list *pos;

	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		if (lease != but && pl_lease_wants(lease))
			return true;
	}
	return false;
}

void pl_file_run(struct pl_work *work)
{
	struct pinlease_file *file = pl_container(work, struct pinlease_file, work);
	struct pl_list *pos;
	struct pinlease *lease;
	uint32_t reason;
	int r = 0;

	pthread_mutex_lock(&file->lock);
	if (file->state == PL_FILE_FREE && pl_file_wanted(file, NULL))
		r = pl_file_arm(file, &reason);
	if (r && file_give_up(file, r, pl_sys_now())) {
		file->backoff_ns = pl_min_u64(2 * file->backoff_ns, PL_BACKOFF_MAX_NS);
		pl_file_want(file, pl_sys_now() + pl_max_u64(file->backoff_ns, PL_BACKOFF_MIN_NS));
	}
	if (file->state == PL_FILE_HELD) {
		pl_list_for_each(pos, &file->leases) {
			lease = pl_container(pos, struct pinlease, link);
			if (pl_lease_wants(lease))
				pl_lease_queue(lease, 0);
		}
	}
	pthread_mutex_unlock(&file->lock);
}
