/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "dial.h"

#define STEP_MS 4000 /* for each step: the address, the route, the other side's answer */

static int judge_hail(const struct rdma_cm_event *event, const char **what)
{
	struct hail hail;
	int r = hail_decode(event->param.conn.private_data, event->param.conn.private_data_len, &hail);

	/* Nobody listens, or the other side's kernel has another reason: there is no hail in that. */
	if (r == -EPROTO && event->event == RDMA_CM_EVENT_REJECTED)
		return -ECONNREFUSED;
	if (r == -EPROTO)
		*what = "what listens there is not pl-copy";
	else if (r == -EPROTONOSUPPORT)
		*what = "another version of pl-copy listens there";
	if (r || event->event != RDMA_CM_EVENT_REJECTED)
		return r;
	*what = "too many copies are under way there";
	return hail.refusal == REFUSAL_BUSY ? -EBUSY : -EPROTO;
}

static int judge(const struct rdma_cm_event *event, enum rdma_cm_event_type type, const char **what)
{
	if (event->event == RDMA_CM_EVENT_REJECTED || event->event == RDMA_CM_EVENT_ESTABLISHED)
		return judge_hail(event, what);
	if (event->event == type)
		return 0;
	if (event->event == RDMA_CM_EVENT_UNREACHABLE)
		return -ETIMEDOUT;
	return event->status < 0 ? event->status : -EHOSTUNREACH;
}

/* The next event, if it is the one that is due. */
static int expect(struct rdma_event_channel *events, enum rdma_cm_event_type type, const char **what)
{
	struct pollfd fd = { .fd = events->fd, .events = POLLIN };
	struct rdma_cm_event *event;
	int r;

	r = poll(&fd, 1, STEP_MS);
	if (r <= 0)
		return r ? -errno : -ETIMEDOUT;
	if (rdma_get_cm_event(events, &event))
		return -errno;
	r = judge(event, type, what);
	rdma_ack_cm_event(event);
	return r;
}

static int resolve(struct rdma_event_channel *events, struct rdma_cm_id *id, struct sockaddr *addr,
		   const char **what)
{
	int r = rdma_resolve_addr(id, NULL, addr, STEP_MS) ? -errno : 0;

	if (!r)
		r = expect(events, RDMA_CM_EVENT_ADDR_RESOLVED, what);
	if (!r)
		r = rdma_resolve_route(id, STEP_MS) ? -errno : 0;
	return r ? r : expect(events, RDMA_CM_EVENT_ROUTE_RESOLVED, what);
}

static int try_address(struct conn *conn, struct rdma_event_channel *events, struct sockaddr *addr,
		       const char **what)
{
	struct rdma_cm_id *id;
	int r;

	*what = "no way there by RDMA";
	if (rdma_create_id(events, &id, NULL, RDMA_PS_TCP))
		return -errno;
	r = resolve(events, id, addr, what);
	if (r) {
		rdma_destroy_id(id);
		return r;
	}
	*what = "RDMA device";
	r = conn_setup(conn, id);
	if (!r) {
		*what = "port";
		r = conn_connect(conn);
	}
	if (!r)
		r = expect(events, RDMA_CM_EVENT_ESTABLISHED, what);
	if (!r)
		conn->up = true;
	return r;
}

static void explain(int r, const char *what, uint16_t port, char why[DIAL_WHY])
{
	if (r == -EPROTO || r == -EPROTONOSUPPORT || r == -EBUSY)
		snprintf(why, DIAL_WHY, "port %u: %s", port, what);
	else if (!strcmp(what, "port"))
		snprintf(why, DIAL_WHY, "port %u: %s", port, strerror(-r));
	else
		snprintf(why, DIAL_WHY, "%s: %s", what, strerror(-r));
}

int dial(const char *host, uint16_t port, struct conn *conn, struct rdma_event_channel **events,
	 char why[DIAL_WHY])
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *list, *ai;
	const struct conn start = *conn;
	const char *what = "rdma_cm";
	char service[8];
	int r;

	snprintf(service, sizeof(service), "%u", port);
	r = getaddrinfo(host, service, &hints, &list);
	if (r) {
		snprintf(why, DIAL_WHY, "%s", gai_strerror(r));
		return -EADDRNOTAVAIL;
	}
	*events = rdma_create_event_channel();
	r = *events ? -EADDRNOTAVAIL : -errno;
	for (ai = *events ? list : NULL; ai && r; ai = ai->ai_next) {
		r = try_address(conn, *events, ai->ai_addr, &what);
		if (r) {
			conn_free(conn);
			*conn = start;
		}
	}
	freeaddrinfo(list);
	if (r)
		explain(r, what, port, why);
	if (!r) {
		fcntl((*events)->fd, F_SETFL, O_NONBLOCK);
	} else if (*events) {
		rdma_destroy_event_channel(*events);
		*events = NULL;
	}
	return r;
}
