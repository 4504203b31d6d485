/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The break path: how long truncate(path) is blocked, by an idle lease of ours and by
 * the least there can be, a thread that waits for the signal, makes the one membarrier
 * that any account needs, deregisters what there is, and unlocks.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <pinlease.h>

#include "bench.h"
#include "kt_rdma.h"
#include "opener.h"

#define WAIT_MS 5000

enum { IDLE, POLLED, WITH_MR };

struct breaks {
	struct kt_fs fs;
	char bare_path[KT_PATH_MAX], our_path[KT_PATH_MAX];
	int bare_fd, signo;
	long kind;
	void *memory;			/* WITH_MR: the bare file's */
	struct ibv_mr *mr;
	struct kt_rdma dev;
	pthread_t bare, spinner;
	_Atomic int bare_tid, answered, stop;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct opener opener;
};

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
		if (b->mr)
			ibv_dereg_mr(b->mr);
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
	if (b->kind == WITH_MR)
		b->mr = ibv_reg_mr(b->dev.pd, b->memory, OPENER_BYTES, KT_ACCESS_WRITE);
	if (b->kind == WITH_MR && !b->mr)
		return -errno;
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

static int blocked(struct breaks *b, const char *path, double *us)
{
	int r = opener_truncate(&b->opener, path, us);

	if (!r)
		opener_span(&b->opener);
	return r;
}

static int our_break(void *state, double *us)
{
	struct breaks *b = state;

	return blocked(b, b->our_path, us);
}

static int bare_break(void *state, double *us)
{
	struct breaks *b = state;

	return blocked(b, b->bare_path, us);
}

static int break_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct breaks *b = state;
	int r = bare_arm(b);

	if (!r)
		r = bench_in_turns(b, n, ours, floor, our_break, bare_break);
	return r ? r : settle(b);
}

static int our_up(struct breaks *b)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .flags = PINLEASE_L_MANUAL };
	int r = pinlease_ctx_new(NULL, &b->ctx);

	if (!r)
		r = pinlease_file_open(b->ctx, b->our_path, NULL, NULL, &b->file);
	if (b->kind == WITH_MR) {
		opts.pd = b->dev.pd;
		opts.mode = PINLEASE_MODE_PINNED;
		opts.ibv_access = KT_ACCESS_WRITE;
	}
	return r ? r : pinlease_acquire(b->file, 0, OPENER_BYTES, &opts, NULL, &b->lease);
}

static int bare_up(struct breaks *b)
{
	sigset_t set;

	b->signo = SIGRTMAX - 4;
	sigemptyset(&set);
	sigaddset(&set, b->signo);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	b->bare_fd = open(b->bare_path, O_RDWR | O_CLOEXEC);
	b->memory = mmap(NULL, OPENER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, b->bare_fd, 0);
	if (b->bare_fd < 0 || b->memory == MAP_FAILED)
		return -errno;
	pthread_create(&b->bare, NULL, bare_main, b);
	while (!atomic_load(&b->bare_tid))
		usleep(50);
	if (b->kind == POLLED)
		pthread_create(&b->spinner, NULL, spinner_main, b);
	return 0;
}

static int breaks_up(const struct bench_row *row, void **state)
{
	struct breaks *b = calloc(1, sizeof(*b));
	int r = kt_fs_make(&b->fs, row->fs, 64);

	*state = b;
	b->kind = row->arg;
	if (!r)
		r = kt_file(b->bare_path, b->fs.dir, "bare", OPENER_BYTES);
	if (!r)
		r = kt_file(b->our_path, b->fs.dir, "ours", OPENER_BYTES);
	if (!r)
		r = opener_start(&b->opener);
	if (!r && b->kind == WITH_MR)
		r = kt_rdma_open(&b->dev);
	if (!r)
		r = our_up(b);
	return r ? r : bare_up(b);
}

static void breaks_down(void *state)
{
	struct breaks *b = state;

	opener_end(&b->opener);
	atomic_store(&b->stop, 1);
	pthread_kill(b->bare, b->signo);
	pthread_join(b->bare, NULL);
	if (b->kind == POLLED)
		pthread_join(b->spinner, NULL);
	close(b->bare_fd);
	pinlease_release(b->lease);
	pinlease_file_close(b->file);
	pinlease_ctx_free(b->ctx);
	munmap(b->memory, OPENER_BYTES);
	if (b->kind == WITH_MR)
		kt_rdma_close(&b->dev);
	kt_fs_drop(&b->fs);
	free(b);
}

#define BREAK_ROW(id, on, with, count, text)                                                   \
	{                                                                                      \
		.name = id, .unit = "us", .what = text, .bar = 1.25, .samples = count,         \
		.guest = (with) == WITH_MR, .fs = on, .arg = with, .set_up = breaks_up,        \
		.sample = break_sample, .tear_down = breaks_down                               \
	}

const struct bench_row bench_break[] = {
	BREAK_ROW("break_ext4", "ext4", IDLE, 2000,
		  "truncate(path) blocked by an idle lease on ext4; floor: sigwaitinfo, membarrier, F_UNLCK"),
	BREAK_ROW("break_tmpfs", "tmpfs", IDLE, 2000, "the same on tmpfs"),
	BREAK_ROW("break_ext4_polled", "ext4", POLLED, 1000,
		  "break_ext4 with a thread polling on the other core"),
	BREAK_ROW("break_tmpfs_polled", "tmpfs", POLLED, 1000,
		  "break_tmpfs with a thread polling on the other core"),
	BREAK_ROW("break_mr", "tmpfs", WITH_MR, 300,
		  "the same with 2 MiB pinned and registered; floor: besides, ibv_dereg_mr"),
	{ .name = NULL },
};
