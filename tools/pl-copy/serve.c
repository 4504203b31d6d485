/* SPDX-License-Identifier: BSD-3-Clause */
/* The receiver: one loop for all sessions, the library's events, finished jobs and signals. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "copy.h"
#include "session.h"

#define SESSIONS_MAX 32u
#define WORKERS	     4u
#define TICK_MS	     25

static int refuse(const char *what, int r)
{
	say("%s: %s", what, strerror(-r));
	return r;
}

static int listen_at(struct server *server, struct rdma_cm_id **id, struct sockaddr *addr)
{
	int only = 1, r;

	if (rdma_create_id(server->events, id, NULL, RDMA_PS_TCP))
		return -errno;
	/* Or the one for IPv6 would want what the one for IPv4 has. */
	if (addr->sa_family == AF_INET6)
		rdma_set_option(*id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &only, sizeof(only));
	r = rdma_bind_addr(*id, addr) || rdma_listen(*id, (int)SESSIONS_MAX) ? -errno : 0;
	if (!r) {
		server->port = ntohs(rdma_get_src_port(*id));
		return 0;
	}
	rdma_destroy_id(*id);
	*id = NULL;
	return r;
}

/* On all addresses: of both families, or of the one that there is. */
static int listen_everywhere(struct server *server)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(server->port) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	int r = listen_at(server, &server->listener[0], (struct sockaddr *)&in), r6;

	in6.sin6_port = htons(server->port);
	r6 = listen_at(server, &server->listener[1], (struct sockaddr *)&in6);
	return r && r6 ? r : 0;
}

static int start_listening(struct server *server)
{
	struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *ai;
	char port[8];
	int r;

	server->events = rdma_create_event_channel();
	if (!server->events)
		return refuse("rdma_cm", -errno);
	fcntl(server->events->fd, F_SETFL, O_NONBLOCK);
	if (!server->address) {
		r = listen_everywhere(server);
		return r ? refuse("listening", r) : 0;
	}
	snprintf(port, sizeof(port), "%u", server->port);
	r = getaddrinfo(server->address, port, &hints, &ai);
	if (r) {
		say("%s: %s", server->address, gai_strerror(r));
		return -EADDRNOTAVAIL;
	}
	r = listen_at(server, &server->listener[0], ai->ai_addr);
	freeaddrinfo(ai);
	return r ? refuse(server->address, r) : 0;
}

static void connect_request(struct server *server, struct rdma_cm_id *id, int hail)
{
	uint8_t answer[HAIL_BYTES];

	if (!hail && server->count < SESSIONS_MAX && !session_new(server, id))
		return;
	hail_encode(hail ? REFUSAL_VERSION : REFUSAL_BUSY, answer);
	rdma_reject(id, answer, sizeof(answer));
	rdma_destroy_id(id);
}

static void cm_events(struct server *server)
{
	struct rdma_cm_event *event;
	enum rdma_cm_event_type type;
	struct rdma_cm_id *id;
	struct hail hail;
	int hailed;

	while (!rdma_get_cm_event(server->events, &event)) {
		type = event->event;
		id = event->id;
		hailed = hail_decode(event->param.conn.private_data, event->param.conn.private_data_len,
				     &hail);
		/* Before anything is done with the id: it cannot be destroyed with an event that is not
		 * acked. */
		rdma_ack_cm_event(event);
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
			connect_request(server, id, hailed);
		else if (id->context && type == RDMA_CM_EVENT_ESTABLISHED)
			session_up(id->context);
		else if (id->context && type != RDMA_CM_EVENT_TIMEWAIT_EXIT)
			session_end(id->context);
	}
}

static void lease_events(struct server *server)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	/* Events of a check's lease, which nobody needs, have no chunk. */
	while (pinlease_ctx_next_event(server->ctx, &ev) == 1)
		if (ev.user)
			chunk_event(ev.user, &ev);
}

static void tick(struct server *server)
{
	struct session **at = &server->sessions, *s;

	while ((s = *at)) {
		session_tick(s);
		if (!session_is_over(s)) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		session_free(s);
		server->count--;
	}
}

/* Until a signal. */
static int loop(struct server *server)
{
	struct pollfd fds[4 + SESSIONS_MAX] = { { .fd = server->signals, .events = POLLIN },
						{ .fd = pinlease_ctx_fd(server->ctx), .events = POLLIN },
						{ .fd = server->events->fd, .events = POLLIN },
						{ .fd = pool_fd(server->pool), .events = POLLIN } };
	struct session *s;
	nfds_t n;

	while (!(fds[0].revents & POLLIN)) {
		n = 4;
		for (s = server->sessions; s; s = s->next)
			fds[n++] = (struct pollfd){ .fd = s->ending ? -1 : s->conn.channel->fd,
						    .events = POLLIN };
		if (poll(fds, n, server->sessions ? TICK_MS : -1) < 0 && errno != EINTR)
			return refuse("poll", -errno);
		/* First what an opener waits for. */
		lease_events(server);
		n = 4;
		for (s = server->sessions; s; s = s->next)
			if (fds[n++].revents)
				session_poll(s);
		pool_collect(server->pool);
		/* Last: it makes new sessions, which fds knows nothing of. */
		if (fds[2].revents)
			cm_events(server);
		tick(server);
	}
	return 0;
}

/* What is under way can be gone on with. */
static void wind_down(struct server *server)
{
	struct session *s;

	for (s = server->sessions; s; s = s->next)
		session_end(s);
	while (server->sessions) {
		struct pollfd fd = { .fd = pool_fd(server->pool), .events = POLLIN };

		poll(&fd, 1, TICK_MS);
		lease_events(server);
		pool_collect(server->pool);
		tick(server);
	}
}

static int open_root(struct server *server, const char *root)
{
	mode_t mask = umask(0);

	umask(mask);
	server->mask = mask;
	server->root = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return server->root < 0 ? refuse(root, -errno) : 0;
}

static int start(struct server *server, const char *root)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	server->signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (server->signals < 0)
		return refuse("signals", -errno);
	r = open_root(server, root);
	if (r)
		return r;
	r = pinlease_ctx_new(NULL, &server->ctx);
	if (r)
		return refuse("libpinlease", r);
	r = pool_new(WORKERS, &server->pool);
	if (r)
		return refuse("threads", r);
	return start_listening(server);
}

int serve(const struct serve_options *options)
{
	struct server server = { .root = -1,
				 .signals = -1,
				 .port = options->port,
				 .quiet = options->quiet,
				 .address = options->address };
	int i, r = start(&server, options->root);

	if (!r) {
		setlinebuf(stdout);
		printf("listening on port %u\n", server.port);
		r = loop(&server);
		wind_down(&server);
	}
	for (i = 0; i < 2; i++)
		if (server.listener[i])
			rdma_destroy_id(server.listener[i]);
	if (server.events)
		rdma_destroy_event_channel(server.events);
	pool_free(server.pool);
	pinlease_ctx_free(server.ctx);
	if (server.root >= 0)
		close(server.root);
	if (server.signals >= 0)
		close(server.signals);
	return r ? STATUS_FAILED : STATUS_OK;
}
