/* SPDX-License-Identifier: BSD-3-Clause */
/* Staged memory: filled, marked, written back, and the file put back in its place. */
#include <pinlease.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "rounds.h"
#include "staged.h"
#include "sys.h"
#include "unit.h"

#define PAGE  4096ull
#define PAGES 200
#define LEN   (PAGES * PAGE - 100)
#define OFF   (3 * PAGE)

struct scene {
	struct pl_staged *s;
	int fd;
	unsigned char *addr;
};

/* The byte of the file at off, as the tests fill it. */
static unsigned char pattern(uint64_t off)
{
	return (unsigned char)(off / 7 + off / PAGE);
}

static int setup(void **state)
{
	struct scene *c = calloc(1, sizeof(*c));
	uint64_t i;
	unsigned char *buf = malloc(OFF + LEN);

	*state = c;
	c->fd = unit_memfd(OFF + LEN);
	for (i = 0; i < OFF + LEN; i++)
		buf[i] = pattern(i);
	assert_int_equal(pwrite(c->fd, buf, OFF + LEN, 0), OFF + LEN);
	free(buf);
	assert_int_equal(pl_staged_new(&c->s, NULL, OFF, LEN, PAGE, PL_STAGED_WRITABLE), 0);
	c->addr = c->s->addr;
	return 0;
}

static int teardown(void **state)
{
	struct scene *c = *state;

	pl_staged_free(c->s);
	close(c->fd);
	free(c);
	return 0;
}

static unsigned char file_byte(int fd, uint64_t off)
{
	unsigned char byte = 0;

	assert_int_equal(pread(fd, &byte, 1, (off_t)off), 1);
	return byte;
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void filled_from_the_file(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at;
	uint64_t i;

	assert_int_equal(pl_staged_fill(c->s, c->fd, never, NULL, &at), 0);
	for (i = 0; i < LEN; i++)
		if (c->addr[i] != pattern(OFF + i))
			fail();
	assert_int_equal(pl_staged_dirty_bytes(c->s), 0);
}

/* The file has shrunk since: what stood in memory must not be taken for its contents. */
static void zeros_beyond_the_end(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at;

	memset(c->addr, 0xee, LEN);
	assert_int_equal(ftruncate(c->fd, OFF + 5000), 0);
	assert_int_equal(pl_staged_fill(c->s, c->fd, NULL, NULL, &at), 0);
	assert_true(c->addr[4999] == pattern(OFF + 4999) && !c->addr[5000] && !c->addr[LEN - 1]);
}

static bool count_to(void *arg)
{
	return --*(int *)arg < 0;
}

static void filling_stops_when_told(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at = { 0 };
	struct pl_staged *big;
	int steps = 2;

	assert_int_equal(ftruncate(c->fd, 16 << 20), 0);
	assert_int_equal(pl_staged_new(&big, NULL, 0, 16 << 20, PAGE, 0), 0);
	assert_int_equal(pl_staged_fill(big, c->fd, count_to, &steps, &at), -EAGAIN);
	assert_true(at.stage == PINLEASE_AT_FILL && at.reason == PINLEASE_WHY_BROKEN);
	assert_int_equal(pl_staged_fill(big, -1, NULL, NULL, &at), -EBADF);
	assert_true(at.reason == PINLEASE_WHY_IO && at.sys_errno == EBADF);
	pl_staged_free(big);
}

static void expect_run(struct pl_staged *s, uint64_t from, uint64_t max, uint64_t off, uint64_t len)
{
	uint64_t o = 1, l = 1;

	assert_true(pl_staged_next(s, from, s->len, max, false, &o, &l));
	assert_int_equal(o, off);
	assert_int_equal(l, len);
}

static void expect_none(struct pl_staged *s, uint64_t from, uint64_t end)
{
	uint64_t off, len;

	assert_false(pl_staged_next(s, from, end, UINT64_MAX, true, &off, &len));
}

static void runs_are_found(void **state)
{
	struct pl_staged *s = ((struct scene *)*state)->s;

	expect_none(s, 0, s->len);
	pl_staged_mark(s, 5 * PAGE + 10, 1);
	pl_staged_mark(s, 60 * PAGE, 10 * PAGE);	/* over the edge of a word */
	pl_staged_mark(s, LEN - 1, 1);
	pl_staged_mark(s, 20 * PAGE, 0);
	assert_int_equal(pl_staged_dirty_bytes(s), 11 * PAGE + PAGE - 100);
	expect_run(s, 0, UINT64_MAX, 5 * PAGE, PAGE);
	expect_run(s, 6 * PAGE, UINT64_MAX, 60 * PAGE, 10 * PAGE);
	/* From the middle of a run, of a page; at most so much; never nothing. */
	expect_run(s, 62 * PAGE + 17, 3 * PAGE, 62 * PAGE, 3 * PAGE);
	expect_run(s, 62 * PAGE, PAGE + 1, 62 * PAGE, 2 * PAGE);
	expect_run(s, 62 * PAGE, 0, 62 * PAGE, PAGE);
	expect_run(s, 70 * PAGE, UINT64_MAX, (PAGES - 1) * PAGE, PAGE - 100);
	expect_none(s, 6 * PAGE, 60 * PAGE);
}

/* What is taken is clean then; what is outside of from..end stays dirty. */
static void taken_and_put_back(void **state)
{
	struct pl_staged *s = ((struct scene *)*state)->s;
	uint64_t off = 0, len = 0;

	pl_staged_mark(s, 0, LEN);
	assert_int_equal(pl_staged_dirty_bytes(s), LEN);
	assert_true(pl_staged_next(s, 10 * PAGE, 100 * PAGE, UINT64_MAX, true, &off, &len));
	assert_true(off == 10 * PAGE && len == 90 * PAGE);
	expect_none(s, 10 * PAGE, 100 * PAGE);
	assert_int_equal(pl_staged_dirty_bytes(s), LEN - 90 * PAGE);
	pl_staged_mark(s, off, len);
	assert_int_equal(pl_staged_dirty_bytes(s), LEN);
	pl_staged_clear(s, PAGE, 2 * PAGE);
	assert_int_equal(pl_staged_dirty_bytes(s), LEN - 2 * PAGE);
	pl_staged_clean(s);
	expect_none(s, 0, s->len);
}

/* Marks and takes against an array of flags. */
static void random_against_model(void **state)
{
	struct pl_staged *s = ((struct scene *)*state)->s;
	struct unit_random r = { 0 };
	bool dirty[PAGES] = { false }, found;
	uint64_t off, len, i, first, n, round;

	for (round = 0; round < 20000; round++) {
		first = unit_random(&r, PAGES);
		n = 1 + unit_random(&r, PAGES - first > 70 ? 70 : PAGES - first);
		if (unit_random(&r, 2)) {
			pl_staged_mark(s, first * PAGE, n * PAGE);
			for (i = first; i < first + n; i++)
				dirty[i] = true;
			continue;
		}
		for (i = first; i < first + n && !dirty[i]; i++)
			;
		off = len = 0;
		found = pl_staged_next(s, first * PAGE, (first + n) * PAGE, UINT64_MAX, true, &off, &len);
		assert_int_equal(found, i < first + n);
		assert_true(!len || off == i * PAGE);
		for (; i < first + n && dirty[i]; i++)
			dirty[i] = false;
		assert_true(!len || (off + len + PAGE - 1) / PAGE == i);
	}
}

static void written_to_its_place(void **state)
{
	struct scene *c = *state;

	memset(c->addr, 0xab, LEN);
	assert_int_equal(pl_staged_write(c->s, c->fd, 5 * PAGE, 2 * PAGE), 0);
	assert_int_equal(file_byte(c->fd, OFF + 5 * PAGE - 1), pattern(OFF + 5 * PAGE - 1));
	assert_int_equal(file_byte(c->fd, OFF + 5 * PAGE), 0xab);
	assert_int_equal(file_byte(c->fd, OFF + 7 * PAGE - 1), 0xab);
	assert_int_equal(file_byte(c->fd, OFF + 7 * PAGE), pattern(OFF + 7 * PAGE));
	assert_int_equal(pl_staged_write(c->s, c->fd, (PAGES - 1) * PAGE, PAGE - 100), 0);
	/* The end of the file is where it was. */
	assert_int_equal(lseek(c->fd, 0, SEEK_END), OFF + LEN);
	assert_int_equal(pl_staged_write(c->s, -1, 0, PAGE), -EBADF);
}

/* A short write goes on with the rest, and says what stops that. */
static void a_short_write_goes_on(void **state)
{
	struct scene *c = *state;
	struct rlimit before, less;
	int disk = unit_disk_file(0), r;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	less = before;
	less.rlim_cur = OFF + 10 * PAGE;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
	r = pl_staged_write(c->s, disk, 0, 20 * PAGE);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(r, -EFBIG);
	assert_int_equal(lseek(disk, 0, SEEK_END), OFF + 10 * PAGE);
	close(disk);
}

/* The VmFlags of the mapping that holds addr: "dc" is MADV_DONTFORK. */
static bool not_for_children(const void *addr)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long start, stop;
	bool here = false, dc = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &stop) == 2)
			here = (uintptr_t)addr >= start && (uintptr_t)addr < stop;
		else if (here && !strncmp(line, "VmFlags:", 8))
			dc = strstr(line, " dc") != NULL;
	}
	fclose(f);
	return dc;
}

static void in_place_of_a_mapping(struct scene *c, bool pmem)
{
	struct pl_staged *s = NULL;
	struct pl_fill_error at;
	unsigned char *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, OFF);

	assert_ptr_not_equal(map, MAP_FAILED);
	assert_true(not_for_children(c->addr));
	assert_int_equal(pl_staged_new(&s, map, OFF, LEN, PAGE, PL_STAGED_WRITABLE), 0);
	assert_ptr_equal(s->addr, map);
	assert_int_equal(map[0], 0);
	assert_true(not_for_children(map));
	assert_int_equal(pl_staged_fill(s, c->fd, NULL, NULL, &at), 0);
	map[PAGE] = 0xcd;
	/* Only a copy: the file does not change before it is written back. */
	assert_int_equal(file_byte(c->fd, OFF + PAGE), pattern(OFF + PAGE));
	assert_int_equal(pl_staged_unmap_back(s, c->fd, PROT_READ | PROT_WRITE, pmem), 0);
	assert_int_equal(map[PAGE], pattern(OFF + PAGE));
	map[PAGE] = 0xef;
	assert_int_equal(file_byte(c->fd, OFF + PAGE), 0xef);
	map[PAGE] = pattern(OFF + PAGE);
	assert_int_equal(munmap(map, PAGES * PAGE), 0);
}

/* MAP_SYNC is tried for what claims to be persistent memory, and done without. */
static void takes_the_place_of_a_mapping(void **state)
{
	in_place_of_a_mapping(*state, false);
	in_place_of_a_mapping(*state, true);
}

/* kB of huge pages in the mapping that holds addr. */
static unsigned long huge_kb(const void *addr)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long start, stop, kb = 0;
	bool here = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &stop) == 2)
			here = (uintptr_t)addr >= start && (uintptr_t)addr < stop;
		else if (here && sscanf(line, "AnonHugePages: %lu", &kb) == 1)
			break;
	}
	fclose(f);
	return kb;
}

/* From where huge pages fit, and filling gets them, if they are to be had at all. */
static void huge_pages_fit(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at;
	struct pl_staged *s[3];
	void *probe = NULL;
	unsigned int i;

	assert_int_equal(ftruncate(c->fd, 8 << 20), 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(pl_staged_new(&s[i], NULL, 0, (6 << 20) + 4096 * i, PAGE,
					       PL_STAGED_WRITABLE), 0);
		assert_int_equal((uintptr_t)s[i]->addr % (2 << 20), 0);
		assert_int_equal(pl_staged_fill(s[i], c->fd, NULL, NULL, &at), 0);
		((char *)s[i]->addr)[(6 << 20) + 4096 * i - 1] = 1;
	}
	assert_int_equal(posix_memalign(&probe, 2 << 20, 8 << 20), 0);
	madvise(probe, 8 << 20, MADV_HUGEPAGE);
	memset(probe, 1, 8 << 20);
	if (huge_kb(probe) >= 6 << 10)
		assert_true(huge_kb(s[0]->addr) >= 2 << 10);
	else
		printf("no huge pages to be had: only the alignment was looked at\n");
	free(probe);
	for (i = 0; i < 3; i++)
		pl_staged_free(s[i]);
}

static void what_cannot_be_had(void **state)
{
	struct pl_staged *s = NULL;

	(void)state;
	assert_true(pl_staged_new(&s, NULL, 0, 1ull << 60, 1ull << 50, 0) < 0);
	assert_null(s);
	assert_int_equal(pl_staged_new(&s, NULL, 0, PAGE, PAGE, 0), 0);
	assert_false(s->writable);
	pl_staged_free(s);
	pl_staged_free(NULL);
}

/* A 64th of the memory each, whole pages: 200 pages are 50 granules of four. */
static void granules_are_coarse(void **state)
{
	struct pl_staged *s = ((struct scene *)*state)->s;

	assert_int_equal(pl_staged_granules(s, 0, 0), 0);
	assert_int_equal(pl_staged_granules(s, 0, 1), 1);
	assert_int_equal(pl_staged_granules(s, 4 * PAGE - 1, 2), 3);
	assert_int_equal(pl_staged_granules(s, 199 * PAGE, 1), 1ull << 49);
	assert_int_equal(pl_staged_granules(s, 0, LEN), (1ull << 50) - 1);
	pl_staged_mark_granules(s, 1ull << 49 | 1ull << 63 | 4);
	expect_run(s, 0, UINT64_MAX, 8 * PAGE, 4 * PAGE);
	expect_run(s, 12 * PAGE, UINT64_MAX, 196 * PAGE, 4 * PAGE - 100);
	pl_staged_mark_granules(s, UINT64_MAX);
	expect_run(s, 0, UINT64_MAX, 0, LEN);
}

/* What was never filled and never marked must not be written for being near what was. */
static void unfilled_pages_stay_out(void **state)
{
	struct scene *c = *state;
	struct pl_staged *s = NULL;
	struct pl_fill_error at;

	assert_int_equal(pl_staged_new(&s, NULL, OFF, LEN, PAGE, PL_STAGED_WRITABLE | PL_STAGED_UNFILLED), 0);
	pl_staged_mark(s, 9 * PAGE, PAGE);
	pl_staged_mark(s, 64 * PAGE, PAGE);
	pl_staged_clean(s);
	pl_staged_mark_granules(s, UINT64_MAX);
	expect_run(s, 0, UINT64_MAX, 9 * PAGE, PAGE);
	expect_run(s, 10 * PAGE, UINT64_MAX, 64 * PAGE, PAGE);
	expect_none(s, 65 * PAGE, LEN);
	pl_staged_clean(s);
	assert_int_equal(pl_staged_fill(s, c->fd, NULL, NULL, &at), 0);
	pl_staged_mark_granules(s, 1);
	expect_run(s, 0, UINT64_MAX, 0, 4 * PAGE);
	pl_staged_free(s);
}

static void only_whole_pages_are_cleared(void **state)
{
	struct pl_staged *s = ((struct scene *)*state)->s;

	pl_staged_mark(s, 0, LEN);
	pl_staged_clear_whole(s, PAGE + 1, PAGE);
	assert_int_equal(pl_staged_dirty_bytes(s), LEN);
	pl_staged_clear_whole(s, PAGE + 1, 2 * PAGE);
	assert_int_equal(pl_staged_dirty_bytes(s), LEN - PAGE);
	/* The last page is whole where the range ends. */
	pl_staged_clear_whole(s, LEN - 1, 1);
	pl_staged_clear_whole(s, 198 * PAGE + 1, LEN - 198 * PAGE - 1);
	assert_int_equal(pl_staged_dirty_bytes(s), LEN - PAGE - (PAGE - 100));
}

/*
 * A device's owner stores and marks while another thread takes and reads. At the end every
 * page has been read as it was left: no mark was lost between the two looks.
 */
struct race {
	struct pl_staged *s;
	_Atomic bool done;
	_Atomic uint64_t stored[PAGES];
};

static void *mark_pages(void *arg)
{
	struct race *race = arg;
	struct unit_random r = { 5 };
	uint64_t page, i;

	for (i = 0; i < pl_rounds(PL_R_staged_marks); i++) {
		page = unit_random(&r, PAGES);
		/* Relaxed: only the mark orders it. */
		atomic_store_explicit(&race->stored[page], i + 1, memory_order_relaxed);
		pl_staged_mark(race->s, page * PAGE, 1);
	}
	race->done = true;
	return NULL;
}

static void no_mark_is_lost(void **state)
{
	struct race *race = calloc(1, sizeof(*race));
	uint64_t read[PAGES] = { 0 }, off = 0, len = 0, page;
	pthread_t thread;
	bool last = false;

	race->s = ((struct scene *)*state)->s;
	assert_int_equal(pl_sys_thread_new(mark_pages, race, "marker", &thread), 0);
	do {
		last = race->done;
		off = len = 0;
		while (pl_staged_next(race->s, off + len, LEN, 16 * PAGE, true, &off, &len))
			for (page = off / PAGE; page * PAGE < off + len; page++)
				read[page] = atomic_load_explicit(&race->stored[page], memory_order_relaxed);
	} while (!last);
	pl_sys_thread_join(thread);
	for (page = 0; page < PAGES; page++)
		assert_int_equal(read[page], race->stored[page]);
	free(race);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(filled_from_the_file),
		TEST(zeros_beyond_the_end),
		TEST(filling_stops_when_told),
		TEST(runs_are_found),
		TEST(taken_and_put_back),
		TEST(random_against_model),
		TEST(written_to_its_place),
		TEST(a_short_write_goes_on),
		TEST(takes_the_place_of_a_mapping),
		TEST(huge_pages_fit),
		TEST(what_cannot_be_had),
		TEST(granules_are_coarse),
		TEST(unfilled_pages_stay_out),
		TEST(only_whole_pages_are_cleared),
		TEST(no_mark_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
