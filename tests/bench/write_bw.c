/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * RDMA writes out of a lease, with begin and end around each, and without: 16 queue pairs,
 * batches in turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "kt.h"
#include "kt_rdma.h"

#define QPS	    16u
#define DEPTH	    4u
#define BATCH_BYTES (8u << 20)
#define BATCH_MAX   256u

struct stream {
	char path[64];
	struct kt_rdma dev;
	struct kt_pair pair[QPS];
	unsigned int pairs;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
	void *target;
	struct ibv_mr *mr;
	uint32_t size;
	unsigned int batch;
};

static int post_one(struct stream *s, unsigned int q, bool counted)
{
	uint64_t off = (uint64_t)q * s->size;
	uint32_t gen;
	int r = counted ? pinlease_dma_begin(s->lease, 1, &gen) : 0;

	return r ? r : kt_post(&s->pair[q].peer, IBV_WR_RDMA_WRITE, counted ? gen : 0,
			       (char *)s->view.addr + off, s->view.lkey, s->size,
			       (uintptr_t)s->target + off, s->mr->rkey);
}

/* What has completed of one queue pair; the number, or -errno. */
static int reap(struct stream *s, unsigned int q, bool counted)
{
	struct ibv_wc wc[DEPTH];
	int n = ibv_poll_cq(s->pair[q].peer.cq, DEPTH, wc), i;

	for (i = 0; i < n; i++) {
		if (wc[i].status != IBV_WC_SUCCESS)
			return -EIO;
		if (counted)
			pinlease_dma_end(s->lease, 1, (uint32_t)wc[i].wr_id);
	}
	return n;
}

static int batch(struct stream *s, bool counted, double *rate)
{
	unsigned int flying[QPS] = { 0 }, posted = 0, done = 0, q;
	uint64_t t0 = bench_now();
	int r = 0;

	while (done < s->batch && r >= 0) {
		for (q = 0; q < QPS && r >= 0; q++) {
			for (; posted < s->batch && flying[q] < DEPTH && !r; flying[q]++, posted++)
				r = post_one(s, q, counted);
			r = r ? r : reap(s, q, counted);
			if (r <= 0)
				continue;
			flying[q] -= (unsigned int)r;
			done += (unsigned int)r;
			r = 0;
		}
	}
	*rate = (double)s->batch * s->size / 1048576.0 / ((double)bench_took(t0) / 1e9);
	return r < 0 ? r : 0;
}

static int counted_batch(void *state, double *rate)
{
	return batch(state, true, rate);
}

static int bare_batch(void *state, double *rate)
{
	return batch(state, false, rate);
}

static int stream_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_in_turns(state, n, ours, floor, counted_batch, bare_batch);
}

static int stream_lease(struct stream *s)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .pd = s->dev.pd, .mode = PINLEASE_MODE_PINNED,
				      .ibv_access = KT_ACCESS_WRITE };
	uint64_t bytes = (uint64_t)QPS * s->size;
	int fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), r;

	if (fd < 0 || ftruncate(fd, (off_t)bytes))
		return -errno;
	close(fd);
	r = pinlease_ctx_new(NULL, &s->ctx);
	if (!r)
		r = pinlease_file_open(s->ctx, s->path, NULL, NULL, &s->file);
	if (!r)
		r = pinlease_acquire(s->file, 0, bytes, &opts, NULL, &s->lease);
	s->view.size = sizeof(s->view);
	return r ? r : pinlease_view_get(s->lease, 0, &s->view);
}

static int stream_up(const struct bench_row *row, void **state)
{
	struct stream *s = calloc(1, sizeof(*s));
	int r = kt_rdma_open(&s->dev);

	*state = s;
	s->size = (uint32_t)row->arg;
	s->batch = BATCH_BYTES / s->size;
	s->batch = s->batch > BATCH_MAX ? BATCH_MAX : s->batch < 2 * QPS ? 2 * QPS : s->batch;
	snprintf(s->path, sizeof(s->path), "/dev/shm/pinlease-bench-%d", (int)getpid());
	s->dev.patient = true;
	if (!r)
		r = stream_lease(s);
	s->target = aligned_alloc(4096, QPS * s->size < 4096 ? 4096 : QPS * s->size);
	if (!r && s->target)
		s->mr = ibv_reg_mr(s->dev.pd, s->target, QPS * s->size, KT_ACCESS_WRITE);
	for (; !r && s->pairs < QPS; s->pairs += !r)
		r = kt_pair_make(&s->dev, &s->pair[s->pairs], DEPTH);
	return r ? r : s->mr ? 0 : -ENOMEM;
}

static void stream_down(void *state)
{
	struct stream *s = state;

	while (s->pairs)
		kt_pair_drop(&s->pair[--s->pairs]);
	ibv_dereg_mr(s->mr);
	free(s->target);
	pinlease_release(s->lease);
	pinlease_file_close(s->file);
	pinlease_ctx_free(s->ctx);
	kt_rdma_close(&s->dev);
	unlink(s->path);
	free(s);
}

#define ROW(id, bytes, count, text)                                                                       \
	{                                                                                                 \
		.name = "write_bw_" id, .unit = "MiB/s", .what = text, .bar = 0.98, .higher = true,       \
		.reach = true, .guest = true, .samples = count, .arg = bytes, .set_up = stream_up,        \
		.sample = stream_sample, .tear_down = stream_down                                         \
	}

const struct bench_row bench_write_bw[] = {
	ROW("64", 64, 300, "RDMA writes of 64 bytes, 16 queue pairs, begin and end at each; floor: without"),
	ROW("512", 512, 300, "the same with 512 bytes"),
	ROW("4k", 4096, 300, "the same with 4 KiB"),
	ROW("32k", 32768, 200, "the same with 32 KiB"),
	ROW("256k", 262144, 100, "the same with 256 KiB"),
	ROW("1m", 1048576, 60, "the same with 1 MiB"),
	{ .name = NULL },
};
