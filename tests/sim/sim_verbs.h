/* SPDX-License-Identifier: BSD-3-Clause */
/* What the two halves of the simulated device share. */
#ifndef PL_SIM_VERBS_H
#define PL_SIM_VERBS_H

#include "sim_private.h"

struct sim_device {
	struct ibv_pd pd;
	struct ibv_context context;
	struct pl_list link;
	char name[16];
	uint64_t guid;
	enum sim_odp odp;
	enum ibv_mtu mtu[2];	/* of its two ports; 0: down */
	unsigned int checks;	/* queue pairs made */
	const struct sim_gid *gid;	/* NULL: InfiniBand */
	int gids, used;
};

struct sim_device *sim_device_of(struct ibv_context *context);
struct sim_mr *sim_mr_find(uint32_t key);			     /* locked */
void sim_memory_write(uintptr_t addr, const void *data, size_t len); /* locked; as the device does it */

#endif
