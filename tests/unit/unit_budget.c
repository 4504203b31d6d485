/* SPDX-License-Identifier: BSD-3-Clause */
/* The budget: what a disk has shown to take, and what may be dirty of it. */
#include <errno.h>

#include "budget.h"
#include "unit.h"
#include "util.h"

#define MIB (1ull << 20)
#define MS  PL_NS_PER_MS
#define S   PL_NS_PER_S

struct scene {
	struct pl_disks disks;
	struct pl_disk *disk;
};

static int setup(void **state)
{
	struct scene *c = calloc(1, sizeof(*c));

	*state = c;
	pl_disks_init(&c->disks);
	c->disk = pl_disk_get(&c->disks, 7);
	return 0;
}

static int teardown(void **state)
{
	struct scene *c = *state;

	pl_disk_put(&c->disks, c->disk);
	assert_true(pl_list_empty(&c->disks.list));
	pl_disks_fini(&c->disks);
	free(c);
	return 0;
}

static void one_disk_a_device(void **state)
{
	struct scene *c = *state;
	struct pl_disk *same = pl_disk_get(&c->disks, 7), *other = pl_disk_get(&c->disks, 8);

	assert_ptr_equal(same, c->disk);
	assert_ptr_not_equal(other, c->disk);
	pl_disk_put(&c->disks, same);
	pl_disk_put(&c->disks, other);
	pl_disk_put(&c->disks, NULL);
	same = pl_disk_get(&c->disks, 7);
	assert_ptr_equal(same, c->disk);
	pl_disk_put(&c->disks, same);
}

static void the_time_there_is(void **state)
{
	(void)state;
	assert_int_equal(pl_budget_margin(45 * S), 5 * S);
	assert_int_equal(pl_budget_margin(2 * S), 500 * MS);
	assert_int_equal(pl_budget_margin(S), 250 * MS);
	assert_int_equal(pl_budget_margin(400 * MS), 200 * MS);
	assert_int_equal(pl_budget_window(45 * S, 5 * S), 34500 * MS);
	assert_int_equal(pl_budget_window(45 * S, 60 * S), 19750 * MS);
	assert_int_equal(pl_budget_window(2 * S, 5 * S), 500 * MS);
	assert_int_equal(pl_budget_window(2 * S, 100 * MS), 900 * MS);
	assert_int_equal(pl_budget_window(S, 0), 500 * MS);
	assert_int_equal(pl_budget_window(PL_NEVER, 5 * S), PL_NEVER);
}

static uint64_t rate_after(struct scene *c, uint64_t bytes, uint64_t ns, bool synced)
{
	pl_disk_measured(&c->disks, c->disk, bytes, ns, synced);
	return c->disk->rate;
}

static void what_is_learned(void **state)
{
	struct scene *c = *state;

	/* At the speed of memory, or too little to tell: nothing. */
	assert_int_equal(rate_after(c, 64 * MIB, 10 * MS, false), 0);
	assert_int_equal(rate_after(c, MIB - 1, S, true), 0);
	assert_int_equal(pl_disk_bytes(c->disk, S), PL_RATE_SLOWEST);
	assert_int_equal(rate_after(c, 10 * MIB, 100 * MS, true), 100 * MIB);
	assert_int_equal(rate_after(c, 20 * MIB, 100 * MS, true), 150 * MIB);
	assert_int_equal(rate_after(c, 7 * MIB, 100 * MS, true), 140 * MIB);
	assert_int_equal(rate_after(c, 500 * MIB, 100 * MS, false), 140 * MIB);
	assert_int_equal(rate_after(c, 40 * MIB, S, false), 90 * MIB);
	assert_int_equal(pl_disk_bytes(c->disk, 500 * MS), 45 * MIB);
	assert_int_equal(pl_disk_bytes(c->disk, PL_NEVER), UINT64_MAX);
	pl_disk_measured(&c->disks, NULL, 64 * MIB, S, true);
	/* The first one may be bad news, too. */
	c->disk->rate = 0;
	assert_int_equal(rate_after(c, 2 * MIB, S, false), 2 * MIB);
}

static int reserve(struct scene *c, uint64_t mib, bool told)
{
	return pl_disk_reserve(&c->disks, c->disk, mib * MIB, told, S);
}

static void what_fits(void **state)
{
	struct scene *c = *state;

	c->disk->rate = 80 * MIB;
	assert_int_equal(reserve(c, 81, false), -EFBIG);
	assert_int_equal(reserve(c, 30, false), 0);
	assert_int_equal(reserve(c, 50, false), 0);
	assert_int_equal(reserve(c, 1, false), -EFBIG);
	/* Told leases want an eighth at least, or all of themselves. */
	assert_int_equal(reserve(c, 1, true), -EFBIG);
	pl_disk_return(&c->disks, c->disk, 30 * MIB, false);
	assert_int_equal(reserve(c, 8, true), 0);
	assert_int_equal(reserve(c, 23, false), -EFBIG);
	assert_int_equal(reserve(c, 1ull << 30, true), 0);
	assert_int_equal(reserve(c, 21, false), -EFBIG);
	assert_int_equal(reserve(c, 20, false), 0);
	assert_true(pl_disks_fit(&c->disks, S));
	assert_false(pl_disks_fit(&c->disks, S / 2));
	assert_int_equal(pl_disk_reserve(&c->disks, c->disk, UINT64_MAX, false, S), -EFBIG);
	assert_int_equal(pl_disk_reserve(&c->disks, c->disk, 1ull << 50, false, PL_NEVER), 0);
}

static void shares(void **state)
{
	struct scene *c = *state;

	c->disk->rate = 80 * MIB;
	assert_int_equal(reserve(c, 40, true), 0);
	assert_int_equal(pl_disk_share(c->disk, 40 * MIB, S), 40 * MIB);
	assert_int_equal(reserve(c, 120, true), 0);
	assert_int_equal(pl_disk_share(c->disk, 40 * MIB, S), 20 * MIB);
	assert_int_equal(pl_disk_share(c->disk, 120 * MIB, S), 60 * MIB);
	assert_int_equal(reserve(c, 48, false), 0);
	assert_int_equal(pl_disk_share(c->disk, 40 * MIB, S), 8 * MIB);
	/* A shorter lease-break-time: an eighth is theirs, though nothing is left. */
	assert_int_equal(pl_disk_share(c->disk, 40 * MIB, S / 2), MIB * 5 / 4);
	assert_int_equal(pl_disk_share(c->disk, 40 * MIB, PL_NEVER), 40 * MIB);
}

/* Draining leaves what is reserved the time it needs, but what the application may count on it gets. */
static void what_is_left_for_draining(void **state)
{
	struct scene *c = *state;

	c->disk->rate = 10 * MIB;
	assert_int_equal(pl_budget_drain(c->disk, 45 * S, 5 * S), 40 * S);
	c->disk->whole = 100 * MIB;
	c->disk->told = 50 * MIB;
	assert_int_equal(pl_budget_drain(c->disk, 45 * S, 5 * S), 25 * S);
	c->disk->told = 500 * MIB;
	assert_int_equal(pl_budget_drain(c->disk, 45 * S, 5 * S), 5500 * MS);
	assert_int_equal(pl_budget_drain(c->disk, 45 * S, 60 * S), 20250 * MS);
}

static void pieces(void **state)
{
	struct scene *c = *state;

	assert_int_equal(pl_chunk_first(NULL), MIB);
	assert_int_equal(pl_chunk_first(c->disk), MIB);
	c->disk->rate = 10 * MIB;
	assert_int_equal(pl_chunk_first(c->disk), MIB / 2);
	c->disk->rate = 1;
	assert_int_equal(pl_chunk_first(c->disk), PL_CHUNK_MIN);
	assert_int_equal(pl_chunk_next(MIB, 100 * MS), MIB / 4);
	assert_int_equal(pl_chunk_next(MIB, 10 * S), PL_CHUNK_MIN);
	assert_int_equal(pl_chunk_next(MIB / 4, 50 * MS), MIB / 4);
	assert_int_equal(pl_chunk_next(MIB / 4, 13 * MS), MIB / 4);
	assert_int_equal(pl_chunk_next(MIB / 4, 12 * MS), MIB / 2);
	assert_int_equal(pl_chunk_next(MIB, 0), MIB);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(one_disk_a_device), TEST(the_time_there_is),	  TEST(what_is_learned),
		TEST(what_fits),	 TEST(shares),			  TEST(what_is_left_for_draining),
		TEST(pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
