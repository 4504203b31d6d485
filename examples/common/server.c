/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/server.h"

int server_open(struct server *s, const char *port)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (s->signals < 0)
		return -errno;
	s->listener = rc_listen(port);
	r = s->listener < 0 ? s->listener : rc_dev_open(&s->dev);
	if (r)
		server_close(s);
	return r;
}

void server_close(struct server *s)
{
	if (s->dev.ctx)
		rc_dev_close(&s->dev);
	if (s->listener >= 0)
		close(s->listener);
	close(s->signals);
}

void server_each(struct server *s, void (*fn)(struct client *c))
{
	struct client *c;

	for (c = s->clients; c < s->clients + SERVER_CLIENTS; c++)
		if (c->used)
			fn(c);
}

static struct client *client_free(struct server *s)
{
	struct client *c;

	for (c = s->clients; c < s->clients + SERVER_CLIENTS; c++)
		if (!c->used)
			return c;
	return NULL;
}

static void client_new(struct server *s, struct client *c)
{
	int r;

	*c = (struct client){ .used = false };
	r = rc_accept(&s->dev, s->listener, &c->conn);
	if (r) {
		fprintf(stderr, "a client that could not connect: %s\n", strerror(-r));
		return;
	}
	c->used = true;
	printf("client connected\n");
	if (s->connected)
		s->connected(c);
}

int server_run(struct server *s, int event_fd)
{
	struct pollfd fds[3 + SERVER_CLIENTS] = {
		{ .fd = s->signals, .events = POLLIN },
		{ .fd = event_fd, .events = POLLIN },
	};
	int i, r = 0;

	while (!r) {
		/* While there is no room, new clients wait in the listening socket. */
		fds[2] = (struct pollfd){ .fd = client_free(s) ? s->listener : -1, .events = POLLIN };
		for (i = 0; i < SERVER_CLIENTS; i++)
			fds[3 + i] = (struct pollfd){ .fd = s->clients[i].used ? s->clients[i].conn.sock : -1,
						      .events = POLLIN };
		if (poll(fds, 3 + SERVER_CLIENTS, -1) < 0)
			return -errno;
		if (fds[0].revents)
			return 0;
		/* Events first: an opener is waiting. */
		if (fds[1].revents)
			r = s->events();
		for (i = 0; i < SERVER_CLIENTS; i++)
			if (fds[3 + i].revents && s->clients[i].used)
				s->message(&s->clients[i]);
		if (fds[2].revents)
			client_new(s, client_free(s));
	}
	return r;
}
