/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * demo-peer PORT LOG [deaf]: streams RDMA writes into what the owner shows it, all
 * over the file, each write full of its own sequence number, and logs every successful
 * one. Told to stop, it polls until nothing is in flight and answers; a deaf one goes
 * on writing until its connection breaks. It does not know the library.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rc.h"
#include "tell.h"

#define TELL_EVERY 1024	 /* acknowledged writes a line */
#define LOOK_EVERY 8	 /* polls of the completion queue a look at the socket */
#define LOG_BUFFER (1u << 20)
#define STRIDE	   2531		 /* slots: a prime, so all are written in turn, all over the file */

struct flight {
	uint64_t seq, slot;
};

struct peer {
	struct rc_dev dev;
	struct rc_conn conn;
	struct ibv_mr *mr;
	FILE *log;
	bool deaf, lost;
	struct rc_msg view;		/* type RC_VIEW while we may write */
	uint64_t seq, acked;		/* last one posted; how many succeeded */
	uint64_t next;			/* slot */
	unsigned int posted, completed;	/* RC completes in order */
	struct flight flight[RC_DEPTH];
	uint64_t words[RC_DEPTH][DEMO_SLOT / sizeof(uint64_t)];
};

static void post_one(struct peer *p)
{
	unsigned int i, at = p->posted % RC_DEPTH;
	struct flight *f = &p->flight[at];
	int r;

	f->seq = ++p->seq;
	f->slot = p->next++ * STRIDE % (p->view.len / DEMO_SLOT);
	for (i = 0; i < DEMO_SLOT / sizeof(uint64_t); i++)
		p->words[at][i] = demo_word(f->seq, f->slot);
	r = rc_post(&p->conn, IBV_WR_RDMA_WRITE, 0, p->mr, p->words[at], DEMO_SLOT,
		    p->view.addr + f->slot * DEMO_SLOT, p->view.rkey);
	if (r)
		give_up("ibv_post_send", r);
	p->posted++;
}

static void completed_one(struct peer *p, const struct ibv_wc *wc, uint64_t polled_ns)
{
	struct flight *f = &p->flight[p->completed++ % RC_DEPTH];
	struct demo_acked rec = { .seq = f->seq, .slot = f->slot, .polled_ns = polled_ns };

	if (wc->status != IBV_WC_SUCCESS) {
		/* The first one says why; the others were flushed. */
		if (!p->lost)
			tell("lost %s", ibv_wc_status_str(wc->status));
		p->lost = true;
		return;
	}
	if (fwrite(&rec, sizeof(rec), 1, p->log) != 1)
		give_up("log", errno);
	if (++p->acked % TELL_EVERY == 0)
		tell("acked %llu", (unsigned long long)p->acked);
}

static void poll_some(struct peer *p)
{
	struct ibv_wc wc[RC_DEPTH];
	int i, n = ibv_poll_cq(p->conn.cq, RC_DEPTH, wc);
	uint64_t ns = now_ns();

	if (n < 0)
		give_up("ibv_poll_cq", EIO);
	for (i = 0; i < n; i++)
		completed_one(p, &wc[i], ns);
}

static void drain(struct peer *p)
{
	while (p->completed != p->posted)
		poll_some(p);
}

static void answer(struct peer *p, uint32_t type)
{
	struct rc_msg msg = { .type = type, .gen = p->view.gen };
	int r;

	drain(p);
	if (p->lost)
		return;
	p->view.type = 0;
	if (type == RC_STOPPED)
		tell("drained");
	r = rc_send(&p->conn, &msg);
	if (r)
		give_up("the owner", r);
}

/* One message; false at the last one. */
static bool listen_to_owner(struct peer *p)
{
	struct rc_msg msg;

	if (rc_recv(&p->conn, &msg) <= 0)
		give_up("the owner", EPIPE);
	switch (msg.type) {
	case RC_VIEW:
		p->view = msg;
		return true;
	case RC_STOP:
		if (p->deaf)
			tell("deaf");
		else if (p->view.type && msg.gen == p->view.gen)
			answer(p, RC_STOPPED);
		return true;
	case RC_DONE:
		answer(p, RC_DONE);
		return false;
	default:
		give_up("the owner", EPROTO);
	}
}

static void stream(struct peer *p)
{
	unsigned int polls = 0;
	bool more = true;

	while (more && !p->lost) {
		/* Without a view there is nothing to do but to wait for the owner's next word. */
		if (!p->view.type || (++polls % LOOK_EVERY == 0 && rc_pending(&p->conn, 0))) {
			more = listen_to_owner(p);
			continue;
		}
		while (p->posted - p->completed < RC_DEPTH)
			post_one(p);
		poll_some(p);
	}
	drain(p);
}

static void open_log(struct peer *p, const char *path)
{
	p->log = fopen(path, "w");
	if (!p->log)
		give_up(path, errno);
	setvbuf(p->log, NULL, _IOFBF, LOG_BUFFER);
}

int main(int argc, char **argv)
{
	struct peer *p = calloc(1, sizeof(*p));
	int r;

	if (argc < 3 || !p)
		give_up("usage: demo-peer PORT LOG [deaf]", EINVAL);
	p->deaf = argc > 3 && !strcmp(argv[3], "deaf");
	open_log(p, argv[2]);
	r = rc_dev_open(&p->dev);
	if (r)
		give_up("RDMA device", r);
	p->mr = ibv_reg_mr(p->dev.pd, p->words, sizeof(p->words), 0);
	if (!p->mr)
		give_up("ibv_reg_mr", errno);
	r = rc_connect(&p->dev, "127.0.0.1", argv[1], &p->conn);
	if (r)
		give_up("connecting", r);
	stream(p);
	tell("end %s %llu", p->lost ? "lost" : "kept", (unsigned long long)p->acked);
	if (fclose(p->log))
		give_up("log", errno);
	rc_close(&p->conn);
	ibv_dereg_mr(p->mr);
	rc_dev_close(&p->dev);
	free(p);
	return 0;
}
