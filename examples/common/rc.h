/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the RDMA examples and the demo share: a device, a reliable connection over it
 * that is made beside a TCP socket, by rdma_cm (cm.h) or by hand, and small messages on that
 * socket. Nothing in here knows of libpinlease.
 *
 * The socket stays open beside the queue pair, because one-sided reads and writes tell
 * the other side nothing: through it the owner of the memory says what may be reached
 * (RC_VIEW), and takes that back (RC_STOP, which is answered with RC_STOPPED once
 * nothing is in flight any more). End of file means that the other side is gone.
 *
 * Functions return 0, or what is said beside them, or -errno. There is no
 * authentication: this is for examples.
 */
#ifndef EXAMPLES_RC_H
#define EXAMPLES_RC_H

#include <infiniband/verbs.h>
#include <stddef.h>
#include <stdint.h>

struct rdma_cm_id;
struct rdma_event_channel;

#define RC_DEPTH     16	 /* operations in flight on a connection */
#define RC_BYTES_MAX 4096 /* of one message */

struct rc_dev {
	struct ibv_context *ctx;
	struct ibv_pd *pd;
};

struct rc_conn {
	int sock;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct rdma_cm_id *id;			/* NULL if it was connected by hand */
	struct rdma_event_channel *events;	/* of id */
};

enum rc_msg_type {
	RC_VIEW = 1,	/* owner: you may reach addr..addr+len with rkey, as generation gen */
	RC_STOP,	/* owner: stop, give generation gen back */
	RC_STOPPED,	/* peer: nothing of generation gen is in flight any more */
	RC_ASK,		/* peer: I want a view */
	RC_DONE,	/* peer: all is written; owner: so it is, or status says why not */
};

struct rc_msg {
	uint32_t type, gen, rkey;
	int32_t status;		/* -errno */
	uint64_t addr, len;
};

/* The first device with an active port. -ENODEV. */
int rc_dev_open(struct rc_dev *dev);
void rc_dev_close(struct rc_dev *dev);

/* A listening socket. */
int rc_listen(const char *port);
/* Both make a connected queue pair; the depth is RC_DEPTH. *conn may be all zero for rc_close. */
int rc_accept(const struct rc_dev *dev, int listener, struct rc_conn *conn);
int rc_connect(const struct rc_dev *dev, const char *host, const char *port, struct rc_conn *conn);
/* When it returns, nothing of the other side's can reach this side through the queue pair. */
void rc_close(struct rc_conn *conn);

int rc_send(const struct rc_conn *conn, const struct rc_msg *msg);
/* Waits for a message. 1: here it is; 0: end of file. */
int rc_recv(const struct rc_conn *conn, struct rc_msg *msg);
/*
 * Messages of any other kind: len bytes, at most RC_BYTES_MAX, behind their length. A connection carries
 * these or the above. recv_bytes: as many as it has written to buf, of cap; 0: end of file.
 */
int rc_send_bytes(const struct rc_conn *conn, const void *buf, size_t len);
int rc_recv_bytes(const struct rc_conn *conn, void *buf, size_t cap);
/* 1 if a message (or the end of file) can be had now, else 0 after ms milliseconds. */
int rc_pending(const struct rc_conn *conn, int ms);

/* Post one signalled IBV_WR_RDMA_WRITE or _READ between local, which lies in mr, and remote. */
int rc_post(const struct rc_conn *conn, enum ibv_wr_opcode opcode, uint64_t wr_id, const struct ibv_mr *mr,
	    const void *local, uint32_t len, uint64_t remote, uint32_t rkey);

#endif
