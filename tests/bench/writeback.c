/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ways of putting staged memory into the file that lib/lease_data.c chose, against those it
 * did not: pwrite of a whole range against only what differs from the file, found by reading
 * it, with 0, 10 and 100 % of the pages changed; and pages that are dirty one by one, every
 * fourth, written one by one, against the whole range. docs/design.md has the figures.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "kt.h"

#define RANGE (32u << 20)
#define PIECE (1u << 20)
#define PAGE  4096u

struct writeback {
	struct kt_fs fs;
	char path[KT_PATH_MAX];
	int fd;
	unsigned int percent;	/* of the pages, changed before each sample; SPARSE: every fourth is dirty */
	char *memory, *file;	/* as leased, and what is read for comparing */
	unsigned int seed;
};

#define SPARSE 101

static void change_pages(struct writeback *b)
{
	unsigned int page;

	for (page = 0; page < RANGE / PAGE; page++)
		if ((b->seed = b->seed * 1103515245 + 12345) / 65536 % 100 < b->percent)
			b->memory[page * PAGE + b->seed / 7 % PAGE] ^= 0x5a;
}

static int write_at(struct writeback *b, size_t off, size_t len)
{
	return pwrite(b->fd, b->memory + off, len, (off_t)off) == (ssize_t)len ? 0 : -errno;
}

static int write_all(struct writeback *b)
{
	size_t off;
	int r = 0;

	for (off = 0; off < RANGE && !r; off += PIECE)
		r = write_at(b, off, PIECE);
	return r;
}

/* Runs of pages of one piece that are not as in the file. */
static int write_differences(struct writeback *b, size_t off)
{
	size_t from = 0, end;
	int r = 0;

	while (from < PIECE && !r) {
		if (!memcmp(b->file + from, b->memory + off + from, PAGE)) {
			from += PAGE;
			continue;
		}
		for (end = from + PAGE; end < PIECE; end += PAGE)
			if (!memcmp(b->file + end, b->memory + off + end, PAGE))
				break;
		r = write_at(b, off + from, end - from);
		from = end;
	}
	return r;
}

static int write_compared(struct writeback *b)
{
	size_t off;
	int r = 0;

	for (off = 0; off < RANGE && !r; off += PIECE) {
		if (pread(b->fd, b->file, PIECE, (off_t)off) != PIECE)
			return -EIO;
		if (memcmp(b->file, b->memory + off, PIECE))
			r = write_differences(b, off);
	}
	return r;
}

static int write_pages(struct writeback *b)
{
	size_t off;
	int r = 0;

	for (off = 0; off < RANGE && !r; off += 4 * PAGE)
		r = write_at(b, off, PAGE);
	return r;
}

/* MiB/s of the range, whatever of it is written. */
static int timed(struct writeback *b, int (*way)(struct writeback *b), double *rate)
{
	uint64_t start;
	int r;

	if (b->percent <= 100)
		change_pages(b);
	start = bench_now();
	r = way(b);
	*rate = RANGE / 1048576.0 / ((double)bench_took(start) / 1e9);
	return r;
}

static int chosen_way(void *state, double *rate)
{
	struct writeback *b = state;

	return timed(b, b->percent == SPARSE ? write_pages : write_all, rate);
}

static int other_way(void *state, double *rate)
{
	struct writeback *b = state;

	return timed(b, b->percent == SPARSE ? write_all : write_compared, rate);
}

static int writeback_sample(void *state, unsigned int n, double *ours, double *floor)
{
	return bench_in_turns(state, n, ours, floor, chosen_way, other_way);
}

static int writeback_up(const struct bench_row *row, void **state)
{
	struct writeback *b = calloc(1, sizeof(*b));
	int r = kt_fs_make(&b->fs, row->fs, 128);

	*state = b;
	b->fd = -1;
	b->percent = (unsigned int)row->arg;
	if (!r)
		r = kt_file(b->path, b->fs.dir, "file", RANGE);
	if (r)
		return r;
	b->fd = open(b->path, O_RDWR | O_CLOEXEC);
	b->memory = aligned_alloc(2 << 20, RANGE);
	b->file = aligned_alloc(2 << 20, 2 << 20);
	if (b->fd < 0 || !b->memory || !b->file)
		return -ENOMEM;
	madvise(b->memory, RANGE, MADV_HUGEPAGE);
	memset(b->memory, 1, RANGE);
	return write_all(b);
}

static void writeback_down(void *state)
{
	struct writeback *b = state;

	if (b->fd >= 0)
		close(b->fd);
	free(b->memory);
	free(b->file);
	kt_fs_drop(&b->fs);
	free(b);
}

#define WRITEBACK_ROW(on, id, percent, text)                                                \
	{                                                                                   \
		.name = id "_" on, .unit = "MiB/s", .what = text " on " on, .bar = 1,       \
		.higher = true, .samples = 40, .fs = on, .arg = percent,                    \
		.set_up = writeback_up, .sample = writeback_sample,                         \
		.tear_down = writeback_down                                                 \
	}

#define WRITEBACK_ROWS(on)                                                                                  \
	WRITEBACK_ROW(on, "compare_writeback_0", 0,                                                         \
		      "pwrite of 32 MiB; floor: pread, memcmp, pwrite of what differs, nothing does,"),      \
	WRITEBACK_ROW(on, "compare_writeback_10", 10, "the same, 10 % of the pages differ,"),          \
	WRITEBACK_ROW(on, "compare_writeback_100", 100, "the same, all do,"),                           \
	WRITEBACK_ROW(on, "sparse_writeback", SPARSE,                                                   \
		      "every fourth page, by a pwrite each; floor: pwrite of it all,")

const struct bench_row bench_writeback[] = {
	WRITEBACK_ROWS("ext4"),
	WRITEBACK_ROWS("tmpfs"),
	{ .name = NULL },
};
