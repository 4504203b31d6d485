/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 0: the seam to libibverbs. What the registrations need is here; what only
 * the data check needs is in the second part. 0 or -errno throughout.
 */
#ifndef PL_VERBS_H
#define PL_VERBS_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

int pl_verbs_reg_mr(struct ibv_pd *pd, void *addr, uint64_t len, uint64_t iova, uint32_t access,
		    struct ibv_mr **mr);
int pl_verbs_dereg_mr(struct ibv_mr *mr);
/* 0: the device does ODP for RC send, write and read; -EOPNOTSUPP. */
int pl_verbs_odp_caps(struct ibv_context *context);
void pl_verbs_fds(struct ibv_context *context, int *cmd_fd, int *async_fd);
const char *pl_verbs_device_name(struct ibv_context *context);

#endif
