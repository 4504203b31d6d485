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
#include <sys/wait.h>
#include <unistd.h>

#include <pinlease.h>

#include "bench.h"

#define LEASES	    1024
#define LEASE_BYTES (64u << 10)
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

static int hold_all(const struct memory *m, double *bytes)
{
	struct pinlease_file *file;
	struct pinlease_ctx *ctx;
	size_t before = 0;
	int r = pinlease_ctx_new(NULL, &ctx);

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

/* The child leaves without tidying up: the kernel does. */
static int memory_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct {
		double bytes;
		int r;
	} said = { 0, -EPIPE };
	int fds[2];
	pid_t child;

	(void)n;
	(void)floor;
	if (pipe(fds))
		return -errno;
	child = fork();
	if (!child) {
		said.r = hold_all(state, &said.bytes);
		_exit(write(fds[1], &said, sizeof(said)) != sizeof(said));
	}
	close(fds[1]);
	if (child < 0 || read(fds[0], &said, sizeof(said)) != sizeof(said))
		said.r = -EPIPE;
	close(fds[0]);
	if (child > 0)
		waitpid(child, NULL, 0);
	*ours = said.bytes;
	return said.r;
}

static void memory_down(void *state)
{
	struct memory *m = state;

	unlink(m->path);
	free(m);
}

static int memory_up(void **state, uint32_t mode, uint32_t flags)
{
	struct memory *m = calloc(1, sizeof(*m));
	int fd, r;

	*state = m;
	m->opts = (struct pinlease_opts){ .size = sizeof(m->opts), .mode = mode, .flags = flags };
	snprintf(m->path, sizeof(m->path), "/dev/shm/pinlease-bench-%d", (int)getpid());
	fd = open(m->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = ftruncate(fd, (off_t)(1 + LEASES) * LEASE_BYTES) ? -errno : 0;
	close(fd);
	return r;
}

#define MEMORY_ROW(id, mode, flags, text)                              \
	static int id##_up(void **state)                               \
	{                                                              \
		return memory_up(state, mode, flags);                  \
	}                                                              \
	const struct bench_row bench_##id = { .name = #id,             \
					      .unit = "bytes",         \
					      .what = text,            \
					      .bar = 512,              \
					      .by_value = true,        \
					      .samples = 5,            \
					      .set_up = id##_up,       \
					      .sample = memory_sample, \
					      .tear_down = memory_down }

MEMORY_ROW(mem_lease_pinned, PINLEASE_MODE_PINNED, 0, "allocated for a pinned lease of 64 KiB");
MEMORY_ROW(mem_lease_staged, PINLEASE_MODE_STAGED, 0, "the same, staged for writing, but for a bit a page");
MEMORY_ROW(mem_lease_told, PINLEASE_MODE_STAGED, PINLEASE_L_FILL_NONE | PINLEASE_L_DIRTY_TOLD,
	   "the same, not filled, and told what is dirty");
