/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One connection of rdma_cm: frames by SEND and RECV, data by RDMA WRITE, on one queue pair.
 * It belongs to one thread, the loop's.
 *
 * Nothing here waits. Whoever dies takes the connection along, and rdma_cm says so; whoever hangs, or a
 * link that is gone, is found by what both sides send when they have nothing to say (conn_tick).
 */
#ifndef PLC_CONN_H
#define PLC_CONN_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>

#include "frame.h"

#define CONN_FRAMES 64u /* that may be on their way in each direction: 16 for a chunk of the window */
#define CONN_WRITES 32u /* RDMA WRITEs in flight */

struct conn {
	struct rdma_cm_id *id;
	struct ibv_pd *pd; /* stays till conn_free: registrations of others are in it */
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	char *buffers;				/* CONN_FRAMES to receive, as many to send */
	uint32_t idle[CONN_FRAMES], idle_count; /* of those to send */
	uint32_t writes;			/* in flight */
	uint64_t sent_ns, heard_ns;
	bool up, lost;
	void *arg; /* of the two calls */
	/* < 0: why the connection cannot go on. */
	int (*received)(void *arg, const struct frame *f);
	void (*written)(void *arg, uint64_t tag, bool ok);
};

uint64_t now_ns(void); /* CLOCK_MONOTONIC */

/* On an id whose device is known; what failed half way is freed by conn_free. */
int conn_setup(struct conn *conn, struct rdma_cm_id *id);
int conn_connect(struct conn *conn);
int conn_accept(struct conn *conn);
/* 0, -ECONNRESET, -ENOBUFS: the other side takes nothing any more. */
int conn_send(struct conn *conn, const struct frame *f);
/* tag: 62 bits, for written. */
int conn_write(struct conn *conn, const struct ibv_mr *mr, const void *from, uint32_t len, uint64_t addr,
	       uint32_t rkey, uint64_t tag);
/* When channel->fd is readable. -ECONNRESET, and what received says. */
int conn_poll(struct conn *conn);
/* Now and then: says that we live. -ETIMEDOUT: the other side does not. */
int conn_tick(struct conn *conn);
/* When it returns nothing of this connection reaches memory any more, here or there. */
void conn_cut(struct conn *conn);
/* And the rest: what was registered in pd must be gone. */
void conn_free(struct conn *conn);

#endif
