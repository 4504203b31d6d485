/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Acquiring, releasing and restoring 2 MiB with a memory region, in each mode, against the
 * system calls and verbs that this takes at least; and what they pin of RLIMIT_MEMLOCK.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "kt_rdma.h"
#include "opener.h"

#define BYTES ((size_t)OPENER_BYTES)
#define SIGNO (SIGRTMAX - 4)

struct scene {
	struct kt_fs fs;
	struct kt_rdma dev;
	struct opener opener;
	char path[KT_PATH_MAX], bare_path[KT_PATH_MAX];
	int bare_fd;
	void *bare;		/* restore: stays mapped, as a lease's memory does */
	uint32_t mode;
	unsigned int access;	/* of the bare registration */
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_opts opts;
};

/* What has to be done in this mode so that the memory is the file's. */
static int bare_map(const struct scene *s, void **at)
{
	bool staged = s->mode == PINLEASE_MODE_STAGED;

	*at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, staged ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED,
		   staged ? -1 : s->bare_fd, 0);
	return *at == MAP_FAILED ? -errno : 0;
}

static int bare_fill(const struct scene *s, void *at)
{
	if (s->mode == PINLEASE_MODE_STAGED)
		return pread(s->bare_fd, at, BYTES, 0) == (ssize_t)BYTES ? 0 : -EIO;
	return madvise(at, BYTES, MADV_POPULATE_WRITE) ? -errno : 0;
}

static int bare_acquire(void *state, double *us)
{
	struct scene *s = state;
	uint64_t t0 = bench_now();
	struct ibv_mr *mr = NULL;
	void *at;
	int r = bare_map(s, &at);

	if (r)
		return r;
	r = bare_fill(s, at);
	if (!r)
		mr = ibv_reg_mr(s->dev.pd, at, BYTES, s->access);
	if (!mr || ibv_dereg_mr(mr))
		r = -errno;
	munmap(at, BYTES);
	*us = (double)bench_took(t0) / 1e3;
	return r;
}

static int our_acquire(void *state, double *us)
{
	struct scene *s = state;
	uint64_t t0 = bench_now();
	int r = pinlease_acquire(s->file, 0, BYTES, &s->opts, NULL, &s->lease);

	if (!r)
		r = pinlease_release(s->lease);
	*us = (double)bench_took(t0) / 1e3;
	return r;
}

static int acquire_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_in_turns(state, n, ours, floor, our_acquire, bare_acquire);
}

/*
 * The guard is taken, the memory filled and registered; the rest is not measured. Before it, as before
 * ours, the other process has truncated the file and this one has slept: caches are as cold.
 */
static int bare_restore(void *state, double *us)
{
	struct scene *s = state;
	struct ibv_mr *mr = NULL;
	double blocked;
	uint64_t t0;
	int r = opener_truncate(&s->opener, s->bare_path, &blocked);

	usleep(50);
	t0 = bench_now();
	if (!r)
		r = kt_lease_take(s->bare_fd, F_WRLCK, SIGNO);
	if (!r)
		r = bare_fill(s, s->bare);
	if (!r)
		mr = ibv_reg_mr(s->dev.pd, s->bare, BYTES, s->access);
	*us = (double)bench_took(t0) / 1e3;
	if (!mr || ibv_dereg_mr(mr))
		r = r ? r : -errno;
	return r ? r : kt_lease_drop(s->bare_fd);
}

static int our_restore(void *state, double *us)
{
	struct scene *s = state;
	uint64_t t0;
	double blocked;
	int r = opener_truncate(&s->opener, s->path, &blocked);

	if (!r)
		r = bench_state(s->lease, PINLEASE_REVOKED);
	t0 = bench_now();
	if (!r)
		r = pinlease_restore(s->lease, NULL);
	*us = (double)bench_took(t0) / 1e3;
	return r;
}

static int restore_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_in_turns(state, n, ours, floor, our_restore, bare_restore);
}

/* KiB that are pinned while it is registered (VmPin), which is what the limit counts. */
static int memlock_sample(void *state, unsigned int n, double *ours, double *floor)
{
	struct scene *s = state;
	long before = kt_pinned_kib();
	struct ibv_mr *mr;
	void *at;
	int r = bare_map(s, &at);

	(void)n;
	if (r)
		return r;
	/* Staged memory pins its own: to the limit it is the same. */
	mr = ibv_reg_mr(s->dev.pd, at, BYTES, KT_ACCESS_WRITE);
	if (before < 0 || !mr)
		return -EIO;
	*floor = (double)(kt_pinned_kib() - before);
	ibv_dereg_mr(mr);
	munmap(at, BYTES);
	r = pinlease_acquire(s->file, 0, BYTES, &s->opts, NULL, &s->lease);
	if (r)
		return r;
	*ours = (double)(kt_pinned_kib() - before);
	return pinlease_release(s->lease);
}

static void scene_down(void *state)
{
	struct scene *s = state;

	if (s->opener.call) {
		opener_end(&s->opener);
		pinlease_release(s->lease);
	}
	munmap(s->bare, BYTES);
	close(s->bare_fd);
	pinlease_file_close(s->file);
	pinlease_ctx_free(s->ctx);
	kt_rdma_close(&s->dev);
	kt_fs_drop(&s->fs);
	free(s);
}

static int scene_up(const struct bench_row *row, void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	int r = kt_rdma_open(&s->dev);

	*state = s;
	s->mode = (uint32_t)row->arg;
	s->access = KT_ACCESS_WRITE | (s->mode == PINLEASE_MODE_ODP ? IBV_ACCESS_ON_DEMAND : 0);
	s->opts = (struct pinlease_opts){ .size = sizeof(s->opts), .pd = s->dev.pd, .mode = s->mode,
					  .ibv_access = KT_ACCESS_WRITE, .flags = PINLEASE_L_MANUAL };
	/* Nothing is marked: writing back is not part of it. */
	if (s->mode == PINLEASE_MODE_STAGED)
		s->opts.flags |= PINLEASE_L_DIRTY_TOLD;
	if (!r)
		r = kt_fs_make(&s->fs, "tmpfs", 64);
	if (!r)
		r = kt_file(s->bare_path, s->fs.dir, "bare", BYTES);
	if (!r)
		r = kt_file(s->path, s->fs.dir, "ours", BYTES);
	s->bare_fd = open(s->bare_path, O_RDWR | O_CLOEXEC);
	if (!r)
		r = bare_map(s, &s->bare);
	if (!r)
		r = pinlease_ctx_new(NULL, &s->ctx);
	return r ? r : pinlease_file_open(s->ctx, s->path, NULL, NULL, &s->file);
}

static int restore_up(const struct bench_row *row, void **state)
{
	struct scene *s;
	int r = scene_up(row, state);

	s = *state;
	if (!r)
		r = opener_start(&s->opener);
	return r ? r : pinlease_acquire(s->file, 0, BYTES, &s->opts, NULL, &s->lease);
}

#define ROW(id, what_it_is, kind, limit, count, up, one)                                                    \
	{                                                                                                   \
		.name = id, .unit = "us", .what = what_it_is, .bar = limit, .guest = true, .samples = count, \
		.arg = kind, .set_up = up, .sample = one, .tear_down = scene_down                           \
	}
#define MEMLOCK_ROW(id, what_it_is, kind)                                                             \
	{                                                                                             \
		.name = id, .unit = "KiB", .what = what_it_is, .bar = 1, .guest = true, .samples = 5, \
		.arg = kind, .set_up = scene_up, .sample = memlock_sample, .tear_down = scene_down    \
	}

const struct bench_row bench_acquire[] = {
	ROW("acquire_2m_pinned", "acquire and release; floor: mmap, populate, register, deregister, munmap",
	    PINLEASE_MODE_PINNED, 1.1, 300, scene_up, acquire_sample),
	ROW("acquire_2m_odp", "the same in mode odp", PINLEASE_MODE_ODP, 1.1, 300, scene_up, acquire_sample),
	ROW("acquire_2m_staged", "the same in mode staged; floor: read, too", PINLEASE_MODE_STAGED, 1.1, 100,
	    scene_up, acquire_sample),
	ROW("restore_2m_pinned", "pinlease_restore; floor: F_SETLEASE, populate, register",
	    PINLEASE_MODE_PINNED, 1.25, 100, restore_up, restore_sample),
	ROW("restore_2m_odp", "the same in mode odp", PINLEASE_MODE_ODP, 1.25, 100, restore_up,
	    restore_sample),
	ROW("restore_2m_staged", "the same in mode staged; floor: read for populate", PINLEASE_MODE_STAGED,
	    1.25, 100, restore_up, restore_sample),
	MEMLOCK_ROW("memlock_2m_pinned", "pinned by a lease of 2 MiB; floor: by ibv_reg_mr of as much",
		    PINLEASE_MODE_PINNED),
	MEMLOCK_ROW("memlock_2m_odp", "the same in mode odp: nothing", PINLEASE_MODE_ODP),
	MEMLOCK_ROW("memlock_2m_staged", "the same in mode staged", PINLEASE_MODE_STAGED),
	{ .name = NULL },
};
