/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the two servers share: clients on connections of rc.h, and a loop that waits for
 * them, for somebody new, for the library's events, and for SIGINT or SIGTERM. Nothing in
 * here knows of libpinlease either.
 */
#ifndef EXAMPLES_SERVER_H
#define EXAMPLES_SERVER_H

#include <stdbool.h>

#include "common/rc.h"

#define SERVER_CLIENTS 64

struct client {
	struct rc_conn conn;
	bool used;
	bool lent;	/* it has a view, and so one dma_begin is open */
	uint32_t gen;	/* of that begin */
	bool waits;	/* for what the server owes it */
};

struct server {
	struct rc_dev dev;
	int listener, signals;
	struct client clients[SERVER_CLIENTS];
	int (*events)(void);			/* 0, or why the server cannot go on */
	void (*connected)(struct client *c);	/* may be NULL */
	void (*message)(struct client *c);	/* there is one, or the end of file */
};

/* The device, a listening socket, a signalfd. */
int server_open(struct server *s, const char *port);
void server_close(struct server *s);
/* Until a signal (0) or an error; event_fd is readable when there are events. */
int server_run(struct server *s, int event_fd);
void server_each(struct server *s, void (*fn)(struct client *c));

#endif
