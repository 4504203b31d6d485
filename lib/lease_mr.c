/* SPDX-License-Identifier: BSD-3-Clause */
/* Further registrations of a lease's memory, and reading a generation's keys. */
#include <errno.h>
#include <string.h>

#include "backend.h"
#include "lease.h"
#include "sys.h"
#include "verbs.h"

/* Locked, busy: nobody else looks at regs. */
static int regs_grow(struct pinlease *lease)
{
	struct pl_reg *regs = pl_sys_alloc((lease->reg_count + 1) * sizeof(*regs));

	if (!regs)
		return -ENOMEM;
	memcpy(regs, lease->regs, lease->reg_count * sizeof(*regs));
	pl_sys_free(lease->regs);
	lease->regs = regs;
	return 0;
}

int pl_reg_init(struct pl_reg *reg, const struct pinlease_backend *backend, void *arg, uint32_t ibv_access,
		struct ibv_pd *pd)
{
	int cmd_fd = -1, async_fd, r;

	if (pd) {
		pl_verbs_fds(pd->context, &cmd_fd, &async_fd);
		r = pl_fork_device_add(cmd_fd, async_fd);
		if (r)
			return r;
	}
	*reg = (struct pl_reg){ .backend = backend, .arg = arg, .ibv_access = ibv_access };
	reg->device_fd = cmd_fd;
	return 0;
}

void pl_reg_fini(struct pl_reg *reg)
{
	if (reg->device_fd >= 0)
		pl_fork_device_remove(reg->device_fd);
}

static int mr_check(const struct pinlease *lease, uint32_t ibv_access)
{
	const uint32_t writes = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;

	if (!lease->reg_count || lease->regs[0].device_fd < 0 || (ibv_access & IBV_ACCESS_ON_DEMAND))
		return -EINVAL;
	/* Who registers by itself does so here, too. */
	if (lease->regs[0].backend->flags & PINLEASE_BACKEND_OWN_MR)
		return -EINVAL;
	return lease->access == PINLEASE_READ && (ibv_access & writes) ? -EINVAL : 0;
}

/* Another device than the first may do less. What was asked for by name is judged as by name. */
static int mr_capable(const struct pinlease *lease, struct ibv_pd *pd)
{
	const struct pinlease_backend *backend = lease->regs[0].backend;
	const struct pinlease_pin pin = { .size = sizeof(pin) };
	uint32_t reason;

	if (lease->mode == PINLEASE_MODE_ODP && lease->mode_reason == PINLEASE_WHY_ASKED)
		return pl_odp_by_name_ok(pd, &reason);
	return backend->capable ? backend->capable(pd, &pin, &reason) : 0;
}

/* Not locked; busy keeps others off. */
static int mr_register(struct pinlease *lease, struct pl_reg *reg, struct ibv_pd *pd, uint32_t ibv_access)
{
	int r = mr_capable(lease, pd);

	if (!r)
		r = pl_reg_init(reg, lease->regs[0].backend, pd, ibv_access, pd);
	if (r)
		return r;
	r = pl_lease_pin(lease, reg);
	if (r)
		pl_reg_fini(reg);
	return r;
}

int pl_lease_mr_add(struct pinlease *lease, struct ibv_pd *pd, uint32_t ibv_access, uint32_t *index)
{
	struct pinlease_file *file = lease->file;
	int r;

	pthread_mutex_lock(&file->lock);
	/* A sync reads the registrations that regs_grow moves. */
	while (lease->busy || lease->syncers)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	r = pl_lease_state(lease) == PINLEASE_ACTIVE ? mr_check(lease, ibv_access) : -EAGAIN;
	if (!r)
		r = regs_grow(lease);
	if (r)
		goto out;
	/* A break from here on waits: busy is what the fence waits for. */
	lease->busy = true;
	pthread_mutex_unlock(&file->lock);
	r = mr_register(lease, &lease->regs[lease->reg_count], pd, ibv_access);
	pthread_mutex_lock(&file->lock);
	lease->busy = false;
	if (!r) {
		/* Counted also when broken meanwhile: the fence takes it down with the others. */
		lease->reg_count++;
		if (pl_lease_state(lease) == PINLEASE_ACTIVE)
			*index = lease->reg_count - 1;
		else
			r = -EAGAIN;
	}
	if (pl_lease_state(lease) != PINLEASE_ACTIVE)
		pl_lease_queue(lease, 0);
	pthread_cond_broadcast(&file->cond);
out:
	pthread_mutex_unlock(&file->lock);
	return r;
}

int pl_lease_view(struct pinlease *lease, uint32_t index, struct pinlease_view *view)
{
	struct pinlease_file *file = lease->file;
	int r = 0;

	pthread_mutex_lock(&file->lock);
	if (pl_lease_state(lease) != PINLEASE_ACTIVE) {
		r = -EAGAIN;
	} else if (index >= lease->reg_count && index) {
		r = -ERANGE;
	} else {
		view->addr = lease->map.addr;
		view->iova = lease->iova;
		view->len = lease->now_len;
		view->gen = pl_account_gen(&lease->account);
		view->mode = lease->mode;
		view->guard = file->guard.ops->kind;
		if (lease->reg_count) {
			view->lkey = lease->regs[index].handle.lkey;
			view->rkey = lease->regs[index].handle.rkey;
			view->mr = lease->regs[index].handle.mr;
		}
	}
	pthread_mutex_unlock(&file->lock);
	return r;
}

void pl_lease_get_info(struct pinlease *lease, struct pinlease_lease_info *info)
{
	struct pinlease_file *file = lease->file;

	pthread_mutex_lock(&file->lock);
	info->state = pl_lease_state(lease);
	info->mode = lease->mode;
	info->guard = file->guard.ops->kind;
	info->gen = pl_account_gen(&lease->account);
	info->mode_reason = lease->mode_reason;
	info->registrations = lease->reg_count;
	info->off = lease->range.off;
	info->len = lease->now_len;
	info->in_flight = pl_lease_in_flight(lease);
	info->late = pl_account_late(&lease->account);
	info->dirty_bytes = pl_lease_dirty_bytes(lease);
	info->breaks = lease->breaks;
	pthread_mutex_unlock(&file->lock);
}
