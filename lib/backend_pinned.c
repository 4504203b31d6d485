/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The long-term pin. Whether the pages may be pinned for this access is decided
 * where the file is known (choose.c); a device that registers memory at all can do
 * this one, so there is no capable op. deregister is the fence of both verbs modes:
 * nothing but ibv_dereg_mr returning 0 is one, whatever state the QPs are in.
 */
#include <errno.h>

#include "backend.h"
#include "sys.h"
#include "verbs.h"

#define BACKEND_WRITES (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

uint32_t pl_backend_memory_reason(void)
{
	return pl_sys_memlock_limit() == UINT64_MAX ? PINLEASE_WHY_MEMORY : PINLEASE_WHY_MEMLOCK;
}

/* A write flag on a read lease would write pages whose guard knows no writer. */
int pl_backend_register(struct ibv_pd *pd, const struct pinlease_pin *pin, uint32_t extra,
			struct pinlease_handle *handle)
{
	uint32_t access = pin->ibv_access;
	struct ibv_mr *mr;
	int err;

	if (pin->access & PINLEASE_WRITE)
		access |= IBV_ACCESS_LOCAL_WRITE;
	else if (access & BACKEND_WRITES)
		return -EINVAL;
	err = pl_verbs_reg_mr(pd, pin->addr, pin->len, pin->iova, access | extra, &mr);
	if (err)
		return err;
	handle->cookie = NULL;
	handle->mr = mr;
	handle->lkey = mr->lkey;
	handle->rkey = mr->rkey;
	return 0;
}

int pl_backend_deregister(void *pd, struct pinlease_handle *handle)
{
	int err;

	(void)pd;
	if (!handle->mr)
		return 0;
	err = pl_verbs_dereg_mr(handle->mr);
	if (err)
		return err;
	handle->mr = NULL;
	handle->lkey = handle->rkey = 0;
	return 0;
}

/* ON_DEMAND from the application would turn the pin into ODP without the data check. */
static int pinned_pin(void *arg, const struct pinlease_pin *pin, struct pinlease_handle *handle)
{
	if (pin->ibv_access & IBV_ACCESS_ON_DEMAND)
		return -EINVAL;
	return pl_backend_register(arg, pin, 0, handle);
}

const struct pinlease_backend pl_backend_pinned = {
	.version = PINLEASE_BACKEND_VERSION,
	.name = "pinned",
	.pin = pinned_pin,
	.unpin = pl_backend_deregister,
};
