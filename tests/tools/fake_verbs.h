/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * As much of libibverbs as registering takes, with its symbol versions, for machines without a
 * device. Like the real one's, its ibv_reg_mr calls ibv_reg_mr_iova2 through the PLT.
 */
#ifndef FAKE_VERBS_H
#define FAKE_VERBS_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define FAKE_EXPORT __attribute__((visibility("default")))

FAKE_EXPORT struct ibv_pd *fake_pd(void);
FAKE_EXPORT unsigned int fake_live(void);	 /* regions that are registered */
FAKE_EXPORT unsigned int fake_registered(void); /* so far */
FAKE_EXPORT bool fake_made(const struct ibv_mr *mr); /* a live region of its own, and no copy of one */
FAKE_EXPORT bool fake_has(uint32_t rkey);	 /* a live region with this key */
FAKE_EXPORT void fake_refuse(int reg, int dereg);	 /* errno that the next calls answer; 0: none */

#endif
