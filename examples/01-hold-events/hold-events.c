/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hold-events FILE: takes a pin lease on FILE, without any device, and prints what
 * happens to it, until SIGINT or SIGTERM. In another terminal:
 *
 *	cat FILE; echo more >> FILE; mv FILE elsewhere
 */
#include <errno.h>
#include <poll.h>
#include <pinlease.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const char *what, int r)
{
	fprintf(stderr, "hold-events: %s: %s\n", what, strerror(-r));
	return r;
}

static const char *cause(uint32_t cause)
{
	switch (cause) {
	case PINLEASE_BY_READER:
		return "an open for reading";
	case PINLEASE_BY_WRITER:
		return "an open for writing, or truncate";
	case PINLEASE_BY_OWNER:
		return "this program";
	case PINLEASE_BY_NAMESPACE:
		return "rename, unlink or replacement";
	default:
		return "unknown";
	}
}

static void print(const struct pinlease_event *ev)
{
	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		printf("BREAK of generation %u: %s\n", ev->gen, cause(ev->cause));
		break;
	case PINLEASE_EV_REVOKED:
		printf("REVOKED: it may go on, nothing of ours reaches the file\n");
		break;
	case PINLEASE_EV_RESTORED:
		printf("RESTORED as generation %u: %llu bytes\n", ev->gen, (unsigned long long)ev->len);
		break;
	case PINLEASE_EV_RESTORE_FAILED:
		printf("RESTORE FAILED: %s\n", strerror(-ev->err));
		break;
	case PINLEASE_EV_LOST:
		printf("LOST: it went on before we had answered\n");
		break;
	case PINLEASE_EV_NOTICE:
		printf("NOTICE: %s\n", cause(ev->cause));
		break;
	}
}

/* The ctx's fd is readable while events are queued; they are taken until there are none. */
static int watch(struct pinlease_ctx *ctx, int signals)
{
	struct pollfd fds[2] = { { .fd = pinlease_ctx_fd(ctx), .events = POLLIN },
				 { .fd = signals, .events = POLLIN } };
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (!fds[1].revents) {
		if (poll(fds, 2, -1) < 0)
			return fail("poll", -errno);
		while (pinlease_ctx_next_event(ctx, &ev) == 1)
			print(&ev);
	}
	return 0;
}

static int hold(struct pinlease_ctx *ctx, const char *path, int signals)
{
	struct pinlease_why why = { 0 };
	struct pinlease_file *file;
	struct pinlease *lease;
	struct stat st;
	int r;

	if (stat(path, &st))
		return fail(path, -errno);
	r = pinlease_file_open(ctx, path, NULL, &why, &file);
	if (r)
		return fail(pinlease_reason_str(why.reason), r);
	/* No PD and no backend: the lease is the mapping and the guard. */
	r = pinlease_acquire(file, 0, (uint64_t)st.st_size, NULL, &why, &lease);
	if (r) {
		fail(pinlease_reason_str(why.reason), r);
	} else {
		printf("holding %s, %lld bytes\n", path, (long long)st.st_size);
		r = watch(ctx, signals);
		pinlease_release(lease);
	}
	pinlease_file_close(file);
	return r;
}

int main(int argc, char **argv)
{
	struct pinlease_ctx *ctx;
	sigset_t set;
	int r, signals;

	if (argc != 2)
		return fail("usage: hold-events FILE", -EINVAL) != 0;
	setlinebuf(stdout);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	r = signals < 0 ? -errno : pinlease_ctx_new(NULL, &ctx);
	if (r)
		return fail("pinlease_ctx_new", r) != 0;
	r = hold(ctx, argv[1], signals);
	pinlease_ctx_free(ctx);
	return r != 0;
}
