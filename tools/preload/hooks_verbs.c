/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Registering and deregistering. libibverbs' ibv_reg_mr calls ibv_reg_mr_iova2 through its
 * PLT, and so comes by here twice: pre_inside lets the second one pass. The symbols have the
 * versions of libibverbs (libpinlease-preload.map), so a program of the old interface, whose
 * structures are laid out otherwise, does not find ours.
 */
#include <errno.h>
#include <stdint.h>

#include "preload.h"

static bool over_file(const void *addr, size_t len)
{
	/* On-demand paging of everything (NULL, SIZE_MAX) is no registration of a file. */
	return pre_on && !pre_inside && (uintptr_t)addr + len > (uintptr_t)addr && len != SIZE_MAX &&
	       pre_maps_has(addr, len);
}

static struct ibv_mr *missing(void)
{
	errno = ENOSYS;
	return NULL;
}

static struct ibv_mr *make_mr(const struct pre_ask *ask)
{
	struct ibv_mr *mr;

	if (!pre_next.reg_mr)
		return missing();
	pre_inside++;
	mr = pre_next.reg_mr(ask->pd, ask->addr, ask->len, (int)ask->access);
	pre_inside--;
	return mr;
}

static struct ibv_mr *make_iova(const struct pre_ask *ask)
{
	struct ibv_mr *mr;

	if (!pre_next.reg_mr_iova)
		return missing();
	pre_inside++;
	mr = pre_next.reg_mr_iova(ask->pd, ask->addr, ask->len, ask->iova, (int)ask->access);
	pre_inside--;
	return mr;
}

static struct ibv_mr *make_iova2(const struct pre_ask *ask)
{
	struct ibv_mr *mr;

	if (!pre_next.reg_mr_iova2)
		return missing();
	pre_inside++;
	mr = pre_next.reg_mr_iova2(ask->pd, ask->addr, ask->len, ask->iova, ask->access);
	pre_inside--;
	return mr;
}

static struct ibv_mr *reg(const struct pre_ask *ask)
{
	return over_file(ask->addr, ask->len) ? pre_mr_new(ask) : ask->make(ask);
}

PRE_EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t len, int access)
{
	const struct pre_ask ask = {
		.make = make_mr, .pd = pd, .addr = addr, .len = len, .access = (unsigned int)access
	};

	return reg(&ask);
}

PRE_EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
					  int access)
{
	const struct pre_ask ask = { .make = make_iova, .pd = pd, .addr = addr, .len = len, .iova = iova,
				     .access = (unsigned int)access };

	return reg(&ask);
}

PRE_EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
					   unsigned int access)
{
	const struct pre_ask ask = {
		.make = make_iova2, .pd = pd, .addr = addr, .len = len, .iova = iova, .access = access
	};

	return reg(&ask);
}

/* The leases are of what was registered. */
PRE_EXPORT int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t len,
			    int access)
{
	if (!pre_mr_is(mr) && pre_next.rereg_mr)
		return pre_next.rereg_mr(mr, flags, pd, addr, len, access);
	errno = EOPNOTSUPP;
	return IBV_REREG_MR_ERR_INPUT;
}

PRE_EXPORT int ibv_dereg_mr(struct ibv_mr *mr)
{
	if (pre_mr_is(mr))
		return pre_mr_free(mr);
	return pre_next.dereg_mr ? pre_next.dereg_mr(mr) : ENOSYS;
}
