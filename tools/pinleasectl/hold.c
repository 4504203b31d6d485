/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pinleasectl hold: take a lease, and print what happens to it, a line each. It ends on
 * SIGINT, SIGTERM or SIGHUP, or when its time is over, and lets the lease go in an orderly way.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define TEXT_MAX 512

struct hold {
	struct ctl_file file;
	struct ctl_device device;
	struct pinlease_file_opts file_opts;
	struct pinlease_opts opts;
	uint64_t off, len, seconds;
	bool json;
	struct pinlease_ctx *ctx;
	struct pinlease_file *leased;
	struct pinlease *lease;
	uint64_t start_ns;
	bool lost;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static const char *event_name(uint32_t type)
{
	static const char *const names[] = { "?",    "BREAK", "REVOKED", "RESTORED", "RESTORE_FAILED",
					     "LOST", "NOTICE" };

	return type < sizeof(names) / sizeof(names[0]) ? names[type] : "?";
}

static const char *cause_name(uint32_t cause)
{
	static const char *const names[] = { "nobody", "a reader", "a writer", "the owner",
					     "the name space" };

	return cause < sizeof(names) / sizeof(names[0]) ? names[cause] : "?";
}

static const char *cause_word(uint32_t cause)
{
	static const char *const words[] = { "none", "reader", "writer", "owner", "namespace" };

	return cause < sizeof(words) / sizeof(words[0]) ? words[cause] : "?";
}

/* A line is whole when it is seen, also through a pipe. */
static void line_end(void)
{
	putchar('\n');
	fflush(stdout);
}

static void print_head(const struct hold *h, const char *what)
{
	double s = (double)(now_ns() - h->start_ns) / 1e9;

	if (h->json)
		printf("{\"seconds\": %.6f, \"event\": \"%s\"", s, what);
	else
		printf("%11.6f  %-14s", s, what);
}

static void print_acquired(const struct hold *h)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	pinlease_lease_info(h->lease, &info);
	print_head(h, "ACQUIRED");
	if (h->json)
		printf(", \"guard\": \"%s\", \"mode\": \"%s\", \"reason\": \"%s\", \"gen\": %u, \"offset\": "
		       "%llu, "
		       "\"length\": %llu, \"pid\": %d}",
		       ctl_guard_name(info.guard), ctl_mode_name(info.mode),
		       pinlease_reason_name(info.mode_reason), info.gen, (unsigned long long)info.off,
		       (unsigned long long)info.len, (int)getpid());
	else
		printf("guard %s, mode %s, generation %u, %llu bytes at %llu, pid %d",
		       ctl_guard_name(info.guard), ctl_mode_name(info.mode), info.gen,
		       (unsigned long long)info.len, (unsigned long long)info.off, (int)getpid());
	line_end();
}

static void print_event_json(const struct pinlease_event *ev)
{
	printf(", \"cause\": \"%s\", \"gen\": %u, \"error\": %d, \"offset\": %llu, "
	       "\"length\": %llu, \"in_flight\": %llu, \"lost_bytes\": %llu}",
	       cause_word(ev->cause), ev->gen, -ev->err, (unsigned long long)ev->off,
	       (unsigned long long)ev->len, (unsigned long long)ev->in_flight,
	       (unsigned long long)ev->lost_bytes);
}

static void print_event_text(const struct pinlease_event *ev)
{
	uint64_t now = now_ns();

	printf("generation %u", ev->gen);
	if (ev->type == PINLEASE_EV_BREAK)
		printf(", by %s, to be let go within %.3f s", cause_name(ev->cause),
		       ev->deadline_ns > now ? (double)(ev->deadline_ns - now) / 1e9 : 0.0);
	if (ev->type == PINLEASE_EV_REVOKED || ev->type == PINLEASE_EV_LOST)
		printf(", %llu operations cut off", (unsigned long long)ev->in_flight);
	if (ev->type == PINLEASE_EV_LOST)
		printf(", %llu bytes not in the file", (unsigned long long)ev->lost_bytes);
	if (ev->type == PINLEASE_EV_RESTORED)
		printf(", %llu bytes", (unsigned long long)ev->len);
	if (ev->err)
		printf(": %s", strerror(-ev->err));
}

static void print_events(struct hold *h)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(h->ctx, &ev) > 0) {
		print_head(h, event_name(ev.type));
		if (h->json)
			print_event_json(&ev);
		else
			print_event_text(&ev);
		line_end();
		if (ev.type == PINLEASE_EV_LOST || ev.type == PINLEASE_EV_RESTORED)
			h->lost = ev.type == PINLEASE_EV_LOST;
	}
}

/* Until a signal comes or the time is over. */
static int wait_for_end(struct hold *h, int signals)
{
	struct pollfd fds[2] = { { .fd = pinlease_ctx_fd(h->ctx), .events = POLLIN },
				 { .fd = signals, .events = POLLIN } };
	uint64_t end = h->seconds ? h->start_ns + h->seconds * 1000000000u : UINT64_MAX, now;
	int ms;

	while ((now = now_ns()) < end && !(fds[1].revents & POLLIN)) {
		ms = end - now > 1000000000u ? 1000 : (int)((end - now) / 1000000u) + 1;
		if (poll(fds, 2, ms) < 0 && errno != EINTR)
			return CTL_FAILED;
		print_events(h);
		/* Nobody reads it any more. */
		if (ferror(stdout))
			return CTL_FAILED;
	}
	return CTL_OK;
}

static int refuse(const struct hold *h, int err, const struct pinlease_why *why)
{
	const struct ctl_asked asked = { .file = &h->file,
					 .device = &h->device,
					 .guard = why->guard,
					 .mode = why->mode,
					 .access = h->file_opts.access ? h->file_opts.access : PINLEASE_WRITE,
					 .err = err,
					 .why = why };
	char text[TEXT_MAX];

	if (why->reason)
		ctl_text(&asked, text, sizeof(text));
	else
		snprintf(text, sizeof(text), "%s", strerror(-err));
	ctl_say("%s: %s", h->file.path, text);
	if (!h->json)
		return CTL_FAILED;
	print_head(h, "REFUSED");
	printf(", \"error\": %d, \"reason\": \"%s\", \"text\": ", -err, pinlease_reason_name(why->reason));
	json_string(NULL, text);
	printf(", \"pid\": %d}", why->pid);
	line_end();
	return CTL_FAILED;
}

static int acquire(struct hold *h)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	int r = pinlease_file_open(h->ctx, h->file.path, &h->file_opts, &why, &h->leased);

	if (r)
		return refuse(h, r, &why);
	h->opts.pd = h->device.pd;
	h->opts.backend = h->device.backend;
	h->opts.backend_arg = h->device.ring;
	if (!h->len && h->file.size > h->off)
		h->len = h->file.size - h->off;
	r = pinlease_acquire(h->leased, h->off, h->len, &h->opts, &why, &h->lease);
	if (!r)
		return CTL_OK;
	pinlease_file_close(h->leased);
	return refuse(h, r, &why);
}

static int release(struct hold *h)
{
	int r = pinlease_release(h->lease);

	if (r) {
		ctl_say("%s: release: %s", h->file.path, strerror(-r));
		return CTL_FAILED;
	}
	pinlease_file_close(h->leased);
	print_head(h, "RELEASED");
	fputs(h->json ? "}" : "", stdout);
	line_end();
	return h->lost ? CTL_FAILED : CTL_OK;
}

static int hold(struct hold *h, int signals)
{
	int r = pinlease_ctx_new(NULL, &h->ctx), status, end;

	if (r) {
		ctl_say("cannot start: %s", strerror(-r));
		return CTL_FAILED;
	}
	h->start_ns = now_ns();
	status = acquire(h);
	if (!status) {
		print_acquired(h);
		status = wait_for_end(h, signals);
		end = release(h);
		status = status ? status : end;
	}
	pinlease_ctx_free(h->ctx);
	return status;
}

static bool parse_one(struct hold *h, int c, const char *arg, const char **device)
{
	switch (c) {
	case 'd':
		*device = arg;
		return true;
	case 'o':
		return ctl_number(arg, INT64_MAX, &h->off);
	case 'l':
		return ctl_number(arg, INT64_MAX, &h->len);
	case 's':
		return ctl_number(arg, UINT32_MAX, &h->seconds);
	case 'g':
		return ctl_guard_of(arg, &h->file_opts.guard);
	case 'm':
		return ctl_mode_of(arg, &h->opts.mode);
	case 'r':
		h->file_opts.access = PINLEASE_READ;
		return true;
	case 'j':
		h->json = true;
		return true;
	default:
		return false;
	}
}

static bool parse(int argc, char **argv, struct hold *h, const char **device)
{
	static const struct option options[] = {
		{ "device", required_argument, NULL, 'd' },
		{ "offset", required_argument, NULL, 'o' },
		{ "length", required_argument, NULL, 'l' },
		{ "read", no_argument, NULL, 'r' },
		{ "guard", required_argument, NULL, 'g' },
		{ "mode", required_argument, NULL, 'm' },
		{ "seconds", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "d:o:l:rg:m:s:", options, NULL)) != -1)
		if (!parse_one(h, c, optarg, device))
			return false;
	return optind == argc - 1;
}

/* Before the library makes threads: they inherit what is blocked. */
static int end_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int ctl_hold(int argc, char **argv)
{
	struct hold h = { .file_opts = { .size = sizeof(h.file_opts) }, .opts = { .size = sizeof(h.opts) } };
	const char *device = NULL;
	int status, signals;

	if (!parse(argc, argv, &h, &device))
		return ctl_usage();
	signals = end_signals();
	ctl_file_look(argv[optind], &h.file);
	if (signals < 0 || ctl_device_open(device, &h.device))
		return CTL_FAILED;
	status = hold(&h, signals);
	ctl_device_close(&h.device);
	close(signals);
	return status;
}
