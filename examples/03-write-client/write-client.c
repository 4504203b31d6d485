/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * write-client HOST PORT < DATA: writes DATA into write-server's file by RDMA.
 *
 * It only writes while it holds a view. Told to stop, it lets what is in flight
 * complete, gives the view back and waits for a new one: then the file may have been
 * truncated, the keys are others, but every write that had completed is in the file.
 * A client that did not stop in time would lose its connection, and nothing else.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/rc.h"

#define CHUNK 65536u	/* bytes a write */

struct client {
	struct rc_conn conn;
	struct ibv_mr *mr;	/* of data */
	char *data;
	uint64_t len, posted, written;
	struct rc_msg view;	/* type RC_VIEW while we hold it */
};

static int fail(const char *what, int r)
{
	fprintf(stderr, "write-client: %s: %s\n", what, strerror(-r));
	return r;
}

static int read_input(struct client *c)
{
	uint64_t room = 0;
	ssize_t n;
	char *more;

	do {
		if (room - c->len < CHUNK) {
			room = 2 * room + CHUNK;
			more = realloc(c->data, room);
			if (!more)
				return fail("input", -ENOMEM);
			c->data = more;
		}
		n = read(STDIN_FILENO, c->data + c->len, room - c->len);
		if (n < 0 && errno != EINTR)
			return fail("input", -errno);
		c->len += n > 0 ? (uint64_t)n : 0;
	} while (n);
	return c->len ? 0 : fail("input", -ENODATA);
}

/* Completions of a reliable connection come in the order of the posts. */
static int reap(struct client *c)
{
	struct ibv_wc wc[RC_DEPTH];
	int i, n = ibv_poll_cq(c->conn.cq, RC_DEPTH, wc);

	if (n < 0)
		return fail("ibv_poll_cq", -EIO);
	for (i = 0; i < n; i++) {
		if (wc[i].status != IBV_WC_SUCCESS) {
			fprintf(stderr, "write-client: connection lost (%s), %llu bytes are written\n",
				ibv_wc_status_str(wc[i].status), (unsigned long long)c->written);
			return -ECONNRESET;
		}
		c->written = wc[i].wr_id;
	}
	return 0;
}

/* wr_id is how far the file is written when this one has completed. */
static int post(struct client *c)
{
	uint64_t left = c->len - c->posted;
	uint32_t n = left < CHUNK ? (uint32_t)left : CHUNK;
	int r = rc_post(&c->conn, IBV_WR_RDMA_WRITE, c->posted + n, c->mr, c->data + c->posted, n,
			c->view.addr + c->posted, c->view.rkey);

	if (r)
		return fail("ibv_post_send", r);
	c->posted += n;
	return 0;
}

static int drain(struct client *c)
{
	int r = 0;

	while (!r && c->written < c->posted)
		r = reap(c);
	return r;
}

static int give_back(struct client *c, uint32_t type)
{
	struct rc_msg msg = { .type = type, .gen = c->view.gen };
	int r = drain(c);

	c->view.type = 0;
	if (r)
		return r;
	r = rc_send(&c->conn, &msg);
	return r ? fail("server", r) : 0;
}

/* One message of the server's. */
static int listen_to(struct client *c)
{
	struct rc_msg msg;
	int r = rc_recv(&c->conn, &msg);

	if (r <= 0)
		return fail("server", r ? r : -ECONNRESET);
	switch (msg.type) {
	case RC_VIEW:
		if (msg.len < c->len)
			return fail("the file is too short", -ENOSPC);
		c->view = msg;
		return 0;
	case RC_STOP:
		/* A view that was given back already needs no second answer. */
		return c->view.type && msg.gen == c->view.gen ? give_back(c, RC_STOPPED) : 0;
	default:
		return fail("server", -EPROTO);
	}
}

static int write_all(struct client *c)
{
	int r = 0;

	while (!r && c->written < c->len) {
		if (!c->view.type || rc_pending(&c->conn, 0)) {
			r = listen_to(c);
			continue;
		}
		while (!r && c->posted < c->len && (c->posted - c->written) / CHUNK < RC_DEPTH)
			r = post(c);
		if (!r)
			r = reap(c);
	}
	return r;
}

/* The completions said: the data is in the server's memory. Its answer says: it is on the disk. */
static int make_durable(struct client *c)
{
	struct rc_msg msg = { 0 };
	int r = give_back(c, RC_DONE);

	while (!r && msg.type != RC_DONE) {
		r = rc_recv(&c->conn, &msg);
		if (r <= 0)
			return fail("server", r ? r : -ECONNRESET);
		r = 0;	/* a stop that crossed with our message needs no answer any more */
	}
	if (!r && msg.status)
		return fail("the server could not make it durable", msg.status);
	return r;
}

int main(int argc, char **argv)
{
	struct client c = { 0 };
	struct rc_dev dev;
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: write-client HOST PORT < DATA\n");
		return 2;
	}
	if (read_input(&c))
		return 1;
	r = rc_dev_open(&dev);
	if (r)
		return fail("RDMA device", r) != 0;
	c.mr = ibv_reg_mr(dev.pd, c.data, c.len, 0);
	if (!c.mr)
		return fail("ibv_reg_mr", -errno) != 0;
	r = rc_connect(&dev, argv[1], argv[2], &c.conn);
	if (r)
		return fail("connecting", r) != 0;
	r = write_all(&c);
	if (!r)
		r = make_durable(&c);
	if (!r)
		printf("%llu bytes written and durable\n", (unsigned long long)c.len);
	rc_close(&c.conn);
	ibv_dereg_mr(c.mr);
	rc_dev_close(&dev);
	free(c.data);
	return r ? 1 : 0;
}
