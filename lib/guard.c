/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stddef.h>

#include "guard.h"

/* In AUTO's order: what never breaks comes first. none is never chosen, only named. */
static const struct pl_guard_ops *const guards[] = { &pl_guard_static, &pl_guard_seal, &pl_guard_lease,
						     &pl_guard_none };

#define GUARDS_AUTO 3

const struct pl_guard_ops *pl_guard_find(const struct pl_guard *g, uint32_t kind, const struct pl_fileid *id,
					 uint32_t *reason, int *err)
{
	size_t i, count = kind == PINLEASE_GUARD_AUTO ? GUARDS_AUTO : sizeof(guards) / sizeof(guards[0]);

	*reason = PINLEASE_WHY_ARGUMENT;
	*err = -EOPNOTSUPP;
	for (i = 0; i < count; i++) {
		if (kind != PINLEASE_GUARD_AUTO && guards[i]->kind != kind)
			continue;
		*err = guards[i]->allows(g, id, kind != PINLEASE_GUARD_AUTO, reason);
		if (!*err)
			return guards[i];
	}
	return NULL;
}

int pl_guard_nothing_to_take(struct pl_guard *g, uint32_t *reason)
{
	(void)g;
	(void)reason;
	return 0;
}

int pl_guard_nothing_pending(const struct pl_guard *g)
{
	(void)g;
	return 0;
}

int pl_guard_nothing_to_let_go(struct pl_guard *g)
{
	(void)g;
	return 0;
}
