/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 2: does the device put the bytes where they belong? */
#ifndef PL_DATACHECK_H
#define PL_DATACHECK_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * RDMA writes and reads through a memory region with these additional access flags,
 * compared byte by byte. 0: all right. -EOPNOTSUPP: the data was wrong, or the device
 * refused. Other -errno: the check could not be made (no active port, no memory).
 * Takes milliseconds; four seconds at most, where packets get lost.
 */
int pl_datacheck_run(struct ibv_pd *pd, uint32_t ibv_access);
/*
 * The same with IBV_ACCESS_ON_DEMAND; an answer is remembered for the device and its path MTU, which
 * is what pl_datacheck_mtu says now.
 */
int pl_datacheck_odp(struct ibv_pd *pd, uint32_t mtu);
/* Is there such an answer, for whatever path MTU? Then it is capable of ODP. */
bool pl_datacheck_is_known(struct ibv_context *context);
/* The smallest path MTU of the device's active ports, in bytes; 0: none is active. */
uint32_t pl_datacheck_mtu(struct ibv_context *context);

#endif
