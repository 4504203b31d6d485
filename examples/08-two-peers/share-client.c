/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * share-client HOST PORT LETTER: writes blocks of LETTER into share-server's file, round and
 * round, until SIGTERM.
 *
 * All that it knows of leases is a pinlease_peer: begin before a write is posted, end when it has
 * completed, and what comes from the owner is given to it. It keeps its connection over breaks,
 * because it never writes by a key that has been taken back.
 */
#include <ctype.h>
#include <errno.h>
#include <pinlease/peers.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/rc.h"

#define BLOCK 4096u

static char block[BLOCK] __attribute__((aligned(4096)));

struct client {
	struct rc_conn conn;
	struct ibv_mr *mr; /* of block */
	struct pinlease_peer *peer;
	uint64_t at, first; /* place of the next block; of the first one */
	uint64_t begun, written, recalls;
	uint64_t before; /* begun before the last recall */
};

static volatile sig_atomic_t ending;

static void end(int signal)
{
	(void)signal;
	ending = 1;
}

static int fail(const char *what, int r)
{
	fprintf(stderr, "share-client: %s: %s\n", what, strerror(-r));
	return r;
}

/* RETURNED, if that is due and nothing is in flight any more. */
static int give_back(struct client *c)
{
	char buf[PINLEASE_MESSAGE_MAX];
	int n = pinlease_peer_answer(c->peer, buf, sizeof(buf));

	if (n == -EAGAIN || !n)
		return 0;
	return n < 0 ? n : rc_send_bytes(&c->conn, buf, (size_t)n);
}

/* A message of the owner's: the descriptor first, then what is for the peer. */
static int listen_to(struct client *c)
{
	char buf[PINLEASE_MESSAGE_MAX];
	int n = rc_recv_bytes(&c->conn, buf, sizeof(buf)), r;

	if (n <= 0)
		return n ? n : -ECONNRESET;
	if (!c->peer)
		return pinlease_peer_attach(buf, (size_t)n, &c->peer);
	r = pinlease_peer_message(c->peer, buf, (size_t)n);
	if (r != 1)
		return r;
	c->recalls++;
	c->before = c->begun;
	return give_back(c);
}

/* The low half of wr_id is the generation that the write began in. */
static int reap(struct client *c)
{
	struct ibv_wc wc[RC_DEPTH];
	int i, n = ibv_poll_cq(c->conn.cq, RC_DEPTH, wc), r = 0;

	for (i = 0; i < n && !r; i++) {
		r = pinlease_peer_end(c->peer, (uint32_t)wc[i].wr_id, wc[i].status == IBV_WC_SUCCESS);
		if (wc[i].status != IBV_WC_SUCCESS)
			return fail(ibv_wc_status_str(wc[i].status), -ECONNRESET);
		c->written++;
		if (r == 1)
			r = give_back(c);
	}
	return n < 0 ? -EIO : r;
}

/* -EAGAIN: recalled. At the end of the range (-ERANGE) it begins anew. */
static int post(struct client *c)
{
	struct pinlease_peer_key key = { .size = sizeof(key) };
	int r = pinlease_peer_begin(c->peer, PINLEASE_WRITE, c->at, BLOCK, &key);

	if (r == -ERANGE && c->at != c->first) {
		c->at = c->first;
		return 0;
	}
	if (r)
		return r;
	r = rc_post(&c->conn, IBV_WR_RDMA_WRITE, key.gen, c->mr, block, BLOCK, key.addr, key.rkey);
	if (r) {
		pinlease_peer_end(c->peer, key.gen, 0);
		return r;
	}
	c->begun++;
	c->at += 2 * BLOCK;
	return 0;
}

/* To the end of what is in flight; a break before that is seen through, and at least one write behind it. */
static int run(struct client *c)
{
	bool recalled = false;
	int r = 0;

	while (!r && (!ending || c->begun > c->written || c->written <= c->before)) {
		/* With nothing to do, it waits for the owner's word. */
		if (!c->peer || rc_pending(&c->conn, recalled && c->begun == c->written ? 100 : 0) == 1) {
			r = listen_to(c);
			recalled = false;
			continue;
		}
		while (!recalled && (!ending || c->begun == c->before) && c->begun - c->written < RC_DEPTH &&
		       !r) {
			r = post(c);
			recalled = r == -EAGAIN;
			r = recalled ? 0 : r;
		}
		if (!r)
			r = reap(c);
	}
	return r;
}

int main(int argc, char **argv)
{
	struct client c = { .written = 0 };
	struct rc_dev dev;
	int r;

	if (argc != 4 || !isalpha((unsigned char)argv[3][0])) {
		fprintf(stderr, "usage: share-client HOST PORT LETTER\n");
		return 2;
	}
	memset(block, argv[3][0], sizeof(block));
	c.at = c.first = isupper((unsigned char)argv[3][0]) ? 0 : BLOCK;
	r = rc_dev_open(&dev);
	if (r)
		return fail("RDMA device", r) != 0;
	c.mr = ibv_reg_mr(dev.pd, block, sizeof(block), 0);
	if (!c.mr)
		return fail("ibv_reg_mr", -errno) != 0;
	r = rc_connect(&dev, argv[1], argv[2], &c.conn);
	if (r)
		return fail("connecting", r) != 0;
	signal(SIGTERM, end);
	r = run(&c);
	if (r)
		fail("writing", r);
	printf("%s: %llu blocks written, %llu recalls, %llu blocks since\n", argv[3],
	       (unsigned long long)c.written, (unsigned long long)c.recalls,
	       (unsigned long long)(r ? 0 : c.written - c.before));
	pinlease_peer_detach(c.peer);
	rc_close(&c.conn);
	ibv_dereg_mr(c.mr);
	rc_dev_close(&dev);
	return r ? 1 : 0;
}
