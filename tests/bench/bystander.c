/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What others pay who read a file that is leased for reading: open, read and close, against no lease; and
 * against a lease without this library, which tells what of it is the kernel's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"
#include "kt.h"

#define ROUNDS 2000u
#define BYTES  4096u

struct bystander {
	struct kt_fs fs;
	char leased[KT_PATH_MAX], bare[KT_PATH_MAX];
	int bare_fd; /* leased; -1: it is not */
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
};

static int read_often(const char *path, double *us)
{
	char buf[BYTES];
	uint64_t t0 = bench_now();
	unsigned int i;
	int fd;

	for (i = 0; i < ROUNDS; i++) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, buf, BYTES) != BYTES)
			return -EIO;
		close(fd);
	}
	*us = (double)bench_took(t0) / 1e3 / ROUNDS;
	return 0;
}

static int read_leased(void *state, double *us)
{
	return read_often(((struct bystander *)state)->leased, us);
}

static int read_bare(void *state, double *us)
{
	return read_often(((struct bystander *)state)->bare, us);
}

static int bystander_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_in_turns(state, n, ours, floor, read_leased, read_bare);
}

static int bystander_up(const struct bench_row *row, void **state)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .access = PINLEASE_READ };
	struct bystander *b = calloc(1, sizeof(*b));
	int r = kt_fs_make(&b->fs, row->fs, 64);

	*state = b;
	if (!r)
		r = kt_file(b->leased, b->fs.dir, "leased", BYTES);
	if (!r)
		r = kt_file(b->bare, b->fs.dir, "bare", BYTES);
	if (!r)
		r = pinlease_ctx_new(NULL, &b->ctx);
	if (!r)
		r = pinlease_file_open(b->ctx, b->leased, &opts, NULL, &b->file);
	b->bare_fd = r || !row->arg ? -1 : open(b->bare, O_RDONLY | O_CLOEXEC);
	if (!r && row->arg && (b->bare_fd < 0 || fcntl(b->bare_fd, F_SETLEASE, F_RDLCK)))
		r = -errno;
	return r ? r : pinlease_acquire(b->file, 0, BYTES, NULL, NULL, &b->lease);
}

static void bystander_down(void *state)
{
	struct bystander *b = state;

	if (b->bare_fd >= 0)
		close(b->bare_fd);
	pinlease_release(b->lease);
	pinlease_file_close(b->file);
	pinlease_ctx_free(b->ctx);
	kt_fs_drop(&b->fs);
	free(b);
}

#define ROW(id, on, leased_too, limit, text)                                                          \
	{                                                                                             \
		.name = "bystander_" id "_" on, .unit = "us", .bar = limit, .samples = 100, .fs = on, \
		.arg = leased_too, .what = "open, read and close of 4 KiB " text " on " on,           \
		.set_up = bystander_up, .sample = bystander_sample, .tear_down = bystander_down       \
	}

const struct bench_row bench_bystander[] = {
	ROW("read", "ext4", false, 1.1, "leased for reading; floor: not leased,"),
	ROW("read", "tmpfs", false, 1.1, "leased for reading; floor: not leased,"),
	ROW("lease", "ext4", true, 1.05, "leased for reading; floor: leased by fcntl alone,"),
	ROW("lease", "tmpfs", true, 1.05, "leased for reading; floor: leased by fcntl alone,"),
	{ .name = NULL },
};
