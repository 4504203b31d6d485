/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "backend.h"
#include "choose.h"

/* What mode means for this file, before the device is asked. */
static void choice_check_file(const struct pinlease_file *file, uint32_t access, struct pl_choice *c)
{
	bool write = access == PINLEASE_WRITE;
	/* By our guard, or before: under another guard, by name, its owner's seals hold as well. */
	bool sealed = file->guard.ops->kind == PINLEASE_GUARD_SEAL || file->came_sealed;

	if (c->mode == PINLEASE_MODE_STAGED && write && sealed) {
		c->err = -EOPNOTSUPP;
		c->reason = PINLEASE_WHY_STAGED_SEALED;
	} else if (c->mode == PINLEASE_MODE_STAGED && write &&
		   (file->id.fs == PL_FS_HUGETLBFS || file->appends)) {
		/* hugetlbfs has read(2), but no write(2): EINVAL. With O_APPEND it is at the end. */
		c->err = -EOPNOTSUPP;
		c->reason = PINLEASE_WHY_NO_WRITE;
	}
	if (c->mode != PINLEASE_MODE_PINNED || !c->backend || (c->backend->flags & PINLEASE_BACKEND_OWN_MR))
		return;
	if (file->id.dax) {
		/* check_vma_flags() refuses FOLL_LONGTERM of fs-dax: EOPNOTSUPP. */
		c->err = -EOPNOTSUPP;
		c->reason = PINLEASE_WHY_DAX;
	} else if (write && file->id.fs != PL_FS_TMPFS && file->id.fs != PL_FS_HUGETLBFS &&
		   file->id.fs != PL_FS_DEVDAX) {
		/*
		 * From 6.5 GUP refuses it (EFAULT). Before, the device dirties pages that writeback
		 * has cleaned, and fsync answers 0 over old data: never made, whatever the kernel.
		 */
		c->err = -EOPNOTSUPP;
		c->reason = PINLEASE_WHY_DIRTY_TRACKED;
	}
}

static void choice_check_device(const struct pinlease_opts *opts, uint32_t access, bool by_name,
				struct pl_choice *c)
{
	struct pinlease_pin pin = { .size = sizeof(pin), .access = access, .mode = c->mode,
				    .ibv_access = opts->ibv_access };

	if (c->mode == PINLEASE_MODE_ODP && !opts->pd) {
		c->err = -EOPNOTSUPP;
		c->reason = PINLEASE_WHY_NO_ODP;
	}
	if (c->err || !c->backend || !c->backend->capable)
		return;
	c->reason = PINLEASE_WHY_BACKEND;
	if (c->mode == PINLEASE_MODE_ODP && by_name)
		c->err = pl_odp_by_name_ok(opts->pd, &c->reason);
	else
		c->err = c->backend->capable(c->arg, &pin, &c->reason);
	if (!c->err)
		c->reason = PINLEASE_WHY_NONE;
}

bool pl_choose(const struct pinlease_file *file, uint32_t access, const struct pinlease_opts *opts,
	       unsigned int i, struct pl_choice *c)
{
	static const uint32_t modes[] = { PINLEASE_MODE_PINNED, PINLEASE_MODE_ODP, PINLEASE_MODE_STAGED };
	bool by_name = opts->mode != PINLEASE_MODE_AUTO;

	if (i >= (by_name ? 1 : sizeof(modes) / sizeof(modes[0])))
		return false;
	memset(c, 0, sizeof(*c));
	c->mode = by_name ? opts->mode : modes[i];
	if (opts->pd && !opts->backend) {
		c->backend = c->mode == PINLEASE_MODE_ODP ? &pl_backend_odp : &pl_backend_pinned;
		c->arg = opts->pd;
	} else {
		c->backend = opts->backend;
		c->arg = opts->backend_arg;
	}
	choice_check_file(file, access, c);
	if (!c->err)
		choice_check_device(opts, access, by_name, c);
	return true;
}

bool pl_choose_goes_on(int err, uint32_t reason)
{
	switch (reason) {
	case PINLEASE_WHY_DIRTY_TRACKED:
	case PINLEASE_WHY_DAX:
	case PINLEASE_WHY_NO_ODP:
	case PINLEASE_WHY_DATA_CHECK:
	case PINLEASE_WHY_BACKEND:
	case PINLEASE_WHY_STAGED_SEALED:
	case PINLEASE_WHY_NO_WRITE:
		return true;
	case PINLEASE_WHY_PIN_REFUSED:
		/* Before 6.5 a read-only registration is a write pin: EFAULT on an O_RDONLY mapping. */
		return err == -EFAULT || err == -EOPNOTSUPP || err == -EINVAL;
	default:
		return false;
	}
}
