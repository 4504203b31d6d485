/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The first RDMA device, and RC queue pairs on it that reach each other over
 * loopback, in one process (kt_pair) or between two (kt_qp_make, exchange the
 * kt_ep, kt_qp_connect). Plain libibverbs; errors are -errno.
 */
#ifndef PL_TEST_KT_RDMA_H
#define PL_TEST_KT_RDMA_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

#define KT_ACCESS_WRITE (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)
#define KT_ACCESS_READ	IBV_ACCESS_REMOTE_READ

struct kt_rdma {
	struct ibv_context *ctx;
	struct ibv_pd *pd;
	uint8_t port;
	uint8_t gid_index; /* of ::ffff:127.0.0.1, else of the first IPv4-mapped GID */
	union ibv_gid gid;
	enum ibv_mtu mtu; /* the port's active one */
	bool odp;	  /* RC write and read through ODP are claimed */
	bool windows;	  /* memory windows of type 1 can be made */
	bool patient;	  /* set it where nobody dies: a starved guest does not cost a connection */
	bool stubborn;	  /* the same with short timeouts: rxe takes seven retries as no limit */
};

int kt_rdma_open(struct kt_rdma *rdma); /* -ENODEV: no device */
void kt_rdma_close(struct kt_rdma *rdma);

struct kt_ep {
	uint32_t qpn, psn;
	union ibv_gid gid;
};

struct kt_qp {
	struct ibv_cq *cq; /* its own, for sends and receives */
	struct ibv_qp *qp;
	struct kt_ep ep; /* tell the peer this */
	unsigned int depth;
};

int kt_qp_make(const struct kt_rdma *rdma, struct kt_qp *q, unsigned int depth);
int kt_qp_connect(const struct kt_rdma *rdma, struct kt_qp *q, const struct kt_ep *peer); /* INIT, RTR, RTS */
void kt_qp_drop(struct kt_qp *q);
int kt_qp_state(struct kt_qp *q); /* enum ibv_qp_state, asked of the kernel */

/* One signalled work request; opcode IBV_WR_RDMA_WRITE or IBV_WR_RDMA_READ. */
int kt_post(struct kt_qp *q, enum ibv_wr_opcode opcode, uint64_t wr_id, const void *local, uint32_t lkey,
	    uint32_t len, uint64_t remote, uint32_t rkey);
/* 1 and *wc, 0 when none came within ms, or -EIO. It is the caller who looks at wc->status. */
int kt_poll(struct kt_qp *q, int ms, struct ibv_wc *wc);
/* Post, poll, and turn the completion into 0, -ETIMEDOUT or -(1000 + wc status). */
int kt_do(struct kt_qp *q, enum ibv_wr_opcode opcode, const void *local, uint32_t lkey, uint32_t len,
	  uint64_t remote, uint32_t rkey);

struct kt_pair {
	struct kt_qp peer, owner; /* peer posts, owner is posted at */
};

int kt_pair_make(const struct kt_rdma *rdma, struct kt_pair *pair, unsigned int depth);
void kt_pair_drop(struct kt_pair *pair);

#endif
