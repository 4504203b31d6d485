/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pinlease_sync of staged memory: all of it, and a few pages told of much, against pwrite
 * and fdatasync of the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "kt.h"

#define PAGE  4096u
#define FEW   16u
#define MUCH  (64u << 20)
#define PIECE (1u << 20)

struct synced {
	struct kt_fs fs;
	int fd;
	char *memory;
	uint64_t len, step;	/* what is leased; a dirty page each so many bytes, 0: all is dirty */
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
};

/* Both sides write what has not been written before. */
static void change(struct synced *s, char *memory, unsigned int n)
{
	uint64_t at;

	for (at = 0; at < s->len; at += s->step ? s->step : PAGE)
		memory[at + n % PAGE]++;
}

static int bare_sync(void *state, double *took)
{
	struct synced *s = state;
	uint64_t t0 = bench_now(), at, len = s->step ? PAGE : s->len < PIECE ? s->len : PIECE;

	for (at = 0; at < s->len; at += s->step ? s->step : len)
		if (pwrite(s->fd, s->memory + at, len, (off_t)at) != (ssize_t)len)
			return -EIO;
	if (fdatasync(s->fd))
		return -errno;
	*took = (double)bench_took(t0);
	return 0;
}

static int our_sync(void *state, double *took)
{
	struct synced *s = state;
	uint64_t at, t0;
	uint32_t gen;
	int r = pinlease_dma_begin(s->lease, 1, &gen);

	for (at = 0; !r && at < s->len; at += s->step ? s->step : s->len)
		r = pinlease_mark_dirty(s->lease, at, s->step ? PAGE : s->len);
	if (!r)
		pinlease_dma_end(s->lease, 1, gen);
	t0 = bench_now();
	if (!r)
		r = pinlease_sync(s->lease, 0, 0, 0);
	*took = (double)bench_took(t0);
	return r;
}

/* MiB/s of all, us for a few pages. */
static double figure(const struct synced *s, double took)
{
	return s->step ? took / 1e3 : (double)s->len / 1048576.0 / (took / 1e9);
}

static int sync_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct synced *s = state;
	double our_ns = 1, bare_ns = 1;
	int r;

	change(s, s->memory, n);
	change(s, s->view.addr, n);
	r = bench_in_turns(s, n, &our_ns, &bare_ns, our_sync, bare_sync);
	*ours = figure(s, our_ns);
	*floor = figure(s, bare_ns);
	return r;
}

static int sync_lease(struct synced *s, const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .mode = PINLEASE_MODE_STAGED,
				      .flags = PINLEASE_L_DIRTY_TOLD };
	int r = pinlease_ctx_new(NULL, &s->ctx);

	if (!r)
		r = pinlease_file_open(s->ctx, path, NULL, NULL, &s->file);
	if (!r)
		r = pinlease_acquire(s->file, 0, s->len, &opts, NULL, &s->lease);
	s->view.size = sizeof(s->view);
	return r ? r : pinlease_view_get(s->lease, 0, &s->view);
}

static int sync_up(const struct bench_row *row, void **state)
{
	struct synced *s = calloc(1, sizeof(*s));
	char bare[KT_PATH_MAX], ours[KT_PATH_MAX];
	int r = kt_fs_make(&s->fs, "ext4", 256);

	*state = s;
	s->len = row->arg ? (uint64_t)row->arg : MUCH;
	s->step = row->arg ? 0 : MUCH / FEW;
	if (!r)
		r = kt_file(bare, s->fs.dir, "bare", s->len);
	if (!r)
		r = kt_file(ours, s->fs.dir, "ours", s->len);
	if (r)
		return r;
	s->fd = open(bare, O_RDWR | O_CLOEXEC);
	s->memory = aligned_alloc(2 << 20, s->len < 2 << 20 ? 2 << 20 : s->len);
	if (s->fd < 0 || !s->memory)
		return -ENOMEM;
	memset(s->memory, 1, s->len);
	return sync_lease(s, ours);
}

static void sync_down(void *state)
{
	struct synced *s = state;

	pinlease_release(s->lease);
	pinlease_file_close(s->file);
	pinlease_ctx_free(s->ctx);
	close(s->fd);
	free(s->memory);
	kt_fs_drop(&s->fs);
	free(s);
}

#define ROW(id, bytes, count, text)                                                                 \
	{                                                                                           \
		.name = "writeback_bw_" id, .unit = "MiB/s", .what = text, .bar = 0.9,              \
		.higher = true, .samples = count, .arg = bytes, .set_up = sync_up,                  \
		.sample = sync_sample, .tear_down = sync_down                                       \
	}

const struct bench_row bench_sync[] = {
	ROW("64k", 64 << 10, 400, "sync of 64 KiB of staged memory on ext4; floor: pwrite, fdatasync"),
	ROW("1m", 1 << 20, 200, "the same with 1 MiB"),
	ROW("16m", 16 << 20, 60, "the same with 16 MiB"),
	{
		.name = "sync_told",
		.unit = "us",
		.what = "sync of 16 pages told of 64 MiB; floor: pwrite of those, fdatasync",
		.bar = 1.25,
		.samples = 200,
		.set_up = sync_up,
		.sample = sync_sample,
		.tear_down = sync_down,
	},
	{ .name = NULL },
};
