/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Breaks among many leases: one break while so many files are leased, against the same with
 * one; and so many breaks at once, until the last is answered, against a bare process that
 * answers as many, each with one membarrier and F_UNLCK. Files go without an anchor here: with
 * one they would take more descriptors than a hard limit of 20,000 lets root have without
 * CAP_SYS_RESOURCE. A break does not touch it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"
#include "opener.h"

#define WAIT_NS	   60000000000ull
#define FILE_BYTES 4096
#define SIGNO	   (SIGRTMAX - 4)

struct held {
	struct pinlease_ctx *ctx;
	struct pinlease_file **file;
	struct pinlease **lease;
	unsigned int count;
};

struct many {
	struct kt_fs fs;
	struct held ours, one;	/* one: of a ctx of its own */
	struct opener opener;
	char our_path[KT_PATH_MAX], one_path[KT_PATH_MAX];
	/* at once */
	struct kt_call *breaker, *bare;
	struct storm *storm;
	unsigned int count;
};

/* Shared with the process that breaks, and the bare one. */
struct storm {
	_Atomic unsigned int asked, done;
	_Atomic bool end;
	char dir[KT_PATH_MAX];
	unsigned int count;
	uint64_t began;
	_Atomic int refused;	/* opens that a lease stood against */
	bool bare;
	_Atomic unsigned int arms, armed, answered;
	int err;
};

static void many_path(char path[KT_PATH_MAX], const char *dir, bool bare, unsigned int i)
{
	snprintf(path, KT_PATH_MAX, "%.70s/%c%u", dir, bare ? 'b' : 'o', i);
}

static int file_make(const char *path, off_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), r;

	if (fd < 0)
		return -errno;
	r = ftruncate(fd, bytes) ? -errno : 0;
	close(fd);
	return r;
}

static int hold_one(struct held *h, const char *path, uint64_t bytes)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .flags = PINLEASE_L_MANUAL };
	struct pinlease_file_opts file = { .size = sizeof(file), .flags = PINLEASE_F_NO_ANCHOR };
	int r = pinlease_file_open(h->ctx, path, &file, NULL, &h->file[h->count]);

	if (!r)
		r = pinlease_acquire(h->file[h->count], 0, bytes, &opts, NULL, &h->lease[h->count]);
	h->count += !r;
	return r;
}

static int held_new(struct held *h, unsigned int count, int signo)
{
	struct pinlease_ctx_opts opts = { .size = sizeof(opts), .signo = signo };

	h->file = calloc(count, sizeof(*h->file));
	h->lease = calloc(count, sizeof(*h->lease));
	return h->file && h->lease ? pinlease_ctx_new(&opts, &h->ctx) : -ENOMEM;
}

static void held_free(struct held *h)
{
	unsigned int i;

	for (i = 0; i < h->count; i++) {
		pinlease_release(h->lease[i]);
		pinlease_file_close(h->file[i]);
	}
	pinlease_ctx_free(h->ctx);
	free(h->file);
	free(h->lease);
}

static int hold_many(struct many *m, unsigned int count)
{
	char path[KT_PATH_MAX];
	unsigned int i;
	int r = 0;

	for (i = 0; i < count && !r; i++) {
		many_path(path, m->fs.dir, false, i);
		r = file_make(path, FILE_BYTES);
		if (!r)
			r = hold_one(&m->ours, path, FILE_BYTES);
	}
	return r;
}

/* One break among many */

static int among_up(const struct bench_row *row, void **state)
{
	struct many *m = calloc(1, sizeof(*m));
	unsigned int count = (unsigned int)row->arg;
	int r = bench_nofile(count + 100);

	*state = m;
	if (!r)
		r = kt_fs_make(&m->fs, "tmpfs", 128);
	if (!r)
		r = held_new(&m->ours, count + 1, 0);
	if (!r)
		r = held_new(&m->one, 1, SIGRTMAX - 3);
	if (!r)
		r = kt_file(m->our_path, m->fs.dir, "ours", OPENER_BYTES);
	if (!r)
		r = kt_file(m->one_path, m->fs.dir, "one", OPENER_BYTES);
	if (!r)
		r = opener_start(&m->opener);
	if (!r)
		r = hold_many(m, count - 1);
	if (!r)
		r = hold_one(&m->ours, m->our_path, OPENER_BYTES);
	return r ? r : hold_one(&m->one, m->one_path, OPENER_BYTES);
}

static int broken_once(struct many *m, struct held *h, const char *path, double *us)
{
	struct pinlease *lease = h->lease[h->count - 1];
	int r = opener_truncate(&m->opener, path, us);

	if (!r)
		r = bench_state(lease, PINLEASE_REVOKED);
	return r ? r : pinlease_restore(lease, NULL);
}

static int among_many(void *state, double *us)
{
	struct many *m = state;

	return broken_once(m, &m->ours, m->our_path, us);
}

static int alone(void *state, double *us)
{
	struct many *m = state;

	return broken_once(m, &m->one, m->one_path, us);
}

static int among_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_in_turns(state, n, ours, floor, among_many, alone);
}

static void among_down(void *state)
{
	struct many *m = state;

	opener_end(&m->opener);
	held_free(&m->one);
	held_free(&m->ours);
	kt_fs_drop(&m->fs);
	free(m);
}

/* All at once */

/* Asks for every file without waiting: that breaks the lease all the same. */
static int storm_main(const void *arg)
{
	struct storm *s;
	unsigned int seen = 0, i;
	char path[KT_PATH_MAX];
	int fd;

	memcpy(&s, arg, sizeof(s));
	for (;;) {
		while (atomic_load(&s->asked) == seen)
			usleep(20);
		seen++;
		if (atomic_load(&s->end))
			return 0;
		s->began = bench_now();
		for (i = 0; i < s->count; i++) {
			many_path(path, s->dir, s->bare, i);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
			if (fd < 0 && errno == EWOULDBLOCK)
				atomic_fetch_add(&s->refused, 1);
			else
				close(fd);
		}
		atomic_store(&s->done, seen);
	}
}

static int storm_once(struct many *m, bool bare)
{
	unsigned int n = atomic_load(&m->storm->asked) + 1;
	uint64_t until = bench_now() + WAIT_NS;

	m->storm->bare = bare;
	atomic_store(&m->storm->refused, 0);
	atomic_store(&m->storm->asked, n);
	while (atomic_load(&m->storm->done) != n) {
		if (bench_now() > until)
			return -ETIMEDOUT;
		usleep(20);
	}
	/* Each open must have met a lease. */
	return atomic_load(&m->storm->refused) == (int)m->count ? 0 : -EPROTO;
}

static int bare_open(const struct storm *s, int *fds)
{
	char path[KT_PATH_MAX];
	unsigned int i;
	int r = 0;

	for (i = 0; i < s->count && !r; i++) {
		many_path(path, s->dir, true, i);
		r = file_make(path, FILE_BYTES);
		fds[i] = open(path, O_RDWR | O_CLOEXEC);
	}
	return r;
}

static int bare_arm(struct storm *s, const int *fds)
{
	unsigned int i;
	int r = 0;

	atomic_store(&s->answered, 0);
	for (i = 0; i < s->count && !r; i++)
		r = kt_lease_take(fds[i], F_WRLCK, SIGNO);
	return r;
}

/* Arms all when told to, and answers until each was broken. */
static int bare_main(const void *arg)
{
	struct timespec moment = { .tv_nsec = 20000 };
	struct storm *s;
	siginfo_t info;
	sigset_t set;
	int *fds;

	memcpy(&s, arg, sizeof(s));
	fds = calloc(s->count, sizeof(*fds));
	s->err = bare_open(s, fds);
	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGNO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	while (!atomic_load(&s->end)) {
		if (atomic_load(&s->arms) != atomic_load(&s->armed)) {
			s->err = s->err ? s->err : bare_arm(s, fds);
			atomic_fetch_add(&s->armed, 1);
		}
		while (sigtimedwait(&set, &info, &moment) == SIGNO) {
			syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
			fcntl(info.si_fd, F_SETLEASE, F_UNLCK);
			atomic_fetch_add(&s->answered, 1);
		}
	}
	return 0;
}

static uint64_t our_answers(struct many *m)
{
	struct pinlease_ctx_stats stats = { .size = sizeof(stats) };

	return pinlease_ctx_stats(m->ours.ctx, &stats) ? 0 : stats.answered;
}

/* From the first open to the last lease let go, in ms. */
static int storm_ours(void *state, double *ms)
{
	struct many *m = state;
	uint64_t before = our_answers(m), until = bench_now() + WAIT_NS;
	unsigned int i;
	int r = storm_once(m, false);

	while (!r && our_answers(m) - before < m->count) {
		r = bench_now() > until ? -ETIMEDOUT : 0;
		usleep(20);
	}
	*ms = (double)(bench_now() - m->storm->began) / 1e6;
	for (i = 0; i < m->count && !r; i++) {
		r = bench_state(m->ours.lease[i], PINLEASE_REVOKED);
		if (!r)
			r = pinlease_restore(m->ours.lease[i], NULL);
	}
	return r;
}

static int storm_bare(void *state, double *ms)
{
	struct many *m = state;
	uint64_t until = bench_now() + WAIT_NS;
	int r = 0;

	atomic_fetch_add(&m->storm->arms, 1);
	while (atomic_load(&m->storm->armed) != atomic_load(&m->storm->arms) && bench_now() < until)
		usleep(50);
	r = m->storm->err ? m->storm->err : storm_once(m, true);
	while (!r && atomic_load(&m->storm->answered) < m->count) {
		r = bench_now() > until ? -ETIMEDOUT : 0;
		usleep(20);
	}
	*ms = (double)(bench_now() - m->storm->began) / 1e6;
	return r;
}

static int at_once_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_in_turns(state, n, ours, floor, storm_ours, storm_bare);
}

static int at_once_up(const struct bench_row *row, void **state)
{
	struct many *m = calloc(1, sizeof(*m));
	int r;

	*state = m;
	m->count = (unsigned int)row->arg;
	r = bench_nofile(m->count + 100);
	if (!r)
		r = kt_fs_make(&m->fs, "tmpfs", 256);
	m->storm = kt_shared(sizeof(*m->storm));
	if (r || !m->storm)
		return r ? r : -ENOMEM;
	*m->storm = (struct storm){ .count = m->count };
	snprintf(m->storm->dir, sizeof(m->storm->dir), "%s", m->fs.dir);
	m->breaker = kt_call_start(storm_main, &m->storm, sizeof(m->storm));
	m->bare = kt_call_start(bare_main, &m->storm, sizeof(m->storm));
	if (!r)
		r = held_new(&m->ours, m->count, 0);
	if (!r)
		r = hold_many(m, m->count);
	return r;
}

static void at_once_down(void *state)
{
	struct many *m = state;

	atomic_store(&m->storm->end, true);
	atomic_fetch_add(&m->storm->asked, 1);
	kt_call_end(m->breaker);
	kt_call_end(m->bare);
	held_free(&m->ours);
	kt_fs_drop(&m->fs);
	free(m);
}

#define AMONG_ROW(id, count, n, text)                                                                 \
	{                                                                                             \
		.name = id, .unit = "us", .what = text, .bar = 1.2, .samples = n, .arg = count,       \
		.set_up = among_up, .sample = among_sample, .tear_down = among_down                   \
	}

const struct bench_row bench_break_10k[] = {
	AMONG_ROW("break_1", 1, 1000, "one break with one file leased, against itself: for the chart"),
	AMONG_ROW("break_100", 100, 1000, "one break with 100 files leased; floor: with one"),
	AMONG_ROW("break_1k", 1000, 1000, "the same with 1,000"),
	AMONG_ROW("break_10k", 10000, 1000, "the same with 10,000"),
	{
		.name = "break_10k_at_once",
		.unit = "ms",
		.what = "10,000 breaks at once; floor: a thread that answers as many with F_UNLCK",
		.bar = 2,
		.samples = 20,
		.arg = 10000,
		.set_up = at_once_up,
		.sample = at_once_sample,
		.tear_down = at_once_down,
	},
	{ .name = NULL },
};
