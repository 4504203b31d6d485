/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a lease costs of this process's own memory: all that the C library's allocator has
 * given out for it, its headers included: the lease, its counters of one thread, its bitmap.
 * Each sample is a process of its own, since counters are never given back. The bit a page
 * that staged memory for writing takes is left out. What a provider allocates is not ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <pinlease.h>

#include "bench.h"

#define LEASES	    1024
#define LEASE_BYTES 4096u /* all of them fit into what a break may have to write back */
#define PAGE	    4096u
#define PATH_BYTES  64

struct memory {
	char path[PATH_BYTES];
	struct pinlease_opts opts;
};

/* The first one makes what a thread has once; it is not counted. */
static int hold(struct pinlease_file *file, const struct memory *m, unsigned int from, unsigned int to)
{
	struct pinlease *lease;
	uint32_t gen;
	int r = 0;

	for (; from < to && !r; from++) {
		r = pinlease_acquire(file, (uint64_t)from * LEASE_BYTES, LEASE_BYTES, &m->opts, NULL, &lease);
		if (!r)
			r = pinlease_dma_begin(lease, 1, &gen);
		if (!r)
			pinlease_dma_end(lease, 1, gen);
	}
	return r;
}

static int hold_all(void *arg, unsigned int n, double *bytes, double *floor)
{
	const struct memory *m = arg;
	struct pinlease_file *file;
	struct pinlease_ctx *ctx;
	size_t before = 0;
	int r = pinlease_ctx_new(NULL, &ctx);

	(void)n;
	*floor = 0;
	if (!r)
		r = pinlease_file_open(ctx, m->path, NULL, NULL, &file);
	if (!r)
		r = hold(file, m, 0, 1);
	if (!r) {
		before = mallinfo2().uordblks;
		r = hold(file, m, 1, 1 + LEASES);
	}
	*bytes = (double)(mallinfo2().uordblks - before) / LEASES;
	if (m->opts.mode == PINLEASE_MODE_STAGED)
		*bytes -= LEASE_BYTES / PAGE / 8.0;
	return r;
}

static int memory_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_apart(hold_all, state, n, ours, floor);
}

static void memory_down(void *state)
{
	struct memory *m = state;

	unlink(m->path);
	free(m);
}

static const struct {
	uint32_t mode, flags;
} kinds[] = {
	{ PINLEASE_MODE_PINNED, 0 },
	{ PINLEASE_MODE_STAGED, 0 },
	{ PINLEASE_MODE_STAGED, PINLEASE_L_FILL_NONE | PINLEASE_L_DIRTY_TOLD },
};

static int memory_up(const struct bench_row *row, void **state)
{
	struct memory *m = calloc(1, sizeof(*m));
	int fd, r;

	*state = m;
	m->opts = (struct pinlease_opts){ .size = sizeof(m->opts), .mode = kinds[row->arg].mode,
					  .flags = kinds[row->arg].flags };
	snprintf(m->path, sizeof(m->path), "/dev/shm/pinlease-bench-%d", (int)getpid());
	fd = open(m->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = ftruncate(fd, (off_t)(1 + LEASES) * LEASE_BYTES) ? -errno : 0;
	close(fd);
	return r;
}

#define MEMORY_ROW(id, kind, text)                                                                \
	{                                                                                         \
		.name = "mem_lease_" id, .unit = "bytes", .what = text, .bar = 512, .by_value = true, \
		.samples = 5, .arg = kind, .set_up = memory_up, .sample = memory_sample,          \
		.tear_down = memory_down                                                          \
	}

const struct bench_row bench_memory[] = {
	MEMORY_ROW("pinned", 0, "allocated for a pinned lease of 4 KiB"),
	MEMORY_ROW("staged", 1, "the same, staged for writing, but for a bit a page"),
	MEMORY_ROW("told", 2, "the same, not filled, and told what is dirty"),
	{ .name = NULL },
};
