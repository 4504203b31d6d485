/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * share-server FILE PORT: lets any number of peers write all of FILE, each by a grant of its own.
 *
 * A grant that is out counts as an operation in flight, so a break waits for all of them: for the
 * slowest peer, but not beyond the deadline. PINLEASE_L_GRANTED says that nobody else writes from
 * afar: then only what the peers say they wrote is written back, and not all of the lease.
 */
#include <errno.h>
#include <pinlease/peers.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/server.h"

static struct pinlease_ctx *ctx;
static struct pinlease_file *file;
static struct pinlease *lease;
static struct server server;
static struct pinlease_grant *grants[SERVER_CLIENTS]; /* of the client at the same place */

static int fail(const char *what, int r)
{
	fprintf(stderr, "share-server: %s: %s\n", what, strerror(-r));
	return r;
}

static struct pinlease_grant **grant_of(struct client *c)
{
	return &grants[c - server.clients];
}

/* rc_close destroys the queue pair: nothing of this peer's is in flight afterwards. */
static void drop(struct client *c)
{
	rc_close(&c->conn);
	pinlease_grant_free(*grant_of(c));
	*grant_of(c) = NULL;
	c->used = false;
	printf("peer gone\n");
}

/* The descriptor, once; -EAGAIN: a break is being answered, RESTORED brings us here again. */
static void lend(struct client *c)
{
	struct pinlease_grant_opts opts = { .size = sizeof(opts), .user = c };
	char buf[PINLEASE_MESSAGE_MAX];
	int n = *grant_of(c) ? 0 : pinlease_grant_new(lease, &opts, grant_of(c));

	if (!n)
		n = pinlease_grant_descriptor(*grant_of(c), buf, sizeof(buf));
	c->lent = n > 0;
	if ((n < 0 && n != -EAGAIN) || (n > 0 && rc_send_bytes(&c->conn, buf, (size_t)n)))
		drop(c);
}

/* What is due, if anything is. */
static void tell(struct client *c, const char *what)
{
	char buf[PINLEASE_MESSAGE_MAX];
	int n = pinlease_grant_message(*grant_of(c), 0, buf, sizeof(buf));

	if (n <= 0)
		return;
	printf("%s\n", what);
	if (rc_send_bytes(&c->conn, buf, (size_t)n))
		drop(c);
}

static void tell_all(const char *what)
{
	struct pinlease_grant *grant = NULL, *next;
	void *user;

	/* drop() frees the grant that it is told of: so the next one is looked for before. */
	for (int more = pinlease_grant_next(lease, NULL, &grant, &user); more == 1; grant = next) {
		struct client *c = user;

		more = pinlease_grant_next(lease, grant, &next, &user);
		if (c->lent)
			tell(c, what);
		else
			lend(c);
	}
}

static void message(struct client *c)
{
	char buf[PINLEASE_MESSAGE_MAX];
	int n = rc_recv_bytes(&c->conn, buf, sizeof(buf));
	int r = n > 0 ? pinlease_grant_received(*grant_of(c), buf, (size_t)n) : -ECONNRESET;

	/* ESTALE: it comes too late, the fence did not wait for it. */
	if (r && r != -ESTALE)
		drop(c);
	else
		printf("returned%s\n", r ? " too late" : "");
}

static int events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(ctx, &ev) == 1) {
		switch (ev.type) {
		case PINLEASE_EV_BREAK:
			printf("break\n");
			tell_all("recalled");
			break;
		case PINLEASE_EV_REVOKED:
			printf("revoked: %llu cut off\n", (unsigned long long)ev.in_flight);
			break;
		case PINLEASE_EV_RESTORED:
			printf("restored: %llu bytes\n", (unsigned long long)ev.len);
			tell_all("lent again");
			break;
		case PINLEASE_EV_RESTORE_FAILED:
			return fail("the lease does not come back", ev.err);
		case PINLEASE_EV_LOST:
			tell_all("gone");
			return fail("the lease is lost", ev.err);
		default:
			break;
		}
	}
	return 0;
}

static int lease_file(const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .flags = PINLEASE_L_GRANTED,
				      .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_why why = { 0 };
	struct stat st;
	int r;

	if (stat(path, &st))
		return fail(path, -errno);
	r = pinlease_ctx_new(NULL, &ctx);
	if (r)
		return fail("pinlease_ctx_new", r);
	r = pinlease_file_open(ctx, path, NULL, &why, &file);
	opts.pd = server.dev.pd;
	if (!r)
		r = pinlease_acquire(file, 0, (uint64_t)st.st_size, &opts, &why, &lease);
	return r ? fail(pinlease_reason_str(why.reason), r) : 0;
}

int main(int argc, char **argv)
{
	int r, released;

	if (argc != 3)
		return fail("usage: share-server FILE PORT", -EINVAL) != 0;
	setlinebuf(stdout);
	server = (struct server){ .events = events, .connected = lend, .message = message };
	r = server_open(&server, argv[2]);
	if (r)
		return fail("device, signalfd or port", r) != 0;
	r = lease_file(argv[1]);
	if (!r) {
		printf("ready\n");
		r = server_run(&server, pinlease_ctx_fd(ctx));
	}
	/* A lease with grants is not released: the peers first. */
	server_each(&server, drop);
	released = pinlease_release(lease);
	if (released)
		fail("the file does not hold all that was written", released);
	pinlease_file_close(file);
	pinlease_ctx_free(ctx);
	server_close(&server);
	return r || released ? 1 : 0;
}
