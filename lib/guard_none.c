/* SPDX-License-Identifier: BSD-3-Clause */
/* No guard: by name only. Nobody tells us anything; our own changes still break what they touch. */
#include "guard.h"

static int none_allows(const struct pl_guard *g, const struct pl_fileid *id, bool by_name, uint32_t *reason)
{
	(void)g;
	(void)id;
	(void)by_name;
	(void)reason;
	return 0;
}

const struct pl_guard_ops pl_guard_none = {
	.kind = PINLEASE_GUARD_NONE,
	.changes = true,
	.allows = none_allows,
	.take = pl_guard_nothing_to_take,
	.pending = pl_guard_nothing_pending,
	.let_go = pl_guard_nothing_to_let_go,
};
