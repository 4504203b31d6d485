/* SPDX-License-Identifier: BSD-3-Clause */
/* Acquiring a lease, and further registrations of one. */
#include <errno.h>
#include <infiniband/verbs.h>
#include <string.h>
#include <sys/mman.h>

#include "choose.h"
#include "culprit.h"
#include "durable.h"
#include "lease.h"
#include "sys.h"
#include "trial.h"

#define DEADLINE_DEFAULT_MS 5000
#define LEASE_FLAGS                                                                          \
	(PINLEASE_L_ACK | PINLEASE_L_MANUAL | PINLEASE_L_FILL_NONE | PINLEASE_L_DIRTY_TOLD | \
	 PINLEASE_L_HOLE_FILL | PINLEASE_L_GRANTED)
_Static_assert(LEASE_FLAGS <= UINT8_MAX, "they fit into a lease");
#define FILL_BY_TOLD (PINLEASE_L_FILL_NONE | PINLEASE_L_DIRTY_TOLD)
#define IBV_WRITES \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_MW_BIND)

static int acquire_check_backend(const struct pinlease_opts *o)
{
	const struct pinlease_backend *backend = o->backend;

	if (!backend)
		return 0;
	if (backend->version != PINLEASE_BACKEND_VERSION || (backend->flags & ~PINLEASE_BACKEND_OWN_MR) ||
	    !backend->pin || !backend->unpin)
		return -EINVAL;
	if (!(backend->flags & PINLEASE_BACKEND_OWN_MR))
		return o->pd ? -EINVAL : 0;
	return o->pd && o->mode == PINLEASE_MODE_PINNED ? 0 : -EINVAL;
}

static int acquire_check_opts(const struct pinlease_file *file, const struct pinlease_opts *o,
			      uint32_t access)
{
	if (o->mode > PINLEASE_MODE_STAGED || (o->flags & ~LEASE_FLAGS) || acquire_check_backend(o))
		return -EINVAL;
	if (o->access && o->access != PINLEASE_READ && o->access != PINLEASE_WRITE)
		return -EINVAL;
	if (o->ibv_access & IBV_ACCESS_ON_DEMAND)
		return -EINVAL;
	if (access == PINLEASE_READ && (o->ibv_access & IBV_WRITES))
		return -EINVAL;
	if (access == PINLEASE_READ && (o->flags & (PINLEASE_L_FILL_NONE | PINLEASE_L_DIRTY_TOLD)))
		return -EINVAL;
	if ((o->flags & PINLEASE_L_HOLE_FILL) && (access == PINLEASE_WRITE || file->access == PINLEASE_READ))
		return -EINVAL;
	return 0;
}

static int acquire_check(const struct pinlease_file *file, uint64_t off, uint64_t len,
			 const struct pinlease_opts *o, struct pinlease_why *why)
{
	uint32_t access = o->access ? o->access : file->access;
	uint64_t size;
	int r;

	if (acquire_check_opts(file, o, access))
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	if (access == PINLEASE_WRITE && file->access == PINLEASE_READ)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_BAD_FD, -EACCES);
	if (off % file->id.page || (uintptr_t)o->addr % file->id.page)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ALIGNMENT, -EINVAL);
	r = pl_fileid_size(file->fd, &file->id, &size);
	if (r)
		return pl_refuse(why, PINLEASE_AT_SIZE, PINLEASE_WHY_BAD_FD, r);
	/* It may have grown after it was mapped and before the seals were on. */
	if (file->base.addr && !o->addr)
		size = pl_min_u64(size, file->base.len);
	if (!len || off > size || len > size - off)
		return pl_refuse(why, PINLEASE_AT_SIZE, PINLEASE_WHY_RANGE, -EINVAL);
	if (file->came_sealed && access == PINLEASE_WRITE && !o->addr)
		return pl_refuse(why, PINLEASE_AT_MAP, PINLEASE_WHY_SEALED, -EPERM);
	return 0;
}

/* The guard is held when it returns 0, and kept for this lease. */
static int acquire_join(struct pinlease_file *file, struct pinlease *lease, struct pinlease_why *why)
{
	uint32_t reason = PINLEASE_WHY_BROKEN;
	int32_t pid = 0;
	int r = 0;

	pthread_mutex_lock(&file->lock);
	while (file->changing)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	if (file->state == PL_FILE_FREE)
		r = pl_file_arm(file, &reason);
	else if (file->state != PL_FILE_HELD)
		r = -EAGAIN;
	if (!r) {
		pl_lease_hold(lease);
		pl_list_add_tail(&file->leases, &lease->link);
		pl_range_insert(&file->ranges, &lease->range, lease->range.off, lease->range.len);
	}
	pthread_mutex_unlock(&file->lock);
	if (!r)
		return 0;
	if (reason == PINLEASE_WHY_OPENER)
		pl_culprit_find(&file->id, file->fd, &reason, &pid);
	pl_why_set(why, PINLEASE_AT_GUARD, reason, r);
	if (why)
		why->pid = pid;
	return r;
}

static void acquire_leave(struct pinlease_file *file, struct pinlease *lease)
{
	pthread_mutex_lock(&file->lock);
	pl_lease_close(lease);
	pl_list_del(&lease->link);
	/* In the same breath: a close that finds no lease frees the file. */
	if (lease->orphan)
		pl_list_add_tail(&file->buried, &lease->link);
	pl_range_remove(&file->ranges, &lease->range);
	pl_lease_unhold(lease);
	pl_file_settle(file);
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
}

static int overlap_each(void *arg, struct pl_range *node)
{
	struct pinlease *lease = arg, *other = pl_container(node, struct pinlease, range);

	return other != lease && (pl_lease_writes_back(lease) || pl_lease_writes_back(other));
}

/* Sets the mode and looks for overlap in one step, so that of two acquires one sees the other. */
static int acquire_set_mode(struct pinlease *lease, const struct pl_choice *c)
{
	struct pinlease_file *file = lease->file;
	int r;

	pthread_mutex_lock(&file->lock);
	lease->mode = (uint8_t)c->mode;
	r = pl_range_each(&file->ranges, lease->range.off, lease->range.off + lease->range.len, overlap_each,
			  lease);
	if (r)
		lease->mode = PINLEASE_MODE_AUTO;
	pthread_mutex_unlock(&file->lock);
	return r ? -EEXIST : 0;
}

static uint32_t staged_use(const struct pinlease *lease)
{
	bool unfilled = (lease->flags & FILL_BY_TOLD) == FILL_BY_TOLD;

	if (lease->access != PINLEASE_WRITE)
		return 0;
	return PL_STAGED_WRITABLE | (unfilled ? PL_STAGED_UNFILLED : 0);
}

/*
 * What staged memory takes the place of must come back with the release, as it was. Tried, since a
 * sealed memfd is mapped for writing by nobody any more, who has it mapped so before.
 */
static int acquire_comes_back(const struct pinlease *lease)
{
	void *at;
	int r = pl_sys_map(NULL, lease->map.len, lease->map.prot, lease->file->fd, lease->range.off, &at);

	if (!r)
		pl_sys_unmap(at, lease->map.len);
	return r;
}

static int acquire_map(struct pinlease *lease, void *addr, struct pinlease_why *why)
{
	struct pinlease_file *file = lease->file;
	bool staged = lease->mode == PINLEASE_MODE_STAGED;
	int r = 0;

	if (addr) {
		r = pl_filemap_check(addr, lease->range.off, lease->range.len, lease->access, &file->id,
				     &lease->map.prot);
		if (r)
			return pl_refuse(why, PINLEASE_AT_MAP, PINLEASE_WHY_MAPPING, r);
		lease->map.addr = addr;
		lease->map.len = pl_round_up(lease->range.len, file->id.page);
		/* A child that inherits it would keep the guard alive, and reach what is leased. */
		r = pl_sys_advise(addr, lease->map.len, MADV_DONTFORK);
		if (r) {
			pl_why_set(why, PINLEASE_AT_MAP, PINLEASE_WHY_MEMORY, r);
			return r;
		}
	}
	if (staged) {
		r = addr ? acquire_comes_back(lease) : 0;
		if (!r)
			r = pl_staged_new(&lease->staged, addr, lease->range.off, lease->range.len,
					  file->id.page, staged_use(lease));
		lease->map.addr = r ? lease->map.addr : lease->staged->addr;
	} else if (!addr && file->base.addr) {
		lease->map.addr = (char *)file->base.addr + lease->range.off;
		lease->map.len = pl_round_up(lease->range.len, file->id.page);
	} else if (!addr) {
		r = pl_filemap_new(file->fd, lease->range.off, lease->range.len, lease->access, &file->id,
				   &lease->map);
	}
	if (!r && pl_trial_scratch(lease))
		r = pl_trial_map(lease);
	if (!r && !lease->map.ours)
		r = pl_durable_open(&lease->map, file->fd, &file->id, lease->range.off, lease->range.len,
				    lease->access);
	/* Without the seal guard nobody has asked about seals yet. */
	if (r)
		pl_why_set(why, PINLEASE_AT_MAP, r == -EPERM ? PINLEASE_WHY_SEALED : PINLEASE_WHY_MEMORY, r);
	return r;
}

/* Undoes acquire_map. An application's mapping is as before: the file's, and inherited by children. */
static void lease_unmap(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	/* A window of the file's own mapping has not been looked at: prot is 0. */
	bool applications = lease->map.prot && !lease->map.ours;
	int r;

	pl_lease_unreserve(lease);
	if (lease->staged && applications) {
		r = pl_staged_unmap_back(lease->staged, file->fd, lease->map.prot, pl_fileid_pmem(&file->id));
		if (r)
			pl_log_write(&file->env->log, 3, "lease %p: cannot map the file at %p again (%d)",
				     (void *)lease, lease->map.addr, r);
	} else {
		pl_staged_free(lease->staged);
	}
	if (applications)
		pl_sys_advise(lease->map.addr, lease->map.len, MADV_DOFORK);
	pl_filemap_free(&lease->map);
	lease->staged = NULL;
}

static int acquire_try(struct pinlease *lease, const struct pl_choice *c, const struct pinlease_opts *o,
		       struct pinlease_why *why)
{
	int r = acquire_set_mode(lease, c);

	if (r)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_OVERLAP, r);
	r = acquire_map(lease, o->addr, why);
	if (!r)
		r = pl_lease_reserve(lease, why);
	if (r)
		goto unmap;
	if (c->backend) {
		r = pl_reg_init(lease->regs, c->backend, c->arg, o->ibv_access, o->pd);
		if (r) {
			pl_why_set(why, PINLEASE_AT_REGISTER, PINLEASE_WHY_MEMORY, r);
			goto unmap;
		}
		lease->reg_count = 1;
	}
	lease->iova = o->iova ? o->iova : (uintptr_t)lease->map.addr;
	r = pl_lease_prepare(lease, true, why);
	if (!r)
		return 0;
	/* The registration comes last: it is what failed, or was not made. */
	if (lease->reg_count)
		pl_reg_fini(lease->regs);
	lease->reg_count = 0;
unmap:
	lease_unmap(lease);
	return r;
}

static int acquire_modes(struct pinlease *lease, const struct pinlease_opts *o, struct pinlease_why *why)
{
	struct pinlease_why last = { .stage = PINLEASE_AT_CHECK };
	uint32_t skipped = o->mode == PINLEASE_MODE_AUTO ? PINLEASE_WHY_BEST : PINLEASE_WHY_ASKED;
	struct pl_choice c;
	unsigned int i;
	int r = -EOPNOTSUPP;

	for (i = 0; pl_choose(lease->file, lease->access, o, i, &c); i++) {
		last = (struct pinlease_why){ .stage = PINLEASE_AT_CHECK,
					      .reason = c.reason,
					      .mode = c.mode };
		r = c.err ? c.err : acquire_try(lease, &c, o, &last);
		if (!r) {
			lease->mode_reason = (uint8_t)skipped;
			return 0;
		}
		if (!pl_choose_goes_on(r, last.reason))
			break;
		/* "No ODP here" must not hide that the pin was refused. */
		if (skipped == PINLEASE_WHY_BEST || last.reason == PINLEASE_WHY_DATA_CHECK)
			skipped = last.reason;
	}
	last.mode = c.mode;
	last.guard = lease->file->guard.ops->kind;
	if (why)
		*why = last;
	return r;
}

/* What it has of objects of its own, but for those of its mode. */
static int lease_init(struct pinlease *lease, const struct pinlease_opts *o)
{
	if (o->pd || o->backend) {
		lease->regs = pl_sys_alloc(sizeof(*lease->regs));
		if (!lease->regs)
			return -ENOMEM;
	}
	return pl_account_init(&lease->account);
}

static int lease_new(struct pinlease_file *file, uint64_t off, uint64_t len, const struct pinlease_opts *o,
		     struct pinlease **out)
{
	struct pinlease *lease = pl_sys_alloc(sizeof(*lease));
	int r;

	if (!lease)
		return -ENOMEM;
	r = lease_init(lease, o);
	if (r) {
		pl_sys_free(lease->regs);
		pl_sys_free(lease);
		return r;
	}
	lease->file = file;
	lease->fork_gen = file->fork_gen;
	lease->user = o->user;
	lease->range.off = off;
	lease->range.len = len;
	lease->deadline_ms = o->deadline_ms ? o->deadline_ms : DEADLINE_DEFAULT_MS;
	lease->restore_ms = o->restore_ms;
	lease->flags = (uint8_t)o->flags;
	lease->access = (uint8_t)(o->access ? o->access : file->access);
	pl_list_init(&lease->link);
	pl_event_box_init(&lease->box);
	pl_work_init(&lease->work, PL_WORK_LEASE);
	*out = lease;
	return 0;
}

void pl_lease_destroy(struct pinlease *lease)
{
	uint32_t i;

	lease_unmap(lease);
	for (i = 0; i < lease->reg_count; i++)
		pl_reg_fini(&lease->regs[i]);
	pl_sys_free(lease->regs);
	pl_sys_free(lease->grants);
	pl_account_fini(&lease->account);
	pl_sys_free(lease);
}

/*
 * An acquire failed, and the provider will not deregister what it registered a moment
 * ago: the memory may still be reached. The lease that never was keeps the guard, and the
 * workers go on trying; then it waits, out of the way, for the file to be closed.
 */
void pl_lease_orphan(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	uint64_t retry = pl_sys_now() + 50 * PL_NS_PER_MS;
	int r;

	if (!lease->orphan) {
		pthread_mutex_lock(&file->lock);
		lease->orphan = true;
		/* A change may wait for this acquire. */
		pthread_cond_broadcast(&file->cond);
		pthread_mutex_unlock(&file->lock);
		pl_log_write(&file->env->log, 3, "lease %p: cannot deregister after a failed acquire",
			     (void *)lease);
		r = -EBUSY;
	} else {
		r = pl_lease_unpin(lease);
	}
	if (r) {
		pl_agenda_queue(&file->env->agenda, &lease->work, retry, retry, false);
		return;
	}
	lease_unmap(lease);
	acquire_leave(file, lease);
}

int pl_lease_acquire(struct pinlease_file *file, uint64_t off, uint64_t len, const struct pinlease_opts *o,
		     struct pinlease_why *why, struct pinlease **out)
{
	struct pinlease *lease;
	bool broken;
	int r;

	r = acquire_check(file, off, len, o, why);
	if (r)
		return r;
	r = lease_new(file, off, len, o, &lease);
	if (r)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_MEMORY, r);
	r = acquire_join(file, lease, why);
	if (r) {
		pl_lease_destroy(lease);
		return r;
	}
	r = acquire_modes(lease, o, why);
	if (!r && lease->now_len < len)
		r = pl_refuse(why, PINLEASE_AT_SIZE, PINLEASE_WHY_RANGE, -EINVAL);
	if (r)
		goto leave;
	pthread_mutex_lock(&file->lock);
	broken = file->state != PL_FILE_HELD;
	if (!broken)
		pl_lease_activate(lease);
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
	if (!broken) {
		*out = lease;
		return 0;
	}
	r = pl_refuse(why, PINLEASE_AT_GUARD, PINLEASE_WHY_BROKEN, -EAGAIN);
leave:
	if (pl_lease_unpin(lease)) {
		pl_lease_orphan(lease);
		return r;
	}
	acquire_leave(file, lease);
	pl_lease_destroy(lease);
	return r;
}
