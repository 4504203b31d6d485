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
#include <poll.h>
#include <pinlease.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/rc.h"

#define MAX_CLIENTS 8

struct client {
	struct rc_conn conn;
	bool used;
	bool lent;	/* it has a view, and so one dma_begin is open */
	bool done;	/* it has written all and waits to hear that it is on the disk */
	uint32_t gen;	/* of that begin */
};

static struct rc_dev dev;
static struct pinlease_ctx *ctx;
static struct pinlease_file *file;
static struct pinlease *lease;
static struct client clients[MAX_CLIENTS];

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
	if (c->lent || c->done || pinlease_dma_begin(lease, 1, &c->gen))
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

/* May block on the disk. A break in the middle is -EAGAIN: tried again when restored. */
static void make_durable(struct client *c)
{
	struct rc_msg msg = { .type = RC_DONE };

	if (!c->done)
		return;
	msg.status = pinlease_sync(lease, 0, 0, 0);
	if (msg.status == -EAGAIN)
		return;
	c->done = false;
	say(c, &msg);
}

static void for_each_client(void (*fn)(struct client *c))
{
	struct client *c;

	for (c = clients; c < clients + MAX_CLIENTS; c++)
		if (c->used)
			fn(c);
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
		c->done = true;
		make_durable(c);
		break;
	default:
		drop(c);
	}
}

static struct client *client_free(void)
{
	struct client *c;

	for (c = clients; c < clients + MAX_CLIENTS; c++)
		if (!c->used)
			return c;
	return NULL;
}

static void client_new(struct client *c, int listener)
{
	int r = rc_accept(&dev, listener, &c->conn);

	if (r) {
		fail("a client that could not connect", r);
		return;
	}
	c->used = true;
	c->done = false;
	printf("client connected\n");
	lend(c);
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
			for_each_client(stop);
			break;
		case PINLEASE_EV_REVOKED:
			printf("revoked: %llu clients cut off\n", (unsigned long long)ev.in_flight);
			break;
		case PINLEASE_EV_RESTORED:
			printf("restored: %llu bytes\n", (unsigned long long)ev.len);
			for_each_client(make_durable);
			for_each_client(lend);
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

static int serve(int listener, int signals)
{
	struct pollfd fds[3 + MAX_CLIENTS];
	int i, r = 0;

	fds[0] = (struct pollfd){ .fd = signals, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = pinlease_ctx_fd(ctx), .events = POLLIN };
	while (!r) {
		/* While there is no room, new clients wait in the listening socket. */
		fds[2] = (struct pollfd){ .fd = client_free() ? listener : -1, .events = POLLIN };
		for (i = 0; i < MAX_CLIENTS; i++)
			fds[3 + i] = (struct pollfd){ .fd = clients[i].used ? clients[i].conn.sock : -1,
						      .events = POLLIN };
		if (poll(fds, 3 + MAX_CLIENTS, -1) < 0)
			return fail("poll", -errno);
		if (fds[0].revents)
			return 0;
		/* Events first: an opener is waiting. */
		if (fds[1].revents)
			r = events();
		for (i = 0; i < MAX_CLIENTS; i++)
			if (fds[3 + i].revents && clients[i].used)
				client_message(&clients[i]);
		if (fds[2].revents)
			client_new(client_free(), listener);
	}
	return r;
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
	opts.pd = dev.pd;
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
	int r, released, listener, signals;
	sigset_t set;

	if (argc != 3)
		return fail("usage: write-server FILE PORT", -EINVAL) != 0;
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
	/* From the lease outwards; each takes NULL. release writes back what only staged memory holds. */
	for_each_client(drop);
	released = pinlease_release(lease);
	if (released)
		fail("the file does not hold all that was written", released);
	pinlease_file_close(file);
	pinlease_ctx_free(ctx);
	rc_dev_close(&dev);
	return r || released ? 1 : 0;
}
