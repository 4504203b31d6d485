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

uint64_t pl_verbs_device_guid(struct ibv_context *context);
int pl_verbs_port_count(struct ibv_context *context);	/* ports are numbered from 1 */
int pl_verbs_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr);
int pl_verbs_query_gid(struct ibv_context *context, uint8_t port, uint32_t index, struct ibv_gid_entry *gid);
int pl_verbs_create_cq(struct ibv_context *context, int entries, struct ibv_cq **cq);
int pl_verbs_destroy_cq(struct ibv_cq *cq);
int pl_verbs_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct ibv_qp **qp);
int pl_verbs_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask);
int pl_verbs_destroy_qp(struct ibv_qp *qp);
int pl_verbs_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr);
int pl_verbs_poll_cq(struct ibv_cq *cq, struct ibv_wc *wc);	/* 1: *wc is set; 0: nothing yet */

#endif
