/* SPDX-License-Identifier: BSD-3-Clause */
/* Making the memory of a lease and its registrations, for the first time or again. */
#include <errno.h>
#include <stddef.h>

#include "backend.h"
#include "culprit.h"
#include "durable.h"
#include "lease.h"
#include "pmem.h"
#include "sys.h"
#include "trial.h"

void pl_why_set(struct pinlease_why *why, uint32_t stage, uint32_t reason, int err)
{
	if (!why)
		return;
	*why = (struct pinlease_why){ .stage = stage, .reason = reason, .sys_errno = err < 0 ? -err : err };
}

int pl_refuse(struct pinlease_why *why, uint32_t stage, uint32_t reason, int err)
{
	pl_why_set(why, stage, reason, 0);
	return err;
}

bool pl_lease_wants(const struct pinlease *lease)
{
	return pl_lease_state((struct pinlease *)(uintptr_t)lease) == PINLEASE_REVOKED && !lease->releasing &&
	       !lease->gave_up && !lease->waited && !(lease->flags & PINLEASE_L_MANUAL);
}

/*
 * Given to what allocates and fills: stop when the guard is being broken. Or may have been while this
 * process was stopped, and nobody has looked yet: blocks would be allocated in somebody else's file.
 */
static bool lease_stop(void *arg)
{
	struct pinlease *lease = arg;
	struct pinlease_file *file = lease->file;
	bool stop;

	pthread_mutex_lock(&file->lock);
	stop = file->state != PL_FILE_HELD || !pl_file_in_time(file);
	pthread_mutex_unlock(&file->lock);
	return stop;
}

static int pin_reason(int err, uint32_t mode)
{
	if (err == -ENOMEM)
		return (int)pl_backend_memory_reason();
	return mode == PINLEASE_MODE_ODP ? PINLEASE_WHY_NO_ODP : PINLEASE_WHY_PIN_REFUSED;
}

static struct pinlease_pin reg_pin(struct pinlease *lease, const struct pl_reg *reg, uint32_t gen)
{
	return (struct pinlease_pin){
		.size = sizeof(struct pinlease_pin),
		.addr = lease->map.addr,
		.len = lease->now_len,
		.iova = lease->iova,
		.file_off = lease->range.off,
		.access = lease->access,
		.mode = lease->mode,
		.ibv_access = reg->ibv_access,
		.gen = gen,
		.anchor = lease->file->anchor,
	};
}

int pl_lease_pin(struct pinlease *lease, struct pl_reg *reg)
{
	uint32_t state = pl_lease_state(lease), gen = pl_account_gen(&lease->account);
	/* A restore registers what will be the next generation. */
	struct pinlease_pin pin =
		reg_pin(lease, reg, gen + (state == PINLEASE_REVOKED || state == PINLEASE_LOST));
	int r;

	reg->handle = (struct pinlease_handle){ .size = sizeof(reg->handle) };
	r = reg->backend->pin(reg->arg, &pin, &reg->handle);
	/* Not left to the backend, which may be the application's: what is live has to be unpinned. */
	reg->handle.size = r ? 0 : sizeof(reg->handle);
	return r;
}

/* What the device wrote behind the CPU's back, where it reaches the file's own pages. */
static void reg_dirty(struct pinlease *lease, const struct pl_reg *reg)
{
	struct pinlease_pin pin = reg_pin(lease, reg, pl_account_gen(&lease->account));

	if (reg->backend->dirty && lease->mode != PINLEASE_MODE_STAGED && lease->access == PINLEASE_WRITE)
		reg->backend->dirty(reg->arg, &pin);
}

void pl_lease_dirty(struct pinlease *lease)
{
	uint32_t i;

	for (i = 0; i < lease->reg_count; i++)
		reg_dirty(lease, &lease->regs[i]);
}

int pl_lease_unpin(struct pinlease *lease)
{
	struct pl_reg *reg;
	int r = 0, one;
	uint32_t i;

	for (i = 0; i < lease->reg_count; i++) {
		reg = &lease->regs[i];
		if (!reg->handle.size)
			continue;
		one = reg->backend->unpin(reg->arg, &reg->handle);
		reg->handle.size = one ? sizeof(reg->handle) : 0;
		if (one)
			r = one;
		else
			reg_dirty(lease, reg);
	}
	return r;
}

/*
 * Where the file's pages are to be faulted in, or NULL. On fs-dax it is our own mapping:
 * with MAP_SYNC the fault also makes the blocks' place in the file durable, once for all.
 */
static void *lease_pages(const struct pinlease *lease)
{
	if (lease->map.pmem)
		return lease->map.pmem->addr;
	return lease->mode == PINLEASE_MODE_STAGED ? NULL : lease->map.addr;
}

/*
 * What LOST had kept is dropped here; an attempt that got no guard has kept it. What else is
 * dirty was lost on its way from the file to the disk: a sync writes it again.
 */
static void lease_drop(struct pinlease *lease, bool first)
{
	struct pl_staged *staged = lease->staged;

	pthread_mutex_lock(&lease->file->lock);
	staged->len = lease->now_len;
	if (!first && staged->writable && pl_lease_state(lease) == PINLEASE_LOST) {
		pl_staged_clean(staged);
		pl_staged_mark_granules(staged, staged->late);
	}
	pthread_mutex_unlock(&lease->file->lock);
}

static int lease_fill(struct pinlease *lease, bool first, bool full, struct pinlease_why *why)
{
	struct pl_fill_error at = { 0 };
	uint32_t how = (lease->flags & PINLEASE_L_HOLE_FILL ? PL_FILL_HOLES : 0) | (full ? PL_FILL_FULL : 0);
	/* What only the CPU reads through the mapping needs no pages beforehand, and holes do it no harm. */
	bool needs_pages = lease->access == PINLEASE_WRITE ||
			   (lease->mode != PINLEASE_MODE_STAGED && lease->reg_count);
	int r = 0;

	if (needs_pages && !pl_trial_leaves_pages(lease))
		r = pl_filemap_prepare(lease->file->fd, lease->range.off, lease->now_len, lease_pages(lease),
				       lease->access, &lease->file->id, how, lease_stop, lease, &at);
	if (!r && lease->mode == PINLEASE_MODE_STAGED) {
		lease_drop(lease, first);
		/* After a restore the file is the truth, also for who asked for no filling at first. */
		if (!first || !(lease->flags & PINLEASE_L_FILL_NONE))
			r = pl_durable_fill(&lease->map, lease->file->fd, &lease->file->id, lease->staged,
					    lease_stop, lease, &at);
	}
	if (r)
		pl_why_set(why, at.stage, at.reason, at.sys_errno);
	return r;
}

/* Whoever else has the file may have changed its size while nobody of us looked. */
static int lease_size(struct pinlease *lease, bool *full, struct pinlease_why *why)
{
	uint64_t size = 0;
	int r = pl_fileid_size_full(lease->file->fd, &lease->file->id, &size, full);

	if (!r && size <= lease->range.off)
		r = -ENODATA;
	if (r) {
		pl_why_set(why, PINLEASE_AT_SIZE,
			   r == -ENODATA ? PINLEASE_WHY_SHRUNK : PINLEASE_WHY_FD_REPLACED, r);
		return r;
	}
	/* pinlease_lease_info() and a notice look at it in any state. */
	pthread_mutex_lock(&lease->file->lock);
	lease->now_len = pl_min_u64(lease->range.len, size - lease->range.off);
	pthread_mutex_unlock(&lease->file->lock);
	return 0;
}

int pl_lease_prepare(struct pinlease *lease, bool first, struct pinlease_why *why)
{
	bool full = false;
	uint32_t i;
	int r;

	r = lease_size(lease, &full, why);
	if (!r)
		r = lease_fill(lease, first, full, why);
	if (r)
		return r;
	for (i = 0; i < lease->reg_count; i++) {
		r = pl_lease_pin(lease, &lease->regs[i]);
		if (r) {
			pl_why_set(why, PINLEASE_AT_REGISTER, (uint32_t)pin_reason(r, lease->mode), r);
			return r;
		}
	}
	return 0;
}

static void restore_emit(struct pinlease *lease, int err)
{
	struct pinlease_event ev = { .type = err ? PINLEASE_EV_RESTORE_FAILED : PINLEASE_EV_RESTORED,
				     .err = err, .len = err ? 0 : lease->now_len };

	pl_lease_emit(lease, &ev);
	pl_events_wake(&lease->file->env->events);
}

/*
 * The guard is held; lease is REVOKED, or LOST and restored by hand. When a break comes
 * in the middle, what was registered is fenced again before the guard is let go, since
 * the lease is holding all the while.
 */
int pl_lease_restore_step(struct pinlease *lease, struct pinlease_why *why)
{
	struct pinlease_file *file = lease->file;
	int r;

	lease->busy = true;
	pl_lease_hold(lease);
	pthread_mutex_unlock(&file->lock);
	r = pl_lease_prepare(lease, false, why);
	pthread_mutex_lock(&file->lock);
	lease->busy = false;
	if (!r && file->state != PL_FILE_HELD) {
		pl_why_set(why, PINLEASE_AT_GUARD, PINLEASE_WHY_BROKEN, -EAGAIN);
		r = -EAGAIN;
	}
	if (!r) {
		r = pl_account_next_gen(&lease->account);
		if (r)
			pl_why_set(why, PINLEASE_AT_REGISTER, PINLEASE_WHY_MEMORY, r);
	}
	if (!r) {
		pl_lease_activate(lease);
		restore_emit(lease, 0);
	} else {
		/* Still written: nothing of what it may have filled the memory with has to go back. */
		lease->fenced = false;
		/* A backend says -EAGAIN, too: without a break nobody would come to try again. */
		if (r != -EAGAIN || (file->state == PL_FILE_HELD && pl_file_in_time(file))) {
			lease->gave_up = true;
			lease->err = r;
			restore_emit(lease, r);
		}
		pl_lease_fence(lease);
	}
	pthread_cond_broadcast(&file->cond);
	return r;
}

/* Locked. By hand: the application decides when, no back-off. */
static int restore_by_hand(struct pinlease *lease, struct pinlease_why *why)
{
	struct pinlease_file *file = lease->file;
	uint32_t reason = PINLEASE_WHY_BROKEN;
	int r = 0;

	if (!lease->fenced) {
		pl_why_set(why, PINLEASE_AT_REGISTER, PINLEASE_WHY_DEREG, lease->err);
		return -EBUSY;
	}
	if (file->state == PL_FILE_FREE) {
		r = pl_file_arm(file, &reason);
		/* Who else was waiting for it need not any longer. */
		if (!r && pl_file_wanted(file, lease))
			pl_file_want(file, pl_sys_now());
	} else if (file->state != PL_FILE_HELD) {
		r = -EAGAIN;
	}
	if (r) {
		pl_why_set(why, PINLEASE_AT_GUARD, reason, r);
		return r;
	}
	lease->gave_up = false;
	return pl_lease_restore_step(lease, why);
}

/* Not locked: who has the file open is looked for in all of /proc. */
static void restore_why(const struct pinlease *lease, struct pinlease_why *why)
{
	const struct pinlease_file *file = lease->file;

	if (!why)
		return;
	why->mode = lease->mode;
	why->guard = file->guard.ops->kind;
	why->pid = 0;
	if (why->stage == PINLEASE_AT_GUARD && why->reason == PINLEASE_WHY_OPENER)
		pl_culprit_find(&file->id, file->fd, &why->reason, &why->pid);
}

int pl_lease_restore(struct pinlease *lease, struct pinlease_why *why)
{
	struct pinlease_file *file = lease->file;
	int r;

	pthread_mutex_lock(&file->lock);
	while (lease->busy || file->changing)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	switch (pl_lease_state(lease)) {
	case PINLEASE_ACTIVE:
		r = 0;
		break;
	case PINLEASE_REVOKED:
	case PINLEASE_LOST:
		r = restore_by_hand(lease, why);
		break;
	default:
		pl_why_set(why, PINLEASE_AT_GUARD, PINLEASE_WHY_STATE, 0);
		r = -EAGAIN;
	}
	pthread_mutex_unlock(&file->lock);
	if (r)
		restore_why(lease, why);
	return r;
}
