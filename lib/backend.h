/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 2: the two verbs registrations as instances of pinlease/backend.h. The
 * argument of both is a struct ibv_pd *. Neither has a dirty op: GUP marks the pages
 * of a writable pin when they are unpinned, and under ODP the device's own faults do.
 */
#ifndef PL_BACKEND_H
#define PL_BACKEND_H

#include <infiniband/verbs.h>
#include <pinlease/backend.h>
#include <stdint.h>

extern const struct pinlease_backend pl_backend_pinned; /* also the registration of staged memory */
extern const struct pinlease_backend
	pl_backend_odp; /* capable: the device does ODP and passed the data check */

/*
 * May ODP be had by name? A device that failed the data check still is right for page
 * aligned offsets and lengths at path MTU 4096, which the application answers for.
 * 0, or -errno and *reason as from pl_backend_odp's capable.
 */
int pl_odp_by_name_ok(struct ibv_pd *pd, uint32_t *reason);

/* What -ENOMEM of a provider means here: RLIMIT_MEMLOCK, or memory. */
uint32_t pl_backend_memory_reason(void);

/* Shared by the two: register as pin says, with extra access flags; deregister. */
int pl_backend_register(struct ibv_pd *pd, const struct pinlease_pin *pin, uint32_t extra,
			struct pinlease_handle *handle);
int pl_backend_deregister(void *pd, struct pinlease_handle *handle);

#endif
