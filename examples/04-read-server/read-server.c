/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * read-server FILE PORT: serves FILE read-only over RDMA READ.
 *
 * A client asks for a turn, gets a view, reads, and gives the turn back. A turn is
 * short, so nobody has to be told to stop: pinlease_dma_begin opens a turn and
 * pinlease_dma_end closes it; while somebody changes the file, begin answers -EAGAIN
 * and the clients that ask wait for RESTORED. A turn that never ends is cut off at
 * the deadline.
 *
 * The file is opened for PINLEASE_READ: the guard is a read lease, which any number of
 * processes can hold beside any number of readers. Only a writer breaks it.
 */
#include <errno.h>
#include <pinlease.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/server.h"

#define DEADLINE_MS 1000

static struct pinlease_ctx *ctx;
static struct pinlease_file *file;
static struct pinlease *lease;
static struct server server;

static int fail(const char *what, int r)
{
	fprintf(stderr, "read-server: %s: %s\n", what, strerror(-r));
	return r;
}

static void turn_end(struct client *c)
{
	if (c->lent)
		pinlease_dma_end(lease, 1, c->gen);
	c->lent = false;
}

/* rc_close destroys the queue pair: then no read of this client's is in flight. */
static void drop(struct client *c)
{
	rc_close(&c->conn);
	turn_end(c);
	*c = (struct client){ 0 };
}

static void turn_begin(struct client *c)
{
	struct pinlease_view view = { .size = sizeof(view) };
	struct rc_msg msg = { .type = RC_VIEW };

	if (!c->waits || c->lent || pinlease_dma_begin(lease, 1, &c->gen))
		return;
	c->lent = true;
	if (pinlease_view_get(lease, 0, &view)) {
		turn_end(c);
		return;
	}
	c->waits = false;
	msg.gen = c->gen;
	msg.addr = view.iova;
	msg.len = view.len;
	msg.rkey = view.rkey;
	if (rc_send(&c->conn, &msg))
		drop(c);
}

static void client_message(struct client *c)
{
	struct rc_msg msg;

	if (rc_recv(&c->conn, &msg) <= 0) {
		drop(c);
		return;
	}
	switch (msg.type) {
	case RC_ASK:
		c->waits = true;
		turn_begin(c);
		break;
	case RC_STOPPED:
		turn_end(c);
		break;
	default:
		drop(c);
	}
}

/* 0, or why the server cannot go on. */
static int events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(ctx, &ev) == 1) {
		switch (ev.type) {
		case PINLEASE_EV_BREAK:
			printf("break: no more turns\n");
			break;
		case PINLEASE_EV_REVOKED:
			printf("revoked: %llu turns cut off\n", (unsigned long long)ev.in_flight);
			break;
		case PINLEASE_EV_RESTORED:
			printf("restored: %llu bytes\n", (unsigned long long)ev.len);
			server_each(&server, turn_begin);
			break;
		case PINLEASE_EV_RESTORE_FAILED:
		case PINLEASE_EV_LOST:
			return fail("the lease does not come back", ev.err);
		default:
			break;	/* NOTICE: renamed or replaced; the lease is on the old file still */
		}
	}
	return 0;
}

static int lease_file(const char *path)
{
	struct pinlease_file_opts fopts = { .size = sizeof(fopts), .access = PINLEASE_READ };
	struct pinlease_opts opts = { .size = sizeof(opts), .pd = server.dev.pd, .deadline_ms = DEADLINE_MS,
				      .ibv_access = IBV_ACCESS_REMOTE_READ };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_why why = { 0 };
	struct stat st;
	int r;

	if (stat(path, &st))
		return fail(path, -errno);
	r = pinlease_ctx_new(NULL, &ctx);
	if (r)
		return fail("pinlease_ctx_new", r);
	r = pinlease_file_open(ctx, path, &fopts, &why, &file);
	if (r)
		return fail(pinlease_reason_str(why.reason), r);
	r = pinlease_acquire(file, 0, (uint64_t)st.st_size, &opts, &why, &lease);
	if (!r)
		r = pinlease_lease_info(lease, &info);
	if (r)
		return fail(pinlease_reason_str(why.reason), r);
	printf("%s (%s)\n", info.mode == PINLEASE_MODE_STAGED ? "staged" : "in place",
	       pinlease_reason_str(info.mode_reason));
	return 0;
}

int main(int argc, char **argv)
{
	int r;

	if (argc != 3)
		return fail("usage: read-server FILE PORT", -EINVAL) != 0;
	setlinebuf(stdout);
	server = (struct server){ .events = events, .message = client_message };
	r = server_open(&server, argv[2]);
	if (r)
		return fail("device, signalfd or port", r) != 0;
	r = lease_file(argv[1]);
	if (!r) {
		printf("ready\n");
		r = server_run(&server, pinlease_ctx_fd(ctx));
	}
	/* From the lease outwards; each takes NULL. */
	server_each(&server, drop);
	if (pinlease_release(lease) || pinlease_file_close(file) || pinlease_ctx_free(ctx))
		r = fail("the lease is still there", -EBUSY);
	server_close(&server);
	return r ? 1 : 0;
}
