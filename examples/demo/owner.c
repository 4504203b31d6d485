/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * demo-owner PATH PORT DEADLINE_MS: the owner of the file, with the library.
 *
 * It leases the file for writing and lets one peer write into it. L_ACK: at a break the
 * peer is told to stop, and pinlease_ack is called when it answers, which keeps the
 * connection. When it does not answer, the library does not wait for longer than the
 * deadline. End of file on stdin ends it.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <pinlease.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/rc.h"
#include "tell.h"

static struct rc_dev dev;
static struct rc_conn peer;
static bool peer_there;
static struct pinlease_ctx *ctx;
static struct pinlease_file *file;
static struct pinlease *lease;

/*
 * Two moments that only the library sees: the fence, and the one before it calls
 * F_UNLCK. It logs both, from its own threads, when they come.
 */
static void on_log(void *arg, int level, const char *msg)
{
	uint64_t ns = now_ns();

	(void)arg;
	if (strstr(msg, ": letting go"))
		tell_at(ns, "let_go");
	else if (strstr(msg, ": fenced"))
		tell_at(ns, "fenced");
	else if (level <= 4)
		tell_at(ns, "warning %s", msg);
}

static void refused(const char *what, int r, const struct pinlease_why *why)
{
	tell("failed %s: %s", what, pinlease_reason_str(why->reason));
	exit(r ? 1 : 2);
}

static const char *mode_name(uint32_t mode)
{
	switch (mode) {
	case PINLEASE_MODE_PINNED:
		return "pinned";
	case PINLEASE_MODE_ODP:
		return "odp";
	case PINLEASE_MODE_STAGED:
		return "staged";
	default:
		return "unknown";
	}
}

static const char *guard_name(uint32_t guard)
{
	switch (guard) {
	case PINLEASE_GUARD_LEASE:
		return "lease";
	case PINLEASE_GUARD_NONE:
		return "none";
	default:
		return "unknown";
	}
}

static void take_lease(const char *path, uint32_t deadline_ms)
{
	struct pinlease_ctx_opts copts = { .size = sizeof(copts), .log = on_log };
	struct pinlease_opts opts = { .size = sizeof(opts), .pd = dev.pd, .flags = PINLEASE_L_ACK,
				      .deadline_ms = deadline_ms, .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_why why = { 0 };
	struct stat st;
	int r;

	if (stat(path, &st))
		give_up(path, errno);
	r = pinlease_ctx_new(&copts, &ctx);
	if (r)
		give_up("pinlease_ctx_new", r);
	r = pinlease_file_open(ctx, path, NULL, &why, &file);
	if (r)
		refused("pinlease_file_open", r, &why);
	r = pinlease_acquire(file, 0, (uint64_t)st.st_size, &opts, &why, &lease);
	if (r)
		refused("pinlease_acquire", r, &why);
	r = pinlease_lease_info(lease, &info);
	if (r)
		give_up("pinlease_lease_info", r);
	tell("leased %s %s %s", mode_name(info.mode), guard_name(info.guard),
	     pinlease_reason_str(info.mode_reason));
}

static void peer_gone(void)
{
	rc_close(&peer);
	peer_there = false;
	tell("peer_gone");
}

static void send_to_peer(uint32_t type, uint32_t gen)
{
	struct rc_msg msg = { .type = type, .gen = gen };

	if (peer_there && rc_send(&peer, &msg))
		peer_gone();
}

static void send_view(void)
{
	struct pinlease_view view = { .size = sizeof(view) };
	struct rc_msg msg = { .type = RC_VIEW };
	int r = pinlease_view_get(lease, 0, &view);

	/* Broken again already: the next restore sends the next view. */
	if (r == -EAGAIN || !peer_there)
		return;
	if (r)
		give_up("pinlease_view_get", r);
	msg.gen = view.gen;
	msg.addr = view.iova;
	msg.len = view.len;
	msg.rkey = view.rkey;
	if (rc_send(&peer, &msg))
		peer_gone();
}

static void on_event(const struct pinlease_event *ev)
{
	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		tell("break %s", ev->cause == PINLEASE_BY_READER ? "reader" : "writer");
		send_to_peer(RC_STOP, ev->gen);
		break;
	case PINLEASE_EV_REVOKED:
		tell("revoked");
		break;
	case PINLEASE_EV_RESTORED:
		tell("restored %llu", (unsigned long long)ev->len);
		send_view();
		break;
	case PINLEASE_EV_RESTORE_FAILED:
		give_up("restore", ev->err);
	case PINLEASE_EV_LOST:
		give_up("lease lost", ev->err);
	default:
		break;
	}
}

static void on_peer(void)
{
	struct rc_msg msg;
	int r;

	if (rc_recv(&peer, &msg) <= 0) {
		peer_gone();
		return;
	}
	if (msg.type != RC_STOPPED)
		return;
	r = pinlease_ack(lease, msg.gen);
	if (r)
		give_up("pinlease_ack", r);
}

static void serve(void)
{
	struct pollfd fds[3] = {
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = pinlease_ctx_fd(ctx), .events = POLLIN },
		{ .events = POLLIN },
	};
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (!fds[0].revents) {
		fds[2].fd = peer_there ? peer.sock : -1;
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			give_up("poll", errno);
		while (pinlease_ctx_next_event(ctx, &ev) == 1)
			on_event(&ev);
		if (fds[2].revents && peer_there)
			on_peer();
	}
}

/* The peer answers when nothing is in flight any more. */
static void dismiss_peer(void)
{
	struct rc_msg msg = { 0 };

	send_to_peer(RC_DONE, 0);
	while (peer_there && msg.type != RC_DONE)
		if (rc_recv(&peer, &msg) <= 0)
			peer_gone();
}

int main(int argc, char **argv)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };
	int r, listener;

	if (argc != 4)
		give_up("usage: demo-owner PATH PORT DEADLINE_MS", EINVAL);
	r = rc_dev_open(&dev);
	if (r)
		give_up("RDMA device", r);
	listener = rc_listen(argv[2]);
	if (listener < 0)
		give_up("listening", listener);
	take_lease(argv[1], (uint32_t)strtoul(argv[3], NULL, 10));
	tell("ready");
	r = rc_accept(&dev, listener, &peer);
	if (r)
		give_up("the peer's connection", r);
	peer_there = true;
	send_view();
	serve();
	dismiss_peer();
	r = pinlease_lease_info(lease, &info);
	if (r)
		give_up("pinlease_lease_info", r);
	tell("breaks %llu", (unsigned long long)info.breaks);
	r = pinlease_release(lease);
	if (r)
		give_up("pinlease_release", r);
	if (pinlease_file_close(file) || pinlease_ctx_free(ctx))
		give_up("the lease is still there", EBUSY);
	rc_close(&peer);
	rc_dev_close(&dev);
	return 0;
}
