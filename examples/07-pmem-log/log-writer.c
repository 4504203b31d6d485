/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log-writer HOST PORT < LINES: appends each line to log-server's log, over RDMA.
 *
 * A record is one RDMA WRITE to the end of the log, and an RDMA READ of it behind that:
 * when the READ has completed, the record is in the server's memory, which the completion
 * of the WRITE does not promise on every adapter. Then the server is told where, and
 * answers when it is durable. One record at a time, so that the next one's place is known.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/rc.h"
#include "log.h"

#define ROOM (sizeof(struct log_record) + LOG_TEXT_MAX + 8)

static struct rc_conn conn;
static struct ibv_mr *mr;
static _Alignas(8) char record[ROOM + 8]; /* and, behind it, what the READ brings back */
static struct rc_msg view; /* type RC_VIEW while we hold it */
static uint64_t end;	   /* of what is durable */
static bool answered;	   /* the server has said so, of the last record */

static int fail(const char *what, int r)
{
	fprintf(stderr, "log-writer: %s: %s\n", what, strerror(-r));
	return r;
}

static int listen_once(void)
{
	struct rc_msg msg;
	int r = rc_recv(&conn, &msg);

	if (r <= 0)
		return fail("server", r ? r : -ECONNRESET);
	switch (msg.type) {
	case RC_VIEW:
		view = msg;
		return 0;
	case RC_STOP:
		/* Nothing is in flight between two records. */
		if (!view.type || msg.gen != view.gen)
			return 0;
		msg = (struct rc_msg){ .type = RC_STOPPED, .gen = view.gen };
		view.type = 0;
		return rc_send(&conn, &msg);
	case RC_DONE:
		answered = true;
		end = msg.addr;
		return msg.status ? fail("the server could not make it durable", msg.status) : 0;
	default:
		return fail("server", -EPROTO);
	}
}

static int completed(void)
{
	struct ibv_wc wc;
	int n;

	do
		n = ibv_poll_cq(conn.cq, 1, &wc);
	while (!n);
	return n < 0 ? -EIO : wc.status ? fail(ibv_wc_status_str(wc.status), -EIO) : 0;
}

static int append(const char *text, uint32_t len)
{
	struct rc_msg msg = { .type = RC_DONE, .addr = end, .len = log_size(len) };
	uint64_t remote;
	int r = 0;

	while (!r && (!view.type || rc_pending(&conn, 0)))
		r = listen_once();
	if (r)
		return r;
	if (end + log_size(len) > view.len)
		return fail("the log", -ENOSPC);
	log_make((void *)record, end, text, len);
	remote = view.addr + end;
	r = rc_post(&conn, IBV_WR_RDMA_WRITE, 1, mr, record, (uint32_t)msg.len, remote, view.rkey);
	remote += msg.len - 8;
	if (!r)
		r = rc_post(&conn, IBV_WR_RDMA_READ, 2, mr, record + ROOM, 8, remote, view.rkey);
	if (!r)
		r = completed();
	if (!r)
		r = completed();
	answered = false;
	if (!r)
		r = rc_send(&conn, &msg);
	while (!r && !answered)
		r = listen_once();
	return r;
}

int main(int argc, char **argv)
{
	static char line[LOG_TEXT_MAX];
	struct rc_dev dev;
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: log-writer HOST PORT < LINES\n");
		return 2;
	}
	setlinebuf(stdout);
	r = rc_dev_open(&dev);
	if (r)
		return fail("RDMA device", r) != 0;
	mr = ibv_reg_mr(dev.pd, record, sizeof(record), IBV_ACCESS_LOCAL_WRITE);
	if (!mr)
		return fail("ibv_reg_mr", -errno) != 0;
	r = rc_connect(&dev, argv[1], argv[2], &conn);
	if (r)
		return fail("connecting", r) != 0;
	while (!r && !answered)
		r = listen_once();
	while (!r && fgets(line, sizeof(line), stdin)) {
		r = append(line, (uint32_t)strcspn(line, "\n"));
		if (!r)
			printf("durable: %" PRIu64 " bytes\n", end);
	}
	rc_close(&conn);
	ibv_dereg_mr(mr);
	rc_dev_close(&dev);
	return r != 0;
}
