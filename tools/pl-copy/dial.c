/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>

#include "dial.h"

#define STEP_MS 4000 /* for each step: the address, the route, the other side's answer */

/* The next event, if it is the one that is due. */
static int expect(struct rdma_event_channel *events, enum rdma_cm_event_type type)
{
	struct pollfd fd = { .fd = events->fd, .events = POLLIN };
	struct rdma_cm_event *event;
	enum rdma_cm_event_type is;
	int r, status;

	do
		r = poll(&fd, 1, STEP_MS);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r ? -errno : -ETIMEDOUT;
	if (rdma_get_cm_event(events, &event))
		return -errno;
	is = event->event;
	status = event->status;
	rdma_ack_cm_event(event);
	if (is == type)
		return 0;
	if (is == RDMA_CM_EVENT_REJECTED)
		return -ECONNREFUSED;
	if (is == RDMA_CM_EVENT_UNREACHABLE)
		return -ETIMEDOUT;
	return status < 0 ? status : -EHOSTUNREACH;
}

static int resolve(struct rdma_event_channel *events, struct rdma_cm_id *id, struct sockaddr *addr)
{
	int r = rdma_resolve_addr(id, NULL, addr, STEP_MS) ? -errno : 0;

	if (!r)
		r = expect(events, RDMA_CM_EVENT_ADDR_RESOLVED);
	if (!r)
		r = rdma_resolve_route(id, STEP_MS) ? -errno : 0;
	return r ? r : expect(events, RDMA_CM_EVENT_ROUTE_RESOLVED);
}

static int try_address(struct conn *conn, struct rdma_event_channel *events, struct sockaddr *addr,
		       const char **what)
{
	struct rdma_cm_id *id;
	int r;

	*what = "no way by RDMA";
	if (rdma_create_id(events, &id, NULL, RDMA_PS_TCP))
		return -errno;
	r = resolve(events, id, addr);
	if (r) {
		rdma_destroy_id(id);
		return r;
	}
	*what = "RDMA device";
	r = conn_setup(conn, id);
	if (!r) {
		*what = "connecting";
		r = conn_connect(conn);
	}
	if (!r)
		r = expect(events, RDMA_CM_EVENT_ESTABLISHED);
	if (!r)
		conn->up = true;
	return r;
}

int dial(const char *host, uint16_t port, struct conn *conn, struct rdma_event_channel **events,
	 const char **what)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *list, *ai;
	const struct conn start = *conn;
	char service[8];
	int r;

	snprintf(service, sizeof(service), "%u", port);
	r = getaddrinfo(host, service, &hints, &list);
	if (r) {
		*what = gai_strerror(r);
		return -EADDRNOTAVAIL;
	}
	*what = "rdma_cm";
	*events = rdma_create_event_channel();
	r = *events ? -EADDRNOTAVAIL : -errno;
	for (ai = *events ? list : NULL; ai && r; ai = ai->ai_next) {
		r = try_address(conn, *events, ai->ai_addr, what);
		if (r) {
			conn_free(conn);
			*conn = start;
		}
	}
	freeaddrinfo(list);
	if (!r) {
		fcntl((*events)->fd, F_SETFL, O_NONBLOCK);
	} else if (*events) {
		rdma_destroy_event_channel(*events);
		*events = NULL;
	}
	return r;
}
