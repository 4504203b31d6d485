/* SPDX-License-Identifier: BSD-3-Clause */
/* memfd under the seal guard: nothing breaks it, since nothing can change it. */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE (2u << 20)

static struct ut u;
static char path[KT_PATH_MAX];
static int memfd;
static struct pinlease_file *file;
static struct pinlease *lease;
static struct ut_pump pump;

static int setup(void **state)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts) };
	struct pinlease_why why = { 0 };

	(void)state;
	ut_start(&u, 32, 4);
	memfd = memfd_create("seal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(memfd >= 0);
	assert_int_equal(ftruncate(memfd, UT_LEN), 0);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), memfd);
	assert_int_equal(pinlease_file_attach(u.ctx, memfd, &opts, &why, &file), 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	ut_pump_start(&pump, &u, lease, UT_BLOCKS);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_pump_end(&pump);
	ut_drop(lease, file);
	close(memfd);
	ut_stop(&u);
	return 0;
}

static int punch(const void *arg)
{
	int fd = open(arg, O_RDWR | O_CLOEXEC);
	int ret = fd < 0 ? -errno : 0;

	if (!ret && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, UT_BLOCK))
		ret = -errno;
	if (fd >= 0)
		close(fd);
	return ret;
}

static int overwrite(const void *arg)
{
	int fd = open(arg, O_RDWR | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (pwrite(fd, "x", 1, 0) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static int ask(int (*fn)(const void *arg))
{
	struct kt_call *call = kt_call_start(fn, path, sizeof(path));
	int ret = -ETIMEDOUT;

	assert_non_null(call);
	if (kt_call_done(call, UT_LONG))
		ret = call->ret;
	kt_call_end(call);
	return ret;
}

static void changes_are_refused(void **state)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct pinlease_view view;

	(void)state;
	assert_int_equal(fcntl(memfd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
	ut_pump_more(&pump, 200);
	assert_int_equal(kt_truncate_now(path, UT_LEN / 2, UT_LONG), -EPERM);
	assert_int_equal(kt_truncate_now(path, 2 * UT_LEN, UT_LONG), -EPERM);
	assert_true(kt_open_now(path, O_RDONLY, UT_LONG) >= 0);
	assert_true(kt_open_now(path, O_RDWR, UT_LONG) >= 0);
	assert_int_equal(ask(punch), -EPERM);
	assert_int_equal(ask(overwrite), -EPERM);
	assert_int_equal(pinlease_file_truncate(file, UT_LEN / 2), -EPERM);
	assert_int_equal(
		pinlease_file_allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, UT_BLOCK),
		-EPERM);
	ut_pump_more(&pump, 200);
	view = ut_view(lease);
	assert_int_equal(view.guard, PINLEASE_GUARD_SEAL);
	assert_int_equal(view.mode, PINLEASE_MODE_PINNED);
	assert_int_equal(ut_info(lease).breaks, 0);
	assert_int_equal(pinlease_ctx_next_event(u.ctx, &ev), 0);
	ut_pump_stop(&pump);
	assert_int_equal(ut_pump_missing(&pump, path, UT_BLOCKS), 0);
}

/* Staged memory could not be written back, and a file that came sealed cannot be mapped for writing any more.
 */
static void what_seals_rule_out(void **state)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .mode = PINLEASE_MODE_STAGED,
				      .backend = pinlease_uring_backend(),
				      .backend_arg = u.ring };
	struct pinlease_file_opts file_opts = { .size = sizeof(file_opts) };
	struct pinlease_file *again;
	struct pinlease *more;
	struct pinlease_why why = { 0 };

	(void)state;
	ut_pump_stop(&pump);
	assert_int_equal(pinlease_acquire(file, 0, UT_LEN, &opts, &why, &more), -EOPNOTSUPP);
	assert_int_equal(why.reason, PINLEASE_WHY_STAGED_SEALED);
	assert_int_equal(pinlease_file_attach(u.ctx, memfd, &file_opts, &why, &again), 0);
	opts.mode = PINLEASE_MODE_AUTO;
	assert_int_equal(pinlease_acquire(again, 0, UT_LEN, &opts, &why, &more), -EPERM);
	assert_int_equal(why.reason, PINLEASE_WHY_SEALED);
	/* The first lease's memory is such a mapping from before. */
	opts.addr = ut_view(lease).addr;
	assert_int_equal(pinlease_acquire(again, 0, UT_LEN, &opts, &why, &more), 0);
	ut_drop(more, again);
	/* A guard asked for by name changes nothing about the seals. */
	file_opts.guard = PINLEASE_GUARD_NONE;
	assert_int_equal(pinlease_file_attach(u.ctx, memfd, &file_opts, &why, &again), 0);
	opts.mode = PINLEASE_MODE_STAGED;
	assert_int_equal(pinlease_acquire(again, 0, UT_LEN, &opts, &why, &more), -EOPNOTSUPP);
	assert_int_equal(why.reason, PINLEASE_WHY_STAGED_SEALED);
	opts.addr = NULL;
	assert_int_equal(pinlease_acquire(again, 0, UT_LEN, &opts, &why, &more), -EPERM);
	assert_int_equal(why.reason, PINLEASE_WHY_SEALED);
	assert_int_equal(pinlease_file_close(again), 0);
}

/* Leases of huge pages: parts of the one mapping that was made before the seals, each at a huge page. */
static void huge_pages_are_sealed_alike(void **state)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .backend = pinlease_uring_backend(),
				      .backend_arg = u.ring };
	struct pinlease_why why = { 0 };
	struct pinlease *half[2];
	char byte = 1;
	int huge, zero;

	(void)state;
	ut_pump_stop(&pump);
	if (geteuid()) {
		kt_note("only root makes huge pages");
		return;
	}
	assert_int_equal(kt_hugepages(2), 0);
	huge = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);
	assert_true(huge >= 0);
	assert_int_equal(ftruncate(huge, 2 * HUGE), 0);
	ut_drop(lease, file);
	assert_int_equal(pinlease_file_attach(u.ctx, huge, NULL, &why, &file), 0);
	assert_int_equal(fcntl(huge, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
	assert_int_equal(pinlease_acquire(file, UT_BLOCK, UT_BLOCK, &opts, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_ALIGNMENT);
	assert_int_equal(pinlease_acquire(file, 0, HUGE, &opts, &why, &half[0]), 0);
	assert_int_equal(pinlease_acquire(file, HUGE, HUGE, &opts, &why, &half[1]), 0);
	assert_ptr_equal((char *)ut_view(half[0]).addr + HUGE, ut_view(half[1]).addr);
	assert_int_equal(ut_view(half[1]).guard, PINLEASE_GUARD_SEAL);
	assert_int_equal(ut_view(half[1]).mode, PINLEASE_MODE_PINNED);

	memset(ut_view(half[1]).addr, 1, 2 * UT_BLOCK);
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pinlease_uring_read(u.ring, half[1], UT_BLOCK, UT_BLOCK, zero, 0, 0), 0);
	assert_int_equal(ut_take(&u).res, UT_BLOCK);
	close(zero);
	assert_int_equal(pread(huge, &byte, 1, HUGE + UT_BLOCK), 1);
	assert_int_equal(byte, 0);
	assert_int_equal(pread(huge, &byte, 1, HUGE + UT_BLOCK - 1), 1);
	assert_int_equal(byte, 1);
	assert_int_equal(ftruncate(huge, HUGE), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(pinlease_release(half[0]), 0);
	lease = half[1];
	close(huge);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(changes_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(what_seals_rule_out, setup, teardown),
		cmocka_unit_test_setup_teardown(huge_pages_are_sealed_alike, setup, teardown),
	};

	kt_init();
	ut_need_uring();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
