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

#define PAIRS	   200000u
#define PAIRS_2T   2000000u
#define PATH_BYTES 64

struct hot {
	char path[PATH_BYTES];
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease[2];
	_Atomic uint64_t counter;
};

static void hot_down(void *state)
{
	struct hot *h = state;

	pinlease_release(h->lease[1]);
	pinlease_release(h->lease[0]);
	pinlease_file_close(h->file);
	pinlease_ctx_free(h->ctx);
	unlink(h->path);
	free(h);
}

static int hot_up(void **state)
{
	struct hot *h = calloc(1, sizeof(*h));
	int fd, r;

	snprintf(h->path, sizeof(h->path), "/dev/shm/pinlease-bench-%d", (int)getpid());
	fd = open(h->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, 1 << 16))
		return -errno;
	close(fd);
	r = pinlease_ctx_new(NULL, &h->ctx);
	if (!r)
		r = pinlease_file_open(h->ctx, h->path, NULL, NULL, &h->file);
	if (!r)
		r = pinlease_acquire(h->file, 0, 4096, NULL, NULL, &h->lease[0]);
	if (!r)
		r = pinlease_acquire(h->file, 8192, 4096, NULL, NULL, &h->lease[1]);
	*state = h;
	return r;
}

static int pairs(struct pinlease *lease, unsigned int n)
{
	uint32_t gen;
	int r = 0;

	while (n-- && !r) {
		r = pinlease_dma_begin(lease, 1, &gen);
		if (!r)
			pinlease_dma_end(lease, 1, gen);
	}
	return r;
}

static int hot_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct hot *h = state;
	uint64_t t0 = bench_now(), t1, t2;
	unsigned int i;
	int r;

	(void)n;
	for (i = 0; i < PAIRS; i++) {
		atomic_fetch_add(&h->counter, 1);
		atomic_fetch_sub(&h->counter, 1);
	}
	t1 = bench_now();
	r = pairs(h->lease[0], PAIRS);
	t2 = bench_now();
	*floor = (double)(t1 - t0) / PAIRS;
	*ours = (double)(t2 - t1) / PAIRS;
	return r;
}

struct run {
	pthread_barrier_t *start;
	struct pinlease *lease;
	int r;
};

static void *run_main(void *arg)
{
	struct run *run = arg;

	pthread_barrier_wait(run->start);
	run->r = pairs(run->lease, PAIRS_2T);
	return NULL;
}

/* Two threads at once; millions of pairs a second, both together. */
static int two_threads(struct pinlease *a, struct pinlease *b, double *rate)
{
	pthread_barrier_t start;
	struct run run[2] = { { &start, a, 0 }, { &start, b, 0 } };
	pthread_t t[2];
	uint64_t t0;

	pthread_barrier_init(&start, NULL, 3);
	pthread_create(&t[0], NULL, run_main, &run[0]);
	pthread_create(&t[1], NULL, run_main, &run[1]);
	pthread_barrier_wait(&start);
	t0 = bench_now();
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	*rate = 2e3 * PAIRS_2T / (double)(bench_now() - t0);
	pthread_barrier_destroy(&start);
	return run[0].r ? run[0].r : run[1].r;
}

static int shared_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct hot *h = state;
	int r = two_threads(h->lease[0], h->lease[1], floor);

	(void)n;
	return r ? r : two_threads(h->lease[0], h->lease[0], ours);
}

const struct bench_row bench_begin_end = {
	.name = "begin_end",
	.unit = "ns",
	.what = "dma_begin + dma_end, one thread; floor: uncontended atomic add + sub",
	.bar = 0.35,
	.samples = 400,
	.set_up = hot_up,
	.sample = hot_sample,
	.tear_down = hot_down,
};

const struct bench_row bench_begin_end_2t = {
	.name = "begin_end_2t",
	.unit = "M/s",
	.what = "two threads on one lease; floor: two threads, a lease each",
	.bar = 0.95,
	.higher = true,
	.samples = 20,
	.best = true,
	.set_up = hot_up,
	.sample = shared_sample,
	.tear_down = hot_down,
};
