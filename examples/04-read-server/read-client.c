/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * read-client HOST PORT > COPY: copies read-server's file by RDMA READ.
 *
 * It reads in turns of at most TURN bytes, so that the server can let a writer in
 * between two of them. A turn of another generation than the one before says that
 * somebody may have changed the file meanwhile: then the copy is begun anew, and so is
 * always one version of the file and never half of two.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/rc.h"

#define CHUNK 65536u		/* bytes a read */
#define TURN  (2u * CHUNK)	/* bytes a turn */

struct client {
	struct rc_dev dev;
	struct rc_conn conn;
	struct ibv_mr *mr;	/* of data */
	char *data;
	uint64_t len, done;
	uint32_t gen, anew;
};

static int fail(const char *what, int r)
{
	fprintf(stderr, "read-client: %s: %s\n", what, strerror(-r));
	return r;
}

static void buffer_free(struct client *c)
{
	if (c->mr)
		ibv_dereg_mr(c->mr);
	free(c->data);
	c->mr = NULL;
	c->data = NULL;
}

static int begin_anew(struct client *c, const struct rc_msg *view)
{
	buffer_free(c);
	c->gen = view->gen;
	c->len = view->len;
	c->done = 0;
	c->anew++;
	c->data = malloc(c->len);
	if (!c->data)
		return fail("copy", -ENOMEM);
	c->mr = ibv_reg_mr(c->dev.pd, c->data, c->len, IBV_ACCESS_LOCAL_WRITE);
	return c->mr ? 0 : fail("ibv_reg_mr", -errno);
}

static int wait_for(struct client *c, unsigned int n)
{
	struct ibv_wc wc;
	int r;

	while (n) {
		r = ibv_poll_cq(c->conn.cq, 1, &wc);
		if (r < 0)
			return fail("ibv_poll_cq", -EIO);
		if (r && wc.status != IBV_WC_SUCCESS) {
			fprintf(stderr, "read-client: connection lost (%s)\n", ibv_wc_status_str(wc.status));
			return -ECONNRESET;
		}
		n -= (unsigned int)r;
	}
	return 0;
}

static int read_turn(struct client *c, const struct rc_msg *view)
{
	uint64_t end = c->len - c->done < TURN ? c->len : c->done + TURN;
	unsigned int posted = 0;
	uint32_t n;
	int r;

	for (; c->done < end; c->done += n) {
		n = end - c->done < CHUNK ? (uint32_t)(end - c->done) : CHUNK;
		r = rc_post(&c->conn, IBV_WR_RDMA_READ, 0, c->mr, c->data + c->done, n, view->addr + c->done,
			    view->rkey);
		if (r)
			return fail("ibv_post_send", r);
		posted++;
	}
	return wait_for(c, posted);
}

static int take_turn(struct client *c)
{
	struct rc_msg ask = { .type = RC_ASK }, view, back = { .type = RC_STOPPED };
	int r = rc_send(&c->conn, &ask);

	if (!r)
		r = rc_recv(&c->conn, &view) == 1 ? 0 : -ECONNRESET;
	if (!r && view.type != RC_VIEW)
		r = -EPROTO;
	if (r)
		return fail("server", r);
	if (!c->data || view.gen != c->gen)
		r = begin_anew(c, &view);
	if (!r)
		r = read_turn(c, &view);
	if (r)
		return r;
	back.gen = view.gen;
	r = rc_send(&c->conn, &back);
	return r ? fail("server", r) : 0;
}

int main(int argc, char **argv)
{
	struct client c = { 0 };
	int r;

	if (argc != 3)
		return fail("usage: read-client HOST PORT > COPY", -EINVAL) != 0;
	r = rc_dev_open(&c.dev);
	if (r)
		return fail("RDMA device", r) != 0;
	r = rc_connect(&c.dev, argv[1], argv[2], &c.conn);
	if (r)
		return fail("connecting", r) != 0;
	while (!r && (!c.data || c.done < c.len))
		r = take_turn(&c);
	if (!r && (fwrite(c.data, 1, c.len, stdout) != c.len || fflush(stdout)))
		r = fail("writing the copy", -errno);
	if (!r)
		fprintf(stderr, "%llu bytes, begun %u times\n", (unsigned long long)c.len, c.anew);
	buffer_free(&c);
	rc_close(&c.conn);
	rc_dev_close(&c.dev);
	return r ? 1 : 0;
}
