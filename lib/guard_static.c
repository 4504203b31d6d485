/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The static guard: device-dax. A range of the device is a range of memory, with no file system
 * between them that could move, cut or share it. There is nothing to take, and nothing that
 * could break it.
 */
#include <errno.h>

#include "guard.h"

static int static_allows(const struct pl_guard *g, const struct pl_fileid *id, bool by_name, uint32_t *reason)
{
	(void)g;
	(void)by_name;
	if (id->fs == PL_FS_DEVDAX)
		return 0;
	*reason = PINLEASE_WHY_NOT_STATIC;
	return -EOPNOTSUPP;
}

const struct pl_guard_ops pl_guard_static = {
	.kind = PINLEASE_GUARD_STATIC,
	.allows = static_allows,
	.take = pl_guard_nothing_to_take,
	.pending = pl_guard_nothing_pending,
	.let_go = pl_guard_nothing_to_let_go,
};
