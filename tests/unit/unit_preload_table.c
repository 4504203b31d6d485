/* SPDX-License-Identifier: BSD-3-Clause */
/* The table of mapped files against an array of pages; and readers beside a writer. */
#include <pthread.h>
#include <stdatomic.h>

#include "rounds.h"
#include "table.h"
#include "unit.h"

#define SPACE 96 /* pages, of one byte: addresses 1..SPACE */
#define FDS   4
#define ROOM  SPACE

struct page {
	struct pre_fd *fd;
	uint64_t off;
};

static struct pre_range memory[ROOM];
static struct pre_table table;
static struct pre_fd fds[FDS];
static struct page model[SPACE + 1];

static void start(void)
{
	unsigned int i;

	memset(memory, 0, sizeof(memory));
	memset(fds, 0, sizeof(fds));
	memset(model, 0, sizeof(model));
	for (i = 0; i < FDS; i++)
		fds[i].refs = 1;
	pre_table_init(&table, memory, ROOM);
}

static void model_set(uintptr_t at, struct pre_fd *fd, uint64_t off)
{
	model[at] = (struct page){ .fd = fd, .off = fd ? off : 0 };
}

/* What a gap skips is no file's, and all of it is skipped: to the next mapping on either side. */
static void compare_gap(const struct pre_gap *gap)
{
	uintptr_t at;

	for (at = 1; at <= SPACE; at++)
		if (pre_table_skips(&table, at, at + 1, gap))
			assert_null(model[at].fd);
	assert_true(gap->start <= 1 || model[gap->start - 1].fd);
	assert_true(gap->end > SPACE || model[gap->end].fd);
}

static void compare(void)
{
	uint32_t refs[FDS] = { 1, 1, 1, 1 };
	struct pre_gap gap;
	struct pre_part part;
	uintptr_t at;
	size_t i;

	for (at = 1; at <= SPACE; at++) {
		bool found = pre_table_next(&table, at, at + 1, &part);

		gap = (struct pre_gap)PRE_NO_GAP;
		assert_int_equal(pre_table_meets(&table, at, at + 1, &gap), found);
		assert_int_equal(pre_table_skips(&table, at, at + 1, &gap), !found);
		if (!found)
			compare_gap(&gap);
		assert_int_equal(found, model[at].fd != NULL);
		if (!found)
			continue;
		assert_ptr_equal(part.fd, model[at].fd);
		assert_int_equal(part.off, model[at].off);
		assert_int_equal(part.start, at);
		assert_int_equal(part.end, at + 1);
		assert_true(pre_table_near(&table, at, 1));
	}
	for (i = 0; i < table.count; i++)
		refs[memory[i].fd - fds]++;
	for (i = 0; i < FDS; i++)
		assert_int_equal(fds[i].refs, refs[i]);
	assert_null(table.dead);
}

static void step_insert(struct unit_random *r)
{
	uintptr_t from = 1 + unit_random(r, SPACE), end = from + 1 + unit_random(r, SPACE + 1 - from), at;
	struct pre_fd *fd = &fds[unit_random(r, FDS)];
	uint64_t off = unit_random(r, 1000);

	pre_table_insert(&table, from, end, off, fd);
	for (at = from; at < end; at++)
		model_set(at, fd, off + (at - from));
}

static void step_remove(struct unit_random *r)
{
	uintptr_t from = 1 + unit_random(r, SPACE), end = from + 1 + unit_random(r, SPACE + 1 - from), at;

	pre_table_remove(&table, from, end);
	for (at = from; at < end; at++)
		model_set(at, NULL, 0);
}

/* As mremap would: what is behind the old mapping follows in a longer new one. */
static void model_move(uintptr_t old, size_t old_len, uintptr_t new, size_t new_len, bool keep)
{
	struct page was[SPACE + 1];
	const struct page *last;
	size_t i;

	memcpy(was, model, sizeof(was));
	for (i = 0; i < old_len && !keep; i++)
		model_set(old + i, NULL, 0);
	last = &was[old_len ? old + old_len - 1 : old];
	for (i = 0; i < new_len; i++) {
		if (i < old_len)
			model_set(new + i, was[old + i].fd, was[old + i].off);
		else
			model_set(new + i, last->fd, last->off + i + (old_len ? 1 : 0) - old_len);
	}
}

static bool model_free(uintptr_t from, uintptr_t end)
{
	for (; from < end; from++)
		if (from > SPACE || model[from].fd)
			return false;
	return true;
}

static void step_move(struct unit_random *r)
{
	size_t old_len = unit_random(r, 9), new_len = 1 + unit_random(r, 9);
	uintptr_t old = 1 + unit_random(r, SPACE - 10), new = 1 + unit_random(r, SPACE - 10);
	bool keep = old_len == new_len && unit_random(r, 4) == 0;

	/* In place; or somewhere that is not here. */
	if (old_len && unit_random(r, 3) == 0 && model_free(old + old_len, old + new_len)) {
		new = old;
		keep = false;
	} else if (old < new + new_len && new < old + old_len + 1) {
		return;
	}
	pre_table_move(&table, old, old_len, new, new_len, keep);
	model_move(old, old_len, new, new_len, keep);
}

static void random_against_model(void **state)
{
	struct unit_random r = { 0 };
	unsigned int round;

	(void)state;
	start();
	for (round = 0; round < pl_rounds(PL_R_preload_steps); round++) {
		switch (unit_random(&r, 4)) {
		case 0:
			step_insert(&r);
			break;
		case 1:
			step_remove(&r);
			break;
		default:
			step_move(&r);
		}
		compare();
	}
}

/* The last user goes: the descriptor is among the dead, and not before. */
static void dead_descriptors(void **state)
{
	(void)state;
	start();
	pre_table_insert(&table, 10, 20, 0, &fds[0]);
	pre_table_drop(&table, &fds[0]);
	pre_table_remove(&table, 12, 14);
	pre_table_remove(&table, 10, 12);
	assert_null(table.dead);
	pre_table_move(&table, 14, 6, 30, 6, false);
	assert_null(table.dead);
	pre_table_remove(&table, 0, SPACE);
	assert_ptr_equal(table.dead, &fds[0]);
	assert_int_equal(table.count, 0);
}

/* What does not fit is not known, and nothing else suffers. */
static void full(void **state)
{
	struct pre_part part;
	struct pre_gap gap;
	uintptr_t at;

	(void)state;
	start();
	table.room = 8;
	for (at = 1; at < 40; at += 2)
		pre_table_insert(&table, at, at + 1, at, &fds[1]);
	assert_int_equal(table.count, 8);
	assert_true(pre_table_next(&table, 15, 16, &part));
	assert_false(pre_table_next(&table, 17, 40, &part));
	assert_true(pre_table_meets(&table, 10, 16, &gap) && !pre_table_meets(&table, 17, 40, &gap));
	assert_int_equal(fds[1].refs, 9);
	pre_table_remove(&table, 1, 40);
	assert_int_equal(fds[1].refs, 1);
}

/* Any change ends a gap, and a thread that has asked for none skips nothing. */
static void gap_ends(void **state)
{
	struct pre_gap gap = PRE_NO_GAP;

	(void)state;
	start();
	assert_false(pre_table_skips(&table, 0, 0, &gap));
	assert_false(pre_table_meets(&table, 5, 6, &gap));
	assert_true(pre_table_skips(&table, 1, SPACE, &gap));
	pre_table_insert(&table, 10, 20, 0, &fds[0]);
	assert_false(pre_table_skips(&table, 5, 6, &gap));
	assert_true(pre_table_meets(&table, 5, 11, &gap));
	assert_false(pre_table_skips(&table, 5, 6, &gap));
	assert_false(pre_table_meets(&table, 5, 10, &gap));
	assert_true(pre_table_skips(&table, 0, 10, &gap));
	assert_false(pre_table_skips(&table, 5, 11, &gap));
	pre_table_remove(&table, 10, 20);
	assert_false(pre_table_skips(&table, 5, 6, &gap));
	/* In the middle of a change: yes, and no gap. */
	table.seq++;
	assert_true(pre_table_meets(&table, 5, 6, &gap));
	assert_false(pre_table_skips(&table, 5, 6, &gap));
	table.seq++;
}

static _Atomic bool done;
static _Atomic unsigned int looks;

/* Address, offset and descriptor of a range belong together, however often it moves. */
static void *reader(void *arg)
{
	unsigned int *torn = arg;
	struct pre_part part;
	uintptr_t at;

	while (!done) {
		for (at = 1; pre_table_next(&table, at, SPACE, &part); at = part.end) {
			if (part.off != part.start * 3 || part.fd != &fds[part.off % FDS])
				++*torn;
			looks++;
		}
	}
	return NULL;
}

static void readers_see_whole_ranges(void **state)
{
	unsigned int torn[2] = { 0, 0 }, round, i;
	struct unit_random r = { 0 };
	pthread_t threads[2];
	uintptr_t at;

	(void)state;
	start();
	done = false;
	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &torn[i]), 0);
	for (round = 0; round < pl_rounds(PL_R_preload_steps) || looks < 1000; round++) {
		at = 1 + unit_random(&r, SPACE - 1);
		pre_table_remove(&table, at, at + 1);
		pre_table_insert(&table, at, at + 1, at * 3, &fds[at * 3 % FDS]);
		if (unit_random(&r, 8) == 0)
			pre_table_remove(&table, at, at + 8);
	}
	done = true;
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_true(looks >= 1000);
	assert_int_equal(torn[0] + torn[1], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_against_model),
		cmocka_unit_test(dead_descriptors),
		cmocka_unit_test(full),
		cmocka_unit_test(gap_ends),
		cmocka_unit_test(readers_see_whole_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
