/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * epoll-loop FILE: a lease in a program that is one epoll loop. A timer stands for the
 * device: an operation is started at one tick and completes at the next, so there is
 * nearly always one in flight when somebody opens FILE. The lease is taken with
 * L_ACK: a break waits not only for the operations but also until the loop has
 * said that it will start none, whatever it still has queued.
 */
#include <errno.h>
#include <pinlease.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define TICK_NS 5000000

struct loop {
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	int epoll, timer, signals;
	bool running; /* told to stop at BREAK, to go on at RESTORED */
	bool in_flight;
	uint32_t gen; /* of the operation in flight */
	char *at;     /* where it writes */
	uint64_t ticks;
};

static int fail(const char *what, int r)
{
	fprintf(stderr, "epoll-loop: %s: %s\n", what, strerror(-r));
	return r;
}

/* begin may refuse before the event is here: then there is a break, and BREAK is on its way. */
static void start_operation(struct loop *l)
{
	struct pinlease_view view = { .size = sizeof(view) };

	if (!l->running || pinlease_dma_begin(l->lease, 1, &l->gen))
		return;
	if (pinlease_view_get(l->lease, 0, &view)) {
		pinlease_dma_end(l->lease, 1, l->gen);
		return;
	}
	l->at = (char *)view.addr + l->ticks % (view.len / sizeof(l->ticks)) * sizeof(l->ticks);
	l->in_flight = true;
}

/* The memory is ours until dma_end, also while a break waits for it. */
static void complete_operation(struct loop *l)
{
	if (!l->in_flight)
		return;
	memcpy(l->at, &l->ticks, sizeof(l->ticks));
	pinlease_dma_end(l->lease, 1, l->gen);
	l->in_flight = false;
}

static void tick(struct loop *l)
{
	uint64_t expired;

	if (read(l->timer, &expired, sizeof(expired)) != sizeof(expired))
		return;
	complete_operation(l);
	l->ticks++;
	start_operation(l);
}

static int event(struct loop *l, const struct pinlease_event *ev)
{
	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		l->running = false;
		printf("break at tick %llu, %s in flight\n", (unsigned long long)l->ticks,
		       l->in_flight ? "one" : "none");
		pinlease_ack(l->lease, ev->gen);
		return 0;
	case PINLEASE_EV_REVOKED:
		printf("revoked, %llu cut off\n", (unsigned long long)ev->in_flight);
		return 0;
	case PINLEASE_EV_RESTORED:
		l->running = true;
		printf("restored: %llu bytes\n", (unsigned long long)ev->len);
		return 0;
	case PINLEASE_EV_RESTORE_FAILED:
	case PINLEASE_EV_LOST:
		return fail("the file is gone", ev->err);
	default:
		return 0;
	}
}

/* Level-triggered: what is not taken now is reported again. */
static int events(struct loop *l)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	int r = 0;

	while (!r && pinlease_ctx_next_event(l->ctx, &ev) == 1)
		r = event(l, &ev);
	return r;
}

static int run(struct loop *l)
{
	struct epoll_event got;
	int n, r = 0;

	while (!r) {
		n = epoll_wait(l->epoll, &got, 1, -1);
		if (n < 0 && errno != EINTR)
			return fail("epoll_wait", -errno);
		if (n <= 0)
			continue;
		if (got.data.fd == l->signals)
			return 0;
		if (got.data.fd == l->timer)
			tick(l);
		else
			r = events(l);
	}
	return r;
}

static int watch(struct loop *l, int fd)
{
	struct epoll_event want = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &want) ? fail("epoll_ctl", -errno) : 0;
}

static int set_up_loop(struct loop *l)
{
	struct itimerspec every = { .it_interval.tv_nsec = TICK_NS, .it_value.tv_nsec = TICK_NS };
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	l->signals = signalfd(-1, &set, SFD_CLOEXEC);
	l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->signals < 0 || l->timer < 0 || l->epoll < 0 || timerfd_settime(l->timer, 0, &every, NULL))
		return fail("setting up", -errno);
	r = watch(l, l->signals);
	if (!r)
		r = watch(l, l->timer);
	return r ? r : watch(l, pinlease_ctx_fd(l->ctx));
}

static int set_up_lease(struct loop *l, const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .flags = PINLEASE_L_ACK };
	struct pinlease_why why = { 0 };
	struct stat st;
	int r;

	if (stat(path, &st))
		return fail(path, -errno);
	r = pinlease_ctx_new(NULL, &l->ctx);
	if (r)
		return fail("pinlease_ctx_new", r);
	r = pinlease_file_open(l->ctx, path, NULL, &why, &l->file);
	if (!r)
		r = pinlease_acquire(l->file, 0, (uint64_t)st.st_size, &opts, &why, &l->lease);
	return r ? fail(pinlease_reason_str(why.reason), r) : 0;
}

int main(int argc, char **argv)
{
	struct loop l = { .running = true };
	int r;

	if (argc != 2)
		return fail("usage: epoll-loop FILE", -EINVAL) != 0;
	setlinebuf(stdout);
	r = set_up_lease(&l, argv[1]);
	if (!r)
		r = set_up_loop(&l);
	if (!r) {
		printf("running\n");
		r = run(&l);
		complete_operation(&l);
	}
	pinlease_release(l.lease);
	pinlease_file_close(l.file);
	pinlease_ctx_free(l.ctx);
	printf("stopped after %llu ticks\n", (unsigned long long)l.ticks);
	return r != 0;
}
