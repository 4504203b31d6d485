/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * On-demand paging: the device reaches the file's pages through an MMU notifier and
 * holds no pin, so writeback, reclaim and the file system's dirty tracking work as
 * under a CPU mapping. Having the capability bit is not enough: a provider was seen
 * that set it and put every unaligned access into the wrong place (datacheck.c).
 */
#include <errno.h>

#include "backend.h"
#include "datacheck.h"
#include "verbs.h"

#define ODP_SAFE_MTU 4096u /* with it, the packets of a page-aligned message are page-aligned */

/* Each acquire comes here, and each question is a system call: what is known is not asked again. */
static int odp_judge(struct ibv_pd *pd, uint32_t *mtu, uint32_t *reason)
{
	int err = pl_datacheck_is_known(pd->context) ? 0 : pl_verbs_odp_caps(pd->context);

	if (err) {
		*reason = PINLEASE_WHY_NO_ODP;
		return err;
	}
	*mtu = pl_datacheck_mtu(pd->context);
	err = pl_datacheck_odp(pd, *mtu);
	/* Out of memory says nothing about the device: another mode chosen for it would be an accident. */
	if (err == -ENOMEM)
		*reason = pl_backend_memory_reason();
	else if (err)
		*reason = PINLEASE_WHY_DATA_CHECK;
	return err;
}

static int odp_capable(void *arg, const struct pinlease_pin *pin, uint32_t *reason)
{
	uint32_t mtu;

	(void)pin;
	return odp_judge(arg, &mtu, reason);
}

int pl_odp_by_name_ok(struct ibv_pd *pd, uint32_t *reason)
{
	uint32_t mtu = 0;
	int err = odp_judge(pd, &mtu, reason);

	if (!err || *reason != PINLEASE_WHY_DATA_CHECK)
		return err;
	return mtu >= ODP_SAFE_MTU ? 0 : err;
}

static int odp_pin(void *arg, const struct pinlease_pin *pin, struct pinlease_handle *handle)
{
	return pl_backend_register(arg, pin, IBV_ACCESS_ON_DEMAND, handle);
}

const struct pinlease_backend pl_backend_odp = {
	.version = PINLEASE_BACKEND_VERSION,
	.name = "odp",
	.capable = odp_capable,
	.pin = odp_pin,
	.unpin = pl_backend_deregister,
};
