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
	       pre_maps_meet(addr, len);
}

static struct ibv_mr *missing(void)
{
	errno = ENOSYS;
	return NULL;
}

static struct ibv_mr *make_mr(const struct pre_ask *ask)
{
	struct ibv_mr *mr;

	pre_inside++;
	mr = pre_next.reg_mr(ask->pd, ask->addr, ask->len, (int)ask->access);
	pre_inside--;
	return mr;
}

static struct ibv_mr *make_iova(const struct pre_ask *ask)
{
	struct ibv_mr *mr;

	pre_inside++;
	mr = pre_next.reg_mr_iova(ask->pd, ask->addr, ask->len, ask->iova, (int)ask->access);
	pre_inside--;
	return mr;
}

static struct ibv_mr *make_iova2(const struct pre_ask *ask)
{
	struct ibv_mr *mr;

	pre_inside++;
	mr = pre_next.reg_mr_iova2(ask->pd, ask->addr, ask->len, ask->iova, ask->access);
	pre_inside--;
	return mr;
}

/* Apart, so that who asks has no frame of its own for it. */
__attribute__((noinline)) static struct ibv_mr *reg(struct ibv_mr *(*make)(const struct pre_ask *ask),
						    bool there, struct ibv_pd *pd, void *addr, size_t len,
						    uint64_t iova, unsigned int access)
{
	const struct pre_ask ask = {
		.make = make, .pd = pd, .addr = addr, .len = len, .iova = iova, .access = access
	};

	if (!there)
		return missing();
	return over_file(addr, len) ? pre_mr_new(&ask) : make(&ask);
}

/*
 * Memory that is no file's passes with a look at what this thread has seen last. libibverbs' second call
 * looks once more, and finds the same.
 */
PRE_EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t len, int access)
{
	if (pre_maps_skip(addr, len))
		return pre_next.reg_mr(pd, addr, len, access);
	return reg(make_mr, pre_next.reg_mr, pd, addr, len, 0, (unsigned int)access);
}

PRE_EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
					  int access)
{
	if (pre_maps_skip(addr, len))
		return pre_next.reg_mr_iova(pd, addr, len, iova, access);
	return reg(make_iova, pre_next.reg_mr_iova, pd, addr, len, iova, (unsigned int)access);
}

PRE_EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
					   unsigned int access)
{
	if (pre_maps_skip(addr, len))
		return pre_next.reg_mr_iova2(pd, addr, len, iova, access);
	return reg(make_iova2, pre_next.reg_mr_iova2, pd, addr, len, iova, access);
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
