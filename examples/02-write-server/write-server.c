/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * write-server FILE PORT: lets clients write FILE by RDMA, and still lets everybody
 * else on this machine truncate, open and replace it.
 *
 * A client's writes are one-sided: this program does not see them. So what is
 * accounted is the permission. pinlease_dma_begin(lease, 1) when a client is given a
 * view, pinlease_dma_end when it has given it back, or when its connection is gone.
 * A break tells the clients to stop; the library waits for the ends, at most until
 * the deadline, fences, and only then lets the file's change go on. The clients get a
 * new view after the restore.
 */
#include <errno.h>
#include <fcntl.h>
#include <pinlease.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/server.h"

static struct pinlease_ctx *ctx;
static struct pinlease_file *file;
static struct pinlease *lease;
static struct server server;

static int fail(const char *what, int r)
{
	fprintf(stderr, "write-server: %s: %s\n", what, strerror(-r));
	return r;
}

static void take_back(struct client *c)
{
	if (c->lent)
		pinlease_dma_end(lease, 1, c->gen);
	c->lent = false;
}

/* rc_close destroys the queue pair, so nothing of the client's is in flight afterwards. */
static void drop(struct client *c)
{
	rc_close(&c->conn);
	take_back(c);
	c->used = false;
	printf("client gone\n");
}

static void say(struct client *c, const struct rc_msg *msg)
{
	if (rc_send(&c->conn, msg))
		drop(c);
}

static void lend(struct client *c)
{
	struct pinlease_view view = { .size = sizeof(view) };
	struct rc_msg msg = { .type = RC_VIEW };

	/* Refused while a break is being answered: RESTORED brings us here again. */
	if (c->lent || c->waits || pinlease_dma_begin(lease, 1, &c->gen))
		return;
	c->lent = true;
	/* The keys are valid between the begin and its end, so they are read after it. */
	if (pinlease_view_get(lease, 0, &view)) {
		take_back(c);
		return;
	}
	msg.gen = c->gen;
	msg.addr = view.iova;
	msg.len = view.len;
	msg.rkey = view.rkey;
	say(c, &msg);
}

static void stop(struct client *c)
{
	struct rc_msg msg = { .type = RC_STOP, .gen = c->gen };

	if (c->lent)
		say(c, &msg);
}

/*
 * For a client that has written all. May block on the disk. A break in the middle is
 * -EAGAIN: tried again when restored.
 */
static void make_durable(struct client *c)
{
	struct rc_msg msg = { .type = RC_DONE };

	if (!c->waits)
		return;
	msg.status = pinlease_sync(lease, 0, 0, 0);
	if (msg.status == -EAGAIN)
		return;
	c->waits = false;
	say(c, &msg);
}

static void client_message(struct client *c)
{
	struct rc_msg msg;

	if (rc_recv(&c->conn, &msg) <= 0) {
		drop(c);
		return;
	}
	switch (msg.type) {
	case RC_STOPPED:
		/* The answer to an older stop ends nothing that was begun since. */
		if (msg.gen == c->gen)
			take_back(c);
		break;
	case RC_DONE:
		take_back(c);
		c->waits = true;
		make_durable(c);
		break;
	default:
		drop(c);
	}
}

/* What could not be written back stays in memory until it is saved, restored over or released. */
static int lost(const struct pinlease_event *ev)
{
	int fd = open("write-server.saved", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	fail("saved in write-server.saved", fd < 0 ? -errno : pinlease_save(lease, fd));
	if (fd >= 0)
		close(fd);
	return fail("lease lost", ev->err);
}

/* 0, or why the server cannot go on. */
static int events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(ctx, &ev) == 1) {
		switch (ev.type) {
		case PINLEASE_EV_BREAK:
			printf("break: telling the clients to stop\n");
			server_each(&server, stop);
			break;
		case PINLEASE_EV_REVOKED:
			printf("revoked: %llu clients cut off\n", (unsigned long long)ev.in_flight);
			break;
		case PINLEASE_EV_RESTORED:
			printf("restored: %llu bytes\n", (unsigned long long)ev.len);
			server_each(&server, make_durable);
			server_each(&server, lend);
			break;
		case PINLEASE_EV_RESTORE_FAILED:
			return fail("the lease does not come back", ev.err);
		case PINLEASE_EV_LOST:
			return lost(&ev);
		default:
			break;	/* NOTICE: renamed or replaced; the lease is on the old file still */
		}
	}
	return 0;
}

static int lease_file(const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_why why = { 0 };
	struct stat st;
	int r;

	if (stat(path, &st))
		return fail(path, -errno);
	r = pinlease_ctx_new(NULL, &ctx);
	if (r)
		return fail("pinlease_ctx_new", r);
	r = pinlease_file_open(ctx, path, NULL, &why, &file);
	if (r)
		return fail(pinlease_reason_str(why.reason), r);
	opts.pd = server.dev.pd;
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
	int r, released;

	if (argc != 3)
		return fail("usage: write-server FILE PORT", -EINVAL) != 0;
	setlinebuf(stdout);
	server = (struct server){ .events = events, .connected = lend, .message = client_message };
	r = server_open(&server, argv[2]);
	if (r)
		return fail("device, signalfd or port", r) != 0;
	r = lease_file(argv[1]);
	if (!r) {
		printf("ready\n");
		r = server_run(&server, pinlease_ctx_fd(ctx));
	}
	/* From the lease outwards; each takes NULL. release writes back what only staged memory holds. */
	server_each(&server, drop);
	released = pinlease_release(lease);
	if (released)
		fail("the file does not hold all that was written", released);
	pinlease_file_close(file);
	pinlease_ctx_free(ctx);
	server_close(&server);
	return r || released ? 1 : 0;
}
