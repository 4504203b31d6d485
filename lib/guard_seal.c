/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The seal guard: a memfd that can neither shrink nor grow nor be written or punched
 * through the file. F_SEAL_SHRINK alone would not refuse FALLOC_FL_PUNCH_HOLE;
 * F_SEAL_FUTURE_WRITE does, and leaves existing writable mappings alone (shmem_fallocate
 * and shmem_mmap in mm/shmem.c; kernel_seals holds both). So the whole file is mapped
 * before the seals go on. Nothing can change afterwards: it never breaks.
 */
#include <errno.h>
#include <fcntl.h>

#include "guard.h"
#include "sys.h"

#define SEALS_NEEDED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

/* F_SEAL_WRITE is stronger than F_SEAL_FUTURE_WRITE. */
static bool seals_complete(int seals)
{
	if (seals & F_SEAL_WRITE)
		seals |= F_SEAL_FUTURE_WRITE;
	return (seals & SEALS_NEEDED) == SEALS_NEEDED;
}

bool pl_guard_came_sealed(int fd)
{
	int seals = pl_sys_get_seals(fd);

	return seals >= 0 && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE));
}

/* A tmpfs file that is no memfd answers F_SEAL_SEAL alone: it takes no seals. */
static int seal_allows(const struct pl_guard *g, const struct pl_fileid *id, bool by_name, uint32_t *reason)
{
	int seals = pl_sys_get_seals(g->fd);

	(void)id;
	(void)by_name;
	*reason = PINLEASE_WHY_NO_SEALS;
	if (seals < 0)
		return -EOPNOTSUPP;
	return seals_complete(seals) || !(seals & F_SEAL_SEAL) ? 0 : -EOPNOTSUPP;
}

/* Seals stay for good: a trial answers what memfd_add_seals() would, which wants FMODE_WRITE. */
static int seal_try(const struct pl_guard *g)
{
	int flags = pl_sys_get_flags(g->fd);

	if (flags < 0)
		return flags;
	return (flags & O_ACCMODE) == O_RDONLY ? -EPERM : 0;
}

static int seal_take(struct pl_guard *g, uint32_t *reason)
{
	int seals = pl_sys_get_seals(g->fd), r;

	if (seals < 0)
		r = seals;
	else if (seals_complete(seals))
		r = 0;
	else
		r = g->trial ? seal_try(g) : pl_sys_add_seals(g->fd, SEALS_NEEDED);
	if (r)
		*reason = PINLEASE_WHY_NO_SEALS;
	return r;
}

const struct pl_guard_ops pl_guard_seal = {
	.kind = PINLEASE_GUARD_SEAL,
	.allows = seal_allows,
	.take = seal_take,
	.pending = pl_guard_nothing_pending,
	.let_go = pl_guard_nothing_to_let_go,
};
