/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 20,000 leases in one process: the last 1,000 acquired, against the first 1,000 of the same
 * run. On as many files: two descriptors and one in flight for each, both counted against
 * RLIMIT_NOFILE, so where root may not raise its hard limit this needs the guest. On one sparse
 * file of 8 GiB: a mapping each, of vm.max_map_count.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"
#include "kt.h"

#define LEASES 20000u
#define GROUP  1000u
#define PAGE   4096u
#define STEP   ((8ull << 30) / LEASES / PAGE * PAGE)

struct scale {
	struct kt_fs fs;
	bool one_file;
};

static void scale_path(char path[KT_PATH_MAX], const struct scale *s, unsigned int i)
{
	snprintf(path, KT_PATH_MAX, "%.70s/f%u", s->fs.dir, s->one_file ? 0 : i);
}

static int acquire_next(const struct scale *s, struct pinlease_ctx *ctx, struct pinlease_file **file,
			unsigned int i)
{
	struct pinlease *lease;
	char path[KT_PATH_MAX];
	int r = 0;

	if (!i || !s->one_file) {
		scale_path(path, s, i);
		r = pinlease_file_open(ctx, path, NULL, NULL, file);
	}
	return r ? r : pinlease_acquire(*file, s->one_file ? i * STEP : 0, PAGE, NULL, NULL, &lease);
}

/* us a lease. */
static int acquire_all(void *state, unsigned int n, double *last, double *first)
{
	const struct scale *s = state;
	struct pinlease_file *file;
	struct pinlease_ctx *ctx;
	uint64_t t0 = 0;
	unsigned int i;
	int r = pinlease_ctx_new(NULL, &ctx);

	(void)n;
	for (i = 0; i < LEASES && !r; i++) {
		if (i == 0 || i == LEASES - GROUP)
			t0 = bench_now();
		r = acquire_next(s, ctx, &file, i);
		if (i == GROUP - 1)
			*first = (double)(bench_now() - t0) / 1e3 / GROUP;
	}
	*last = (double)(bench_now() - t0) / 1e3 / GROUP;
	return r;
}

static int scale_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_apart(acquire_all, state, n, ours, floor);
}

static int scale_up(const struct bench_row *row, void **state)
{
	struct scale *s = calloc(1, sizeof(*s));
	unsigned int i, files = row->arg ? 1 : LEASES;
	char path[KT_PATH_MAX];
	int fd, r = row->arg ? 0 : bench_nofile(2 * LEASES + 1000);

	*state = s;
	s->one_file = row->arg;
	if (!r)
		r = kt_fs_make(&s->fs, "tmpfs", 512);
	for (i = 0; i < files && !r; i++) {
		scale_path(path, s, i);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		r = fd < 0 || ftruncate(fd, s->one_file ? 8ll << 30 : PAGE) ? -errno : 0;
		close(fd);
	}
	return r;
}

static void scale_down(void *state)
{
	struct scale *s = state;

	kt_fs_drop(&s->fs);
	free(s);
}

#define ROW(id, one, text)                                                                      \
	{                                                                                       \
		.name = "acquire_20k_" id, .unit = "us", .what = text, .bar = 1.2, .samples = 3, \
		.guest = !(one), .arg = one, .set_up = scale_up, .sample = scale_sample,        \
		.tear_down = scale_down                                                         \
	}

const struct bench_row bench_scale[] = {
	ROW("files", 0, "open and acquire, the last 1,000 of 20,000 files; floor: the first 1,000"),
	ROW("one_file", 1, "acquire, the last 1,000 of 20,000 leases on one file; floor: the first 1,000"),
	{ .name = NULL },
};
