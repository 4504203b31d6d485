/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uring-receive FILE: fills FILE from standard input, a pipe or socket, with reads that
 * io_uring makes straight into the file's pages, registered as a fixed buffer. FILE
 * may be opened and changed by others meanwhile: the read that waits is cancelled, the
 * buffer unregistered, the other let on; then the file is registered again and the
 * reading goes on where it was.
 */
#include <errno.h>
#include <poll.h>
#include <pinlease/uring.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (64u << 10)

struct receiver {
	struct pinlease_ctx *ctx;
	struct pinlease_uring *ring;
	struct pinlease_file *file;
	struct pinlease *lease;
	uint64_t at, len; /* received so far; what there is room for */
	bool reading, end;
};

static int fail(const char *what, int r)
{
	fprintf(stderr, "uring-receive: %s: %s\n", what, strerror(-r));
	return r;
}

/* One read at a time, since a stream has an order. While a break is being answered: later. */
static int read_more(struct receiver *r)
{
	uint64_t room = r->len - r->at;
	int ret;

	if (r->reading || r->end)
		return 0;
	if (!room) {
		r->end = true;
		return 0;
	}
	ret = pinlease_uring_read(r->ring, r->lease, r->at, room < CHUNK ? (uint32_t)room : CHUNK,
				  STDIN_FILENO, UINT64_MAX, 0);
	r->reading = !ret;
	return ret == -EAGAIN ? 0 : ret;
}

static int completions(struct receiver *r)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };

	while (pinlease_uring_next(r->ring, &done, 0) == 1) {
		r->reading = false;
		if (done.res == -ECANCELED)
			continue; /* waited in vain: nothing was taken from the pipe */
		if (done.res < 0)
			return fail("reading", done.res);
		r->at += (uint32_t)done.res;
		r->end = !done.res;
	}
	return 0;
}

static int events(struct receiver *r)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(r->ctx, &ev) == 1) {
		switch (ev.type) {
		case PINLEASE_EV_BREAK:
			/* Nobody knows when the next byte comes; the opener need not wait for it. */
			printf("break: %d read cancelled\n", pinlease_uring_cancel(r->ring, r->lease));
			break;
		case PINLEASE_EV_RESTORED:
			printf("restored at %llu of %llu bytes\n", (unsigned long long)r->at,
			       (unsigned long long)ev.len);
			r->len = ev.len;
			if (r->at > r->len)
				return fail("the file has been cut below what was received", -EFBIG);
			break;
		case PINLEASE_EV_RESTORE_FAILED:
		case PINLEASE_EV_LOST:
			return fail("the lease is gone", ev.err);
		}
	}
	return 0;
}

/* Both fds are readable while there is something to take; neither queue is emptied by anybody else. */
static int receive(struct receiver *r)
{
	struct pollfd fds[2] = { { .fd = pinlease_ctx_fd(r->ctx), .events = POLLIN },
				 { .fd = pinlease_uring_fd(r->ring), .events = POLLIN } };
	int ret = read_more(r);

	while (!ret && !r->end) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return fail("poll", -errno);
		ret = events(r);
		if (!ret)
			ret = completions(r);
		if (!ret)
			ret = read_more(r);
	}
	return ret;
}

/* A break in the middle of it is answered first: then the data of before it is in the file already. */
static int make_durable(struct receiver *r)
{
	int ret;

	while ((ret = pinlease_sync(r->lease, 0, 0, 0)) == -EAGAIN) {
		struct pollfd fd = { .fd = pinlease_ctx_fd(r->ctx), .events = POLLIN };

		if (poll(&fd, 1, -1) < 0 && errno != EINTR)
			return fail("poll", -errno);
		ret = events(r);
		if (ret)
			return ret;
	}
	return ret ? fail("sync", ret) : 0;
}

static int set_up(struct receiver *r, const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .backend = pinlease_uring_backend() };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_why why = { 0 };
	struct stat st;
	int ret;

	if (stat(path, &st))
		return fail(path, -errno);
	r->len = (uint64_t)st.st_size;
	ret = pinlease_uring_new(8, 1, &r->ring);
	if (ret)
		return fail("io_uring", ret);
	ret = pinlease_ctx_new(NULL, &r->ctx);
	if (ret)
		return fail("pinlease_ctx_new", ret);
	opts.backend_arg = r->ring;
	ret = pinlease_file_open(r->ctx, path, NULL, &why, &r->file);
	if (!ret)
		ret = pinlease_acquire(r->file, 0, r->len, &opts, &why, &r->lease);
	if (!ret)
		ret = pinlease_lease_info(r->lease, &info);
	if (ret)
		return fail(pinlease_reason_str(why.reason), ret);
	printf("%s (%s)\n", info.mode == PINLEASE_MODE_STAGED ? "staged" : "in place",
	       pinlease_reason_str(info.mode_reason));
	return 0;
}

int main(int argc, char **argv)
{
	struct receiver r = { 0 };
	int ret, released;

	if (argc != 2)
		return fail("usage: uring-receive FILE <INPUT", -EINVAL) != 0;
	setlinebuf(stdout);
	ret = set_up(&r, argv[1]);
	if (!ret)
		ret = receive(&r);
	if (!ret)
		ret = make_durable(&r);
	released = pinlease_release(r.lease);
	if (released)
		fail("the file does not hold all that was received", released);
	pinlease_file_close(r.file);
	pinlease_ctx_free(r.ctx);
	pinlease_uring_free(r.ring);
	printf("received %llu bytes\n", (unsigned long long)r.at);
	return ret || released;
}
