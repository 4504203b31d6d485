/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log-server FILE PORT: a log that one peer at a time appends to by RDMA (log-writer is one).
 * A record is acknowledged when it is durable, and not before: what was acknowledged is
 * there after a power cut, and after this program was killed.
 *
 * The peer says which bytes it has written, so the lease is PINLEASE_L_DIRTY_TOLD: where the
 * device cannot reach the file itself, a record costs the writing of its own pages only. A
 * break in the middle is answered as in example 02; the peer gets a new view afterwards.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pinlease.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/rc.h"
#include "log.h"

static struct rc_dev dev;
static struct pinlease_ctx *ctx;
static struct pinlease_file *file;
static struct pinlease *lease;
static uint64_t end;		 /* of what is durable */
static uint64_t written;	 /* bytes behind it that are waiting to be */
static struct rc_conn conn;
static bool connected, lent;	 /* lent: the peer has a view, and so one dma_begin is open */
static uint32_t gen;		 /* of that begin */

static int fail(const char *what, int r)
{
	fprintf(stderr, "log-server: %s: %s\n", what, strerror(-r));
	return r;
}

static void take_back(void)
{
	if (lent)
		pinlease_dma_end(lease, 1, gen);
	lent = false;
}

/* rc_close destroys the queue pair: nothing of the peer's is in flight when it has returned. */
static void drop(void)
{
	if (!connected)
		return;
	rc_close(&conn);
	take_back();
	connected = false;
	written = 0;
	printf("client gone\n");
}

static void say(const struct rc_msg *msg)
{
	if (connected && rc_send(&conn, msg))
		drop();
}

static void lend(void)
{
	struct pinlease_view view = { .size = sizeof(view) };
	struct rc_msg msg = { .type = RC_VIEW };

	if (!connected || lent || pinlease_dma_begin(lease, 1, &gen))
		return;
	lent = true;
	if (pinlease_view_get(lease, 0, &view)) {
		take_back();
		return;
	}
	msg.gen = gen;
	msg.addr = view.iova;
	msg.len = view.len;
	msg.rkey = view.rkey;
	say(&msg);
}

/* A break in the middle is -EAGAIN: the record was told of, is written back, and synced after the restore. */
static void make_durable(void)
{
	struct rc_msg msg = { .type = RC_DONE };

	if (!written)
		return;
	msg.status = pinlease_sync(lease, end, written, 0);
	if (msg.status == -EAGAIN)
		return;
	if (!msg.status)
		end += written;
	written = 0;
	msg.addr = end;
	say(&msg);
}

/* The view is the peer's until it gives it back, so the memory may be looked at here. */
static void record_written(const struct rc_msg *msg)
{
	struct pinlease_view view = { .size = sizeof(view) };

	if (!lent || written || msg->addr != end || pinlease_mark_dirty(lease, msg->addr, msg->len)) {
		drop();
		return;
	}
	if (!pinlease_view_get(lease, 0, &view) && !log_whole(view.addr, view.len, end)) {
		drop();
		return;
	}
	written = msg->len;
	make_durable();
}

static void client_message(void)
{
	struct rc_msg msg;

	if (rc_recv(&conn, &msg) <= 0)
		drop();
	else if (msg.type == RC_DONE)
		record_written(&msg);
	else if (msg.type == RC_STOPPED && msg.gen == gen)
		take_back();
}

static void client_new(int listener)
{
	struct rc_msg msg = { .type = RC_DONE, .addr = end };

	if (rc_accept(&dev, listener, &conn))
		return;
	connected = true;
	printf("client connected\n");
	say(&msg);
	lend();
}

static int events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct rc_msg stop = { .type = RC_STOP };

	while (pinlease_ctx_next_event(ctx, &ev) == 1) {
		switch (ev.type) {
		case PINLEASE_EV_BREAK:
			printf("break\n");
			stop.gen = gen;
			if (lent)
				say(&stop);
			break;
		case PINLEASE_EV_REVOKED:
			printf("revoked: %" PRIu64 " clients cut off\n", ev.in_flight);
			break;
		case PINLEASE_EV_RESTORED:
			printf("restored: %" PRIu64 " bytes\n", ev.len);
			make_durable();
			lend();
			break;
		case PINLEASE_EV_RESTORE_FAILED:
		case PINLEASE_EV_LOST:
			return fail("the lease does not come back", ev.err);
		default:
			break;
		}
	}
	return 0;
}

static int serve(int listener, int signals)
{
	struct pollfd fds[3];
	int r = 0;

	fds[0] = (struct pollfd){ .fd = signals, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = pinlease_ctx_fd(ctx), .events = POLLIN };
	while (!r) {
		fds[2] = (struct pollfd){ .fd = connected ? conn.sock : listener, .events = POLLIN };
		if (poll(fds, 3, -1) < 0)
			return fail("poll", -errno);
		if (fds[0].revents)
			return 0;
		if (fds[1].revents)
			r = events();
		if (!fds[2].revents)
			continue;
		if (fds[2].fd == listener)
			client_new(listener);
		else if (connected)
			client_message();
	}
	return r;
}

static int lease_file(const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .flags = PINLEASE_L_DIRTY_TOLD };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_view view = { .size = sizeof(view) };
	struct pinlease_why why = { 0 };
	uint64_t size;
	int r = log_space(path, &size);

	if (r)
		return fail(path, r);
	r = pinlease_ctx_new(NULL, &ctx);
	if (r)
		return fail("pinlease_ctx_new", r);
	r = pinlease_file_open(ctx, path, NULL, &why, &file);
	if (r)
		return fail(pinlease_reason_str(why.reason), r);
	opts.pd = dev.pd;
	opts.ibv_access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
	r = pinlease_acquire(file, 0, size, &opts, &why, &lease);
	if (r)
		return fail(pinlease_reason_str(why.reason), r);
	r = pinlease_view_get(lease, 0, &view);
	if (!r)
		r = pinlease_lease_info(lease, &info);
	if (r)
		return fail("view", r);
	end = log_end(view.addr, view.len);
	printf("%s (%s), log of %" PRIu64 " bytes\n",
	       info.mode == PINLEASE_MODE_STAGED ? "staged" : "in place",
	       pinlease_reason_str(info.mode_reason), end);
	return 0;
}

int main(int argc, char **argv)
{
	int r, listener, signals;
	sigset_t set;

	if (argc != 3)
		return fail("usage: log-server FILE PORT", -EINVAL) != 0;
	setlinebuf(stdout);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	listener = rc_listen(argv[2]);
	r = rc_dev_open(&dev);
	if (r || signals < 0 || listener < 0)
		return fail("device, signalfd or port", r ? r : listener < 0 ? listener : -errno) != 0;
	r = lease_file(argv[1]);
	if (!r) {
		printf("ready\n");
		r = serve(listener, signals);
	}
	drop();
	pinlease_release(lease);
	pinlease_file_close(file);
	pinlease_ctx_free(ctx);
	rc_dev_close(&dev);
	return r != 0;
}
