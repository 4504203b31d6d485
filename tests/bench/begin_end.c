/* SPDX-License-Identifier: BSD-3-Clause */
/* The hot path: what an application pays around each post. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <pinlease.h>

#include "bench.h"

#define PAIRS	    20000u	/* short: some samples have the core to themselves */
#define PAIRS_MANY  1000000u	/* of all threads together */
#define SHOTS	    10		/* of them a sample is the best: some find the processors free */
#define THREADS_MAX 64
#define PATH_BYTES  64

struct hot {
	char path[PATH_BYTES];
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease **lease;
	unsigned int leases, threads;
	bool all;	/* each thread goes over all leases, not over the one that they share */
	_Atomic uint64_t counter;
};

static void hot_down(void *state)
{
	struct hot *h = state;
	unsigned int i;

	for (i = 0; i < h->leases; i++)
		pinlease_release(h->lease[i]);
	pinlease_file_close(h->file);
	pinlease_ctx_free(h->ctx);
	unlink(h->path);
	free(h->lease);
	free(h);
}

static int hot_leases(struct hot *h, unsigned int count)
{
	int fd = open(h->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), r;

	h->lease = calloc(count, sizeof(*h->lease));
	if (fd < 0 || ftruncate(fd, (off_t)count * 4096))
		return -errno;
	close(fd);
	r = pinlease_ctx_new(NULL, &h->ctx);
	if (!r)
		r = pinlease_file_open(h->ctx, h->path, NULL, NULL, &h->file);
	for (; !r && h->leases < count; h->leases += !r)
		r = pinlease_acquire(h->file, (uint64_t)h->leases * 4096, 4096, NULL, NULL,
				     &h->lease[h->leases]);
	return r;
}

static int hot_up(const struct bench_row *row, void **state)
{
	struct hot *h = calloc(1, sizeof(*h));

	*state = h;
	h->threads = (unsigned int)row->arg;
	h->all = h->threads == THREADS_MAX;
	snprintf(h->path, sizeof(h->path), "/dev/shm/pinlease-bench-%d", (int)getpid());
	return hot_leases(h, h->all ? 1000 : h->threads);
}

static int pairs(struct pinlease *lease, unsigned int n)
{
	uint32_t gen;
	int r;

	while (n--) {
		r = pinlease_dma_begin(lease, 1, &gen);
		/* Else the loop has a jump more that is taken: 0.6 ns that are not the library's. */
		if (__builtin_expect(r, 0))
			return r;
		pinlease_dma_end(lease, 1, gen);
	}
	return 0;
}

static int hot_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct hot *h = state;
	uint64_t t0 = bench_now();
	unsigned int i;
	int r;

	(void)n;
	for (i = 0; i < PAIRS; i++) {
		atomic_fetch_add(&h->counter, 1);
		atomic_fetch_sub(&h->counter, 1);
	}
	bench_turn(false);
	*floor = (double)bench_took(t0) / PAIRS;
	t0 = bench_now();
	r = pairs(h->lease[0], PAIRS);
	bench_turn(true);
	*ours = (double)bench_took(t0) / PAIRS;
	return r;
}

struct run {
	pthread_barrier_t *start;
	pthread_t thread;
	struct pinlease **lease;
	unsigned int leases, pairs;	/* pairs: with each */
	uint64_t began, ended;
	int r;
};

static void *run_main(void *arg)
{
	struct run *run = arg;
	unsigned int i;

	/* A thread's first use of a lease makes it a counter, and moves those that it has. */
	for (i = 0; i < run->leases && !run->r; i++)
		run->r = pairs(run->lease[i], 1);
	pthread_barrier_wait(run->start);
	run->began = bench_now();
	for (i = 0; i < run->leases && !run->r; i++)
		run->r = pairs(run->lease[i], run->pairs);
	run->ended = bench_now();
	return NULL;
}

/*
 * All threads at once, each with so many leases, from one `step` further each; millions of
 * pairs a second, from the first one's beginning to the last one's end.
 */
static int together(struct hot *h, bool ours, unsigned int leases, unsigned int step, double *rate)
{
	unsigned int i, each = PAIRS_MANY / h->threads / leases;
	uint64_t began = UINT64_MAX, ended = 0;
	struct run run[THREADS_MAX];
	pthread_barrier_t start;
	int r = 0;

	pthread_barrier_init(&start, NULL, h->threads);
	for (i = 0; i < h->threads; i++) {
		run[i] = (struct run){ .start = &start, .lease = h->lease + i * step, .leases = leases,
				       .pairs = each };
		pthread_create(&run[i].thread, NULL, run_main, &run[i]);
	}
	for (i = 0; i < h->threads; i++) {
		pthread_join(run[i].thread, NULL);
		r = run[i].r ? run[i].r : r;
		began = run[i].began < began ? run[i].began : began;
		ended = run[i].ended > ended ? run[i].ended : ended;
	}
	*rate = 1e3 * each * leases * h->threads / (double)(ended - began);
	bench_turn(ours);
	bench_span(began, ended);
	pthread_barrier_destroy(&start);
	return r;
}

static int shared_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct hot *h = state;
	unsigned int own = h->all ? h->leases / h->threads : 1, i;
	double a, b;
	int r = 0;

	(void)n;
	*ours = *floor = 0;
	for (i = 0; i < SHOTS && !r; i++) {
		r = together(h, false, own, own, &b);
		r = r ? r : together(h, true, h->all ? h->leases : 1, 0, &a);
		*floor = b > *floor ? b : *floor;
		*ours = a > *ours ? a : *ours;
	}
	return r;
}

#define SHARED_ROW(id, count, text)                                                                      \
	{                                                                                                \
		.name = "begin_end_" id, .unit = "M/s", .what = text, .bar = 0.95, .higher = true,       \
		.samples = 20, .best = true, .arg = count, .set_up = hot_up, .sample = shared_sample,    \
		.tear_down = hot_down                                                                    \
	}

#define HOT_ROW(id, best_of, text)                                                                     \
	{                                                                                              \
		.name = id, .unit = "ns", .what = text, .bar = 0.35, .best = best_of, .samples = 4000, \
		.arg = 1, .set_up = hot_up, .sample = hot_sample, .tear_down = hot_down                \
	}

const struct bench_row bench_begin_end[] = {
	HOT_ROW("begin_end", false, "dma_begin + dma_end, one thread; floor: uncontended atomic add + sub"),
	HOT_ROW("begin_end_best", true, "the same, the best of each: nobody else on this core"),
	SHARED_ROW("1t", 1, "one thread, against itself: for the chart"),
	SHARED_ROW("2t", 2, "two threads on one lease; floor: two threads, a lease each"),
	SHARED_ROW("4t", 4, "the same with four"),
	SHARED_ROW("16t", 16, "the same with sixteen"),
	SHARED_ROW("64t", THREADS_MAX, "64 threads, all on the same 1,000 leases; floor: 15 of its own each"),
	{ .name = NULL },
};
