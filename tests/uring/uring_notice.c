/* SPDX-License-Identifier: BSD-3-Clause */
/* NOTICE: the path of a leased file is renamed, replaced, unlinked by somebody else; DMA goes on. */
#include "ut.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NEVER_MS 700u	/* longer than two looks of the library's slow pass are apart */

static struct kt_fs fs[4];
static const char *const types[] = { "tmpfs", "ext4", "xfs", "btrfs" };
static struct ut u;

struct pair {
	char from[KT_PATH_MAX], to[KT_PATH_MAX];
};

static int do_rename(const void *arg)
{
	const struct pair *p = arg;

	return rename(p->from, p->to) ? -errno : 0;
}

static int do_unlink(const void *arg)
{
	return unlink(arg) ? -errno : 0;
}

static void by_another(int (*fn)(const void *arg), const void *arg, size_t len)
{
	struct kt_call *call = kt_call_start(fn, arg, len);

	assert_non_null(call);
	assert_int_equal(kt_call_done(call, UT_LONG), 1);
	assert_int_equal(call->ret, 0);
	kt_call_end(call);
}

static void expect_notice(struct pinlease *lease)
{
	struct pinlease_event ev;

	assert_true(ut_event(&u, PINLEASE_EV_NOTICE, UT_LONG, &ev));
	assert_ptr_equal(ev.lease, lease);
	assert_int_equal(ev.cause, PINLEASE_BY_NAMESPACE);
	assert_int_equal(ev.len, UT_LEN);
}

static void one_file_system(const char *dir)
{
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_event ev;
	struct ut_pump pump = { 0 };
	struct pair p;
	char path[KT_PATH_MAX];

	ut_file(path, dir, "leased", UT_BLOCKS);
	ut_file(p.from, dir, "new", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	ut_pump_start(&pump, &u, lease, UT_BLOCKS);
	ut_pump_more(&pump, 100);

	memcpy(p.to, path, sizeof(p.to));
	by_another(do_rename, &p, sizeof(p));
	expect_notice(lease);
	/* The path is another file's now, the lease's has no name: nothing more can happen to it. */
	by_another(do_unlink, path, sizeof(path));
	assert_false(ut_event(&u, PINLEASE_EV_NOTICE, NEVER_MS, &ev));

	ut_pump_more(&pump, 100);
	assert_int_equal(ut_info(lease).breaks, 0);
	ut_pump_stop(&pump);
	ut_drop(lease, file);
}

static void a_replaced_path_is_told_and_breaks_nothing(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++)
		one_file_system(fs[i].dir);
}

static int setup(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++)
		assert_int_equal(kt_fs_make(&fs[i], types[i], 64), 0);
	ut_start(&u, 32, 4);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_stop(&u);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_replaced_path_is_told_and_breaks_nothing),
	};

	ut_begin();
	return cmocka_run_group_tests(tests, setup, teardown);
}
