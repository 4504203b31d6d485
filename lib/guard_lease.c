/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The lease guard: fcntl(F_SETLEASE) on the open file description that is mapped.
 * What it tells of, and what it does not, is in pinlease_guards(7), measured by
 * kernel_lease_breaks.
 */
#include <errno.h>
#include <fcntl.h>

#include "guard.h"
#include "sys.h"

static int lease_allows(const struct pl_guard *g, const struct pl_fileid *id, bool by_name, uint32_t *reason)
{
	(void)g;
	/* F_SETLEASE is EINVAL on anything but regular files and directories. */
	*reason = id->fs == PL_FS_DEVDAX ? PINLEASE_WHY_NO_LEASES : PINLEASE_WHY_FILESYSTEM;
	if (id->fs == PL_FS_DEVDAX || id->fs == PL_FS_FOREIGN)
		return -EOPNOTSUPP;
	/* A lease through the merged path does not see an open of the upper file: by name only. */
	return id->fs == PL_FS_OVERLAY && !by_name ? -EOPNOTSUPP : 0;
}

static uint32_t lease_reason(int err)
{
	switch (err) {
	case -EAGAIN:
		return PINLEASE_WHY_OPENER;
	case -EACCES:
		return PINLEASE_WHY_NOT_OWNER;
	case -EBADF:
		return PINLEASE_WHY_FD_REPLACED;
	case -ENOMEM:
		return PINLEASE_WHY_MEMORY;
	default:
		return PINLEASE_WHY_NO_LEASES;
	}
}

/*
 * All of F_SETSIG, F_SETOWN_EX, F_SETLEASE each time: F_UNLCK and expiry wipe the first
 * two, and a break would then be a plain SIGIO, whose default action kills the process
 * (lease_modify in fs/locks.c; kernel_signals holds it). The signal and its receiver
 * come first, so that a break in the same instant finds them.
 */
static int lease_take(struct pl_guard *g, uint32_t *reason)
{
	int type = g->access == PINLEASE_WRITE ? F_WRLCK : F_RDLCK, r;

	r = pl_sys_set_signal(g->fd, g->signo);
	if (!r)
		r = pl_sys_set_owner(g->fd, g->tid);
	if (!r)
		r = pl_sys_set_lease(g->fd, type);
	if (r) {
		pl_sys_set_owner(g->fd, 0);
		pl_sys_set_signal(g->fd, 0);
		*reason = lease_reason(r);
		return r;
	}
	g->held = type;
	if (pl_sys_get_lease(g->fd) == type)
		return 0;
	/* Broken already: not ours to keep. The signal that is on its way will find nothing pending. */
	pl_sys_set_lease(g->fd, F_UNLCK);
	*reason = PINLEASE_WHY_BROKEN;
	return -EAGAIN;
}

/* While a break is pending F_GETLEASE answers its target (target_leasetype in fs/locks.c). */
static int lease_pending(const struct pl_guard *g)
{
	int type = pl_sys_get_lease(g->fd);

	if (type == g->held)
		return 0;
	if (type == F_RDLCK)
		return PINLEASE_BY_READER;
	return type < 0 ? type : PINLEASE_BY_WRITER;
}

static int lease_let_go(struct pl_guard *g)
{
	return pl_sys_set_lease(g->fd, F_UNLCK);
}

const struct pl_guard_ops pl_guard_lease = {
	.kind = PINLEASE_GUARD_LEASE,
	.breaks = true,
	.changes = true,
	.allows = lease_allows,
	.take = lease_take,
	.pending = lease_pending,
	.let_go = lease_let_go,
};
