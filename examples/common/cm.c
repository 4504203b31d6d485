/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <sys/socket.h>

#include "common/cm.h"

#define STEP_MS	    10000 /* for each step of the connection manager's */
#define ATOMS	    4	  /* as rc.c has it, and so the timeout: 268 ms, eight times */
#define ACK_TIMEOUT 16

/* Waits for the event that is due; *id, if it is not NULL, is whom it is about. */
static int await(struct rc_conn *conn, enum rdma_cm_event_type type, struct rdma_cm_id **id)
{
	struct pollfd pfd = { .fd = conn->events->fd, .events = POLLIN };
	struct rdma_cm_event *event;
	enum rdma_cm_event_type is;
	int n;

	do
		n = poll(&pfd, 1, STEP_MS);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -ETIMEDOUT;
	if (rdma_get_cm_event(conn->events, &event))
		return -errno;
	is = event->event;
	if (is == type && id)
		*id = event->id;
	rdma_ack_cm_event(event);
	if (is == type)
		return 0;
	return is == RDMA_CM_EVENT_REJECTED ? -ECONNREFUSED : -EHOSTUNREACH;
}

/* The device is known from here on, and must be the one whose memory is to be reached. */
static int make_qp(const struct rc_dev *dev, struct rc_conn *conn, struct ibv_qp_init_attr *init)
{
	uint8_t timeout = ACK_TIMEOUT;

	if (conn->id->verbs != dev->ctx)
		return -ENODEV;
	if (rdma_set_option(conn->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout,
			    sizeof(timeout)) ||
	    rdma_create_qp(conn->id, dev->pd, init))
		return -errno;
	conn->qp = conn->id->qp;
	return 0;
}

static struct rdma_conn_param params(void)
{
	return (struct rdma_conn_param){
		.responder_resources = ATOMS, .initiator_depth = ATOMS, .retry_count = 7, .rnr_retry_count = 3
	};
}

/* On any free port of the address that the socket was reached at. */
static int listen_at(struct rc_conn *conn, struct rdma_cm_id **listener)
{
	struct sockaddr_in at;
	socklen_t len = sizeof(at);
	uint16_t port;
	int r;

	if (getsockname(conn->sock, (struct sockaddr *)&at, &len))
		return -errno;
	at.sin_port = 0;
	if (rdma_create_id(conn->events, listener, NULL, RDMA_PS_TCP))
		return -errno;
	r = rdma_bind_addr(*listener, (struct sockaddr *)&at) || rdma_listen(*listener, 1) ? -errno : 0;
	if (!r) {
		port = rdma_get_src_port(*listener);
		r = send(conn->sock, &port, sizeof(port), MSG_NOSIGNAL) == sizeof(port) ? 0 : -ECONNRESET;
	}
	return r;
}

int cm_accept(const struct rc_dev *dev, struct rc_conn *conn, struct ibv_qp_init_attr *init)
{
	struct rdma_conn_param param = params();
	struct rdma_cm_id *listener = NULL;
	int r;

	conn->events = rdma_create_event_channel();
	r = conn->events ? listen_at(conn, &listener) : -errno;
	if (!r)
		r = await(conn, RDMA_CM_EVENT_CONNECT_REQUEST, &conn->id);
	if (!r)
		r = make_qp(dev, conn, init);
	if (!r)
		r = rdma_accept(conn->id, &param) ? -errno : 0;
	if (!r)
		r = await(conn, RDMA_CM_EVENT_ESTABLISHED, NULL);
	if (listener)
		rdma_destroy_id(listener);
	return r;
}

static int resolve(struct rc_conn *conn)
{
	struct sockaddr_in to;
	socklen_t len = sizeof(to);
	uint16_t port;
	int r;

	/* Two bytes are one segment, and the socket has a timeout. */
	if (recv(conn->sock, &port, sizeof(port), MSG_WAITALL) != sizeof(port))
		return -EPROTO;
	if (getpeername(conn->sock, (struct sockaddr *)&to, &len))
		return -errno;
	to.sin_port = port;
	if (rdma_create_id(conn->events, &conn->id, NULL, RDMA_PS_TCP))
		return -errno;
	r = rdma_resolve_addr(conn->id, NULL, (struct sockaddr *)&to, STEP_MS) ? -errno : 0;
	if (!r)
		r = await(conn, RDMA_CM_EVENT_ADDR_RESOLVED, NULL);
	if (!r)
		r = rdma_resolve_route(conn->id, STEP_MS) ? -errno : 0;
	return r ? r : await(conn, RDMA_CM_EVENT_ROUTE_RESOLVED, NULL);
}

int cm_connect(const struct rc_dev *dev, struct rc_conn *conn, struct ibv_qp_init_attr *init)
{
	struct rdma_conn_param param = params();
	int r;

	conn->events = rdma_create_event_channel();
	r = conn->events ? resolve(conn) : -errno;
	if (!r)
		r = make_qp(dev, conn, init);
	if (!r)
		r = rdma_connect(conn->id, &param) ? -errno : 0;
	return r ? r : await(conn, RDMA_CM_EVENT_ESTABLISHED, NULL);
}

void cm_close(struct rc_conn *conn)
{
	if (conn->id) {
		if (conn->qp)
			rdma_destroy_qp(conn->id);
		conn->qp = NULL;
		rdma_destroy_id(conn->id);
	}
	if (conn->events)
		rdma_destroy_event_channel(conn->events);
}
