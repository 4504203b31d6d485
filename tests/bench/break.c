/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The break path: how long truncate(path) is blocked, by an idle lease of ours and by
 * the least there can be, a thread that waits for the signal, makes the one membarrier
 * that any account needs, and unlocks. A process of its own truncates.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <pinlease.h>

#include "bench.h"
#include "kt.h"

#define FILE_BYTES (1 << 20)
#define WAIT_MS	   5000

struct breaks {
	struct kt_fs fs;
	char bare_path[KT_PATH_MAX], our_path[KT_PATH_MAX];
	int bare_fd, signo;
	pthread_t bare, spinner;
	_Atomic int bare_tid, answered, stop;
	bool polled;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct kt_call *breaker;
	struct orders *orders;
};

/* Shared with the process that truncates. */
struct orders {
	_Atomic unsigned int asked, done;
	_Atomic int which;	/* 0 bare, 1 ours, -1 end */
	char path[2][KT_PATH_MAX];
	uint64_t ns;
	int err;
};

static int breaker_main(const void *arg)
{
	struct orders *o;
	unsigned int seen = 0;
	uint64_t t0;

	memcpy(&o, arg, sizeof(o));
	for (;;) {
		while (atomic_load(&o->asked) == seen)
			usleep(20);
		seen++;
		if (atomic_load(&o->which) < 0)
			return 0;
		t0 = bench_now();
		o->err = truncate(o->path[atomic_load(&o->which)], FILE_BYTES) ? -errno : 0;
		o->ns = bench_now() - t0;
		atomic_store(&o->done, seen);
	}
}

static int break_once(struct breaks *b, int which, double *us)
{
	unsigned int n = atomic_load(&b->orders->asked) + 1;
	uint64_t until = bench_now() + WAIT_MS * 1000000ull;

	atomic_store(&b->orders->which, which);
	atomic_store(&b->orders->asked, n);
	while (atomic_load(&b->orders->done) != n) {
		if (bench_now() > until)
			return -ETIMEDOUT;
		usleep(20);
	}
	*us = (double)b->orders->ns / 1e3;
	return b->orders->err;
}

static void *bare_main(void *arg)
{
	struct breaks *b = arg;
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, b->signo);
	atomic_store(&b->bare_tid, (int)syscall(SYS_gettid));
	for (;;) {
		if (sigwaitinfo(&set, &info) < 0)
			continue;
		if (atomic_load(&b->stop))
			return NULL;
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
		fcntl(b->bare_fd, F_SETLEASE, F_UNLCK);
		atomic_store(&b->answered, 1);
	}
}

/* A completion queue poller's load on the other core: what membarrier then costs, both sides pay. */
static void *spinner_main(void *arg)
{
	struct breaks *b = arg;

	while (!atomic_load_explicit(&b->stop, memory_order_relaxed))
		;
	return NULL;
}

static int bare_arm(struct breaks *b)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = atomic_load(&b->bare_tid) };

	atomic_store(&b->answered, 0);
	if (fcntl(b->bare_fd, F_SETSIG, b->signo) || fcntl(b->bare_fd, F_SETOWN_EX, &owner) ||
	    fcntl(b->bare_fd, F_SETLEASE, F_WRLCK))
		return -errno;
	return 0;
}

/* The lease is let go before its state is told: both are waited for, so that no sample runs into the last. */
static int settle(struct breaks *b)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };
	uint64_t until = bench_now() + WAIT_MS * 1000000ull;

	while (bench_now() < until) {
		pinlease_lease_info(b->lease, &info);
		if (atomic_load(&b->answered) && info.state == PINLEASE_REVOKED)
			return pinlease_restore(b->lease, NULL);
		usleep(50);
	}
	return -ETIMEDOUT;
}

static int break_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct breaks *b = state;
	int r = bare_arm(b), first = (int)(n & 1);

	if (!r)
		r = break_once(b, first, first ? ours : floor);
	if (!r)
		r = break_once(b, !first, first ? floor : ours);
	return r ? r : settle(b);
}

static int our_up(struct breaks *b)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .flags = PINLEASE_L_MANUAL };
	int r = pinlease_ctx_new(NULL, &b->ctx);

	if (!r)
		r = pinlease_file_open(b->ctx, b->our_path, NULL, NULL, &b->file);
	return r ? r : pinlease_acquire(b->file, 0, FILE_BYTES, &opts, NULL, &b->lease);
}

static int bare_up(struct breaks *b)
{
	sigset_t set;

	b->signo = SIGRTMAX - 4;
	sigemptyset(&set);
	sigaddset(&set, b->signo);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	b->bare_fd = open(b->bare_path, O_RDWR | O_CLOEXEC);
	if (b->bare_fd < 0)
		return -errno;
	pthread_create(&b->bare, NULL, bare_main, b);
	while (!atomic_load(&b->bare_tid))
		usleep(50);
	if (b->polled)
		pthread_create(&b->spinner, NULL, spinner_main, b);
	return 0;
}

static int breaks_up(void **state, const char *fs, bool polled)
{
	struct breaks *b = calloc(1, sizeof(*b));
	int r = kt_fs_make(&b->fs, fs, 64);

	*state = b;
	b->polled = polled;
	if (!r)
		r = kt_file(b->bare_path, b->fs.dir, "bare", FILE_BYTES);
	if (!r)
		r = kt_file(b->our_path, b->fs.dir, "ours", FILE_BYTES);
	if (r)
		return r;
	b->orders = kt_shared(sizeof(*b->orders));
	memcpy(b->orders->path[0], b->bare_path, KT_PATH_MAX);
	memcpy(b->orders->path[1], b->our_path, KT_PATH_MAX);
	b->breaker = kt_call_start(breaker_main, &b->orders, sizeof(b->orders));
	r = our_up(b);
	return r ? r : bare_up(b);
}

static void breaks_down(void *state)
{
	struct breaks *b = state;

	atomic_store(&b->orders->which, -1);
	atomic_fetch_add(&b->orders->asked, 1);
	kt_call_end(b->breaker);
	atomic_store(&b->stop, 1);
	pthread_kill(b->bare, b->signo);
	pthread_join(b->bare, NULL);
	if (b->polled)
		pthread_join(b->spinner, NULL);
	close(b->bare_fd);
	pinlease_release(b->lease);
	pinlease_file_close(b->file);
	pinlease_ctx_free(b->ctx);
	kt_fs_drop(&b->fs);
	free(b);
}

static int ext4_up(void **state)
{
	return breaks_up(state, "ext4", false);
}

static int tmpfs_up(void **state)
{
	return breaks_up(state, "tmpfs", false);
}

static int ext4_polled_up(void **state)
{
	return breaks_up(state, "ext4", true);
}

static int tmpfs_polled_up(void **state)
{
	return breaks_up(state, "tmpfs", true);
}

#define BREAK_ROW(id, text, n, up)                                                                           \
	const struct bench_row bench_##id = { .name = #id,                                                   \
					      .unit = "us",                                                  \
					      .what = text,                                                  \
					      .bar = 1.25,                                                   \
					      .samples = n,                                                  \
					      .set_up = up,                                                  \
					      .sample = break_sample,                                        \
					      .tear_down = breaks_down }

BREAK_ROW(break_ext4,
	  "truncate(path) blocked by an idle lease on ext4; floor: sigwaitinfo, membarrier, F_UNLCK", 2000,
	  ext4_up);
BREAK_ROW(break_tmpfs, "the same on tmpfs", 2000, tmpfs_up);
BREAK_ROW(break_ext4_polled, "break_ext4 with a thread polling on the other core", 1000, ext4_polled_up);
BREAK_ROW(break_tmpfs_polled, "break_tmpfs with a thread polling on the other core", 1000, tmpfs_polled_up);
