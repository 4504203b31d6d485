/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Breaks under load, on the file system named by the argument: every write that
 * completed before the opener was let on is in the file, and nothing lands afterwards.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct kt_fs fs;
static const char *fs_type;
static struct ut u;
static char path[KT_PATH_MAX];
static struct pinlease_file *file;
static struct pinlease *lease;
static struct ut_pump pump;
static struct kt_call *opener;

static bool is_tmpfs(void)
{
	return !strcmp(fs_type, "tmpfs");
}

static int setup(void **state)
{
	(void)state;
	ut_start(&u, 32, 4);
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, PINLEASE_L_MANUAL, 0);
	ut_pump_start(&pump, &u, lease, UT_BLOCKS);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_pump_end(&pump);
	kt_call_end(opener);
	opener = NULL;
	if (lease)
		ut_drop(lease, file);
	ut_stop(&u);
	return 0;
}

static void mode_and_reason(void **state)
{
	struct pinlease_lease_info info = ut_info(lease);

	(void)state;
	assert_int_equal(info.mode, is_tmpfs() ? PINLEASE_MODE_PINNED : PINLEASE_MODE_STAGED);
	assert_int_equal(info.mode_reason, is_tmpfs() ? PINLEASE_WHY_BEST : PINLEASE_WHY_DIRTY_TRACKED);
	assert_int_equal(info.guard, PINLEASE_GUARD_LEASE);
	assert_int_equal(info.registrations, 1);
	ut_pump_stop(&pump);
}

/* The lease is held, and data is moving: otherwise nothing that follows says anything. */
static void expect_load(void)
{
	assert_int_equal(ut_info(lease).state, PINLEASE_ACTIVE);
	assert_int_equal(kt_open_now(path, O_PATH, UT_LONG) >= 0, 1);
	ut_pump_more(&pump, 200);
}

/* What holds from the opener's return until restore. */
static void expect_revoked(uint32_t cause, uint32_t end)
{
	struct pinlease_event ev;
	uint64_t acked;

	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_ptr_equal(ev.lease, lease);
	assert_int_equal(ev.cause, cause);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.gen, ut_info(lease).gen);
	assert_true(kt_call_done(opener, UT_LONG));
	assert_true(opener->ret >= 0);
	assert_int_equal(ut_info(lease).state, PINLEASE_REVOKED);
	assert_int_equal(ut_info(lease).in_flight, 0);
	ut_pump_settle(&pump);
	acked = atomic_load(&pump.acked);
	assert_int_equal(ut_pump_missing(&pump, path, end), 0);
	kt_sleep_ms(20);
	assert_int_equal(ut_pump_missing(&pump, path, end), 0);
	assert_int_equal(atomic_load(&pump.acked), acked);
	assert_int_equal(ut_ring_info(&u).registered, 0);
}

static void expect_restored(uint32_t gen, uint64_t len)
{
	struct pinlease_view view;

	ut_restore(lease);
	view = ut_view(lease);
	assert_int_equal(view.gen, gen);
	assert_int_equal(view.len, len);
}

static void one_break(struct kt_call *call, uint32_t cause, uint32_t end)
{
	uint32_t gen = ut_info(lease).gen;

	opener = call;
	assert_non_null(opener);
	expect_revoked(cause, end);
	kt_call_end(opener);
	opener = NULL;
	expect_restored(gen + 1, end * UT_BLOCK);
	expect_load();
}

static void open_for_reading(void **state)
{
	(void)state;
	expect_load();
	one_break(kt_open(path, O_RDONLY), PINLEASE_BY_READER, UT_BLOCKS);
	ut_pump_stop(&pump);
}

static void open_for_writing(void **state)
{
	(void)state;
	expect_load();
	one_break(kt_open(path, O_RDWR), PINLEASE_BY_WRITER, UT_BLOCKS);
	ut_pump_stop(&pump);
}

static void open_for_reading_with_trunc(void **state)
{
	struct pinlease_why why = { 0 };
	struct pinlease_event ev;

	(void)state;
	expect_load();
	opener = kt_open(path, O_RDONLY | O_TRUNC);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_int_equal(ev.cause, PINLEASE_BY_READER);
	assert_true(kt_call_done(opener, UT_LONG));
	kt_call_end(opener);
	opener = NULL;
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(pinlease_restore(lease, &why), -ENODATA);
	assert_int_equal(why.reason, PINLEASE_WHY_SHRUNK);
	assert_int_equal(ut_info(lease).state, PINLEASE_REVOKED);
	ut_pump_stop(&pump);
}

/* Half is cut off; the lease comes back shorter, and whole again when the file has grown. */
static void truncate_and_grow(void **state)
{
	(void)state;
	expect_load();
	one_break(kt_truncate(path, UT_LEN / 2), PINLEASE_BY_WRITER, UT_BLOCKS / 2);
	/* The cut half reads as zeros now, whatever had been written to it. */
	for (uint32_t i = UT_BLOCKS / 2; i < UT_BLOCKS; i++)
		atomic_store(&pump.last[i], 0);
	one_break(kt_truncate(path, UT_LEN), PINLEASE_BY_WRITER, UT_BLOCKS);
	ut_pump_stop(&pump);
}

/* Our own change breaks what it touches, and keeps the guard. */
static void own_truncate(void **state)
{
	struct pinlease_event ev;
	uint32_t gen = ut_info(lease).gen;
	struct stat st;

	(void)state;
	expect_load();
	assert_int_equal(pinlease_file_truncate(file, UT_LEN / 2), 0);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_int_equal(ev.cause, PINLEASE_BY_OWNER);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, UT_LEN / 2);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	expect_restored(gen + 1, UT_LEN / 2);
	expect_load();
	/* Growing moves nothing that is leased. */
	assert_int_equal(pinlease_file_truncate(file, UT_LEN), 0);
	assert_int_equal(ut_info(lease).state, PINLEASE_ACTIVE);
	assert_int_equal(ut_info(lease).breaks, 1);
	ut_pump_stop(&pump);
	assert_int_equal(kt_truncate_now(path, UT_LEN, UT_LONG), 0);
	assert_int_equal(ut_pump_missing(&pump, path, UT_BLOCKS / 2), 0);
}

/* Release and close, then a new lease: what the load had written is in the file in between. */
static void restart(uint32_t flags)
{
	ut_pump_stop(&pump);
	ut_drop(lease, file);
	lease = NULL;
	file = NULL;
	assert_int_equal(ut_pump_missing(&pump, path, UT_BLOCKS), 0);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, flags, 0);
	ut_pump_start(&pump, &u, lease, UT_BLOCKS);
}

static void release_keeps_the_data(void **state)
{
	(void)state;
	expect_load();
	restart(0);
	expect_load();
	restart(0);
}

/* Automatic restore, each time after a longer back-off: breaks in a row, the load goes on in between, each
 * generation one more. */
static void breaks_in_a_row(void **state)
{
	struct pinlease_event ev;

	(void)state;
	restart(0);
	for (uint32_t i = 0; i < 6; i++) {
		uint32_t gen = ut_view(lease).gen;

		ut_pump_more(&pump, 50);
		assert_int_equal(kt_truncate_now(path, UT_LEN, UT_LONG), 0);
		assert_true(ut_event(&u, PINLEASE_EV_RESTORED, UT_LONG, &ev));
		assert_int_equal(ev.gen, gen + 1);
		assert_int_equal(ut_info(lease).breaks, i + 1);
	}
	ut_pump_more(&pump, 50);
	restart(0);
}

#define BREAK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		BREAK_TEST(mode_and_reason),   BREAK_TEST(open_for_reading),
		BREAK_TEST(open_for_writing),  BREAK_TEST(open_for_reading_with_trunc),
		BREAK_TEST(truncate_and_grow), BREAK_TEST(own_truncate),
		BREAK_TEST(breaks_in_a_row),   BREAK_TEST(release_keeps_the_data),
	};

	fs_type = argc > 1 ? argv[1] : "tmpfs";
	ut_begin_on(&fs, fs_type, 16);
	return cmocka_run_group_tests_name(fs_type, tests, NULL, NULL);
}
