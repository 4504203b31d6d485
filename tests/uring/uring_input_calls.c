/* SPDX-License-Identifier: BSD-3-Clause */
/* Wrong input to what is called on a lease, of the library and of the ring. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static struct kt_fs fs;
static struct ut u;
static char path[KT_PATH_MAX], read_path[KT_PATH_MAX];
static struct pinlease_file *file, *read_file;
static struct pinlease *lease, *read_lease;

static int view_of_null(struct pinlease_why *why)
{
	struct pinlease_view view = { .size = sizeof(view) };

	(void)why;
	return pinlease_view_get(NULL, 0, &view);
}

static int view_of_none(struct pinlease_why *why)
{
	struct pinlease_view view = { .size = sizeof(view) };

	(void)why;
	return pinlease_view_get(lease, 1, &view);
}

static int view_short(struct pinlease_why *why)
{
	struct pinlease_view view = { .size = 8 };

	(void)why;
	return pinlease_view_get(lease, 0, &view);
}

static int info_short(struct pinlease_why *why)
{
	struct pinlease_lease_info info = { .size = 8 };

	(void)why;
	return pinlease_lease_info(lease, &info);
}

static int begin_of_null(struct pinlease_why *why)
{
	uint32_t gen;

	(void)why;
	return pinlease_dma_begin(NULL, 1, &gen);
}

static int begin_without_gen(struct pinlease_why *why)
{
	(void)why;
	return pinlease_dma_begin(lease, 1, NULL);
}

static int ack_of_null(struct pinlease_why *why)
{
	(void)why;
	return pinlease_ack(NULL, 1);
}

static int ack_not_due(struct pinlease_why *why)
{
	(void)why;
	return pinlease_ack(lease, 1);
}

static int dirty_without_the_promise(struct pinlease_why *why)
{
	(void)why;
	return pinlease_mark_dirty(lease, 0, UT_BLOCK);
}

static int sync_flags(struct pinlease_why *why)
{
	(void)why;
	return pinlease_sync(lease, 0, 0, 1);
}

static int sync_beyond(struct pinlease_why *why)
{
	(void)why;
	return pinlease_sync(lease, UT_LEN, UT_BLOCK, 0);
}

static int save_while_active(struct pinlease_why *why)
{
	(void)why;
	return pinlease_save(lease, 1);
}

static int restore_of_null(struct pinlease_why *why)
{
	return pinlease_restore(NULL, why);
}

static int restore_while_active(struct pinlease_why *why)
{
	return pinlease_restore(lease, why);
}

static int mr_add_of_null(struct pinlease_why *why)
{
	uint32_t index;

	(void)why;
	return pinlease_mr_add(NULL, (void *)8, 0, &index);
}

/* A registration in a PD beside one that is none. */
static int mr_add_beside_uring(struct pinlease_why *why)
{
	uint32_t index;

	(void)why;
	return pinlease_mr_add(lease, (void *)8, 0, &index);
}

static int truncate_read_file(struct pinlease_why *why)
{
	(void)why;
	return pinlease_file_truncate(read_file, 0);
}

static int allocate_read_file(struct pinlease_why *why)
{
	(void)why;
	return pinlease_file_allocate(read_file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, UT_BLOCK);
}

static int read_into_read_lease(struct pinlease_why *why)
{
	(void)why;
	return pinlease_uring_read(u.ring, read_lease, 0, 16, 0, 0, 0);
}

static const struct input_row rows[] = {
	{ "view: NULL", view_of_null, -EINVAL, 0, 0 },
	{ "view: no such registration", view_of_none, -ERANGE, 0, 0 },
	{ "view: short", view_short, -EINVAL, 0, 0 },
	{ "info: short", info_short, -EINVAL, 0, 0 },
	{ "begin: NULL", begin_of_null, -EINVAL, 0, 0 },
	{ "begin: NULL gen", begin_without_gen, -EINVAL, 0, 0 },
	{ "ack: NULL", ack_of_null, -EINVAL, 0, 0 },
	{ "ack: not due", ack_not_due, 0, 0, 0 },
	{ "mark_dirty without DIRTY_TOLD", dirty_without_the_promise, -EINVAL, 0, 0 },
	{ "sync: flags", sync_flags, -EINVAL, 0, 0 },
	{ "sync: beyond", sync_beyond, -ERANGE, 0, 0 },
	{ "save while ACTIVE", save_while_active, -EAGAIN, 0, 0 },
	{ "restore: NULL", restore_of_null, -EINVAL, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT },
	{ "restore while ACTIVE", restore_while_active, 0, 0, 0 },
	{ "mr_add: NULL", mr_add_of_null, -EINVAL, 0, 0 },
	{ "mr_add beside a ring's buffer", mr_add_beside_uring, -EINVAL, 0, 0 },
	{ "truncate a READ file", truncate_read_file, -EINVAL, 0, 0 },
	{ "punch a READ file", allocate_read_file, -EBADF, 0, 0 },
	{ "uring: read into a READ lease", read_into_read_lease, -EACCES, 0, 0 },
};

static void table(void **state)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	uint32_t gen = ut_view(lease).gen;

	(void)state;
	input_check(rows, sizeof(rows) / sizeof(rows[0]));
	assert_int_equal(ut_view(lease).gen, gen);
	assert_int_equal(ut_info(lease).breaks, 0);
	assert_int_equal(ut_info(lease).in_flight, 0);
	assert_int_equal(ut_info(read_lease).breaks, 0);
	assert_int_equal(ut_info(read_lease).in_flight, 0);
	assert_int_equal(ut_ring_info(&u).in_flight, 0);
	assert_int_equal(pinlease_ctx_next_event(u.ctx, &ev), 0);
	assert_int_equal(ut_stamp_of(ut_view(lease).addr), 0);
}

static int setup(void **state)
{
	(void)state;
	ut_start(&u, 8, 8);
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	ut_file(read_path, fs.dir, "read", UT_BLOCKS);
	read_file = ut_open(&u, read_path, PINLEASE_READ, 0);
	read_lease = ut_lease(&u, read_file, UT_LEN, 0, 0);
	assert_int_equal(ut_view(read_lease).mode, PINLEASE_MODE_STAGED);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_drop(lease, file);
	ut_drop(read_lease, read_file);
	ut_stop(&u);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(table) };

	ut_begin_on(&fs, "tmpfs", 16);
	return cmocka_run_group_tests(tests, setup, teardown);
}
