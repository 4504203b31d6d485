/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * choice FS: which mode auto takes on soft-RoCE, and the reason it gives, on this kernel;
 * what asking by name gets; and that RDMA really works in what was chosen.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <pinlease.h>

#include "kt.h"
#include "kt_rdma.h"
#include "rt.h"

#define PAGE 4096u
#define FULL (8 * (uint64_t)PAGE)

static const char *fs_type;
static struct kt_fs fs;
static struct kt_rdma dev;
static struct kt_pair pair;
static struct pinlease_ctx *ctx;
static uint8_t buf[2 * PAGE];
static struct ibv_mr *mr;

static bool tmpfs(void)
{
	return !strcmp(fs_type, "tmpfs");
}

struct chosen {
	char path[KT_PATH_MAX];
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_lease_info info;
	struct pinlease_view view;
	struct pinlease_why why;
	int r;
};

static void choose(struct chosen *c, uint32_t access, uint32_t mode)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .access = access };
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = dev.pd, .mode = mode };

	memset(c, 0, sizeof(*c));
	lo.ibv_access = IBV_ACCESS_REMOTE_READ | (access == PINLEASE_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0);
	assert_int_equal(kt_file(c->path, fs.dir, "choice", FULL), 0);
	assert_int_equal(pinlease_file_open(ctx, c->path, &fo, NULL, &c->file), 0);
	c->r = pinlease_acquire(c->file, 0, FULL, &lo, &c->why, &c->lease);
	if (c->r)
		return;
	c->info.size = sizeof(c->info);
	c->view.size = sizeof(c->view);
	assert_int_equal(pinlease_lease_info(c->lease, &c->info), 0);
	assert_int_equal(pinlease_view_get(c->lease, 0, &c->view), 0);
	print_message("%s, %s: mode %u (%s)\n", fs_type, access == PINLEASE_WRITE ? "write" : "read",
		      c->info.mode, pinlease_reason_str(c->info.mode_reason));
}

static void let_go(struct chosen *c)
{
	if (!c->r)
		assert_int_equal(pinlease_release(c->lease), 0);
	assert_int_equal(pinlease_file_close(c->file), 0);
}

static void assert_content(const char *path, uint64_t off, int value)
{
	uint8_t have[PAGE], want[PAGE];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	memset(want, value, PAGE);
	assert_int_equal(pread(fd, have, PAGE, (off_t)off), PAGE);
	assert_memory_equal(have, want, PAGE);
	close(fd);
}

static void assert_refused(uint32_t access, uint32_t mode, uint32_t reason)
{
	struct chosen c;

	choose(&c, access, mode);
	assert_int_equal(c.r, -EOPNOTSUPP);
	assert_int_equal(c.why.reason, reason);
	assert_int_equal(c.why.mode, mode);
	let_go(&c);
}

/* A page-aligned write through the lease, and a break: it is in the file. */
static void assert_writes(struct chosen *c)
{
	memset(buf, 0x71, PAGE);
	assert_int_equal(kt_do(&pair.peer, IBV_WR_RDMA_WRITE, buf, mr->lkey, PAGE, c->view.iova + PAGE,
			       c->view.rkey),
			 0);
	assert_int_equal(kt_truncate_now(c->path, FULL, 10000), 0);
	assert_content(c->path, PAGE, 0x71);
	assert_content(c->path, 0, 'k');
}

/* A pin of tmpfs; elsewhere neither pin nor ODP, and the reason is the best candidate's. */
static void test_auto_write(void **state)
{
	uint32_t reason = dev.odp ? PINLEASE_WHY_DATA_CHECK : PINLEASE_WHY_DIRTY_TRACKED;
	struct chosen c;

	(void)state;
	choose(&c, PINLEASE_WRITE, PINLEASE_MODE_AUTO);
	assert_int_equal(c.r, 0);
	assert_int_equal(c.info.mode, tmpfs() ? PINLEASE_MODE_PINNED : PINLEASE_MODE_STAGED);
	assert_int_equal(c.info.mode_reason, tmpfs() ? PINLEASE_WHY_BEST : reason);
	assert_writes(&c);
	let_go(&c);
}

/* Before 6.5 a read-only registration is a write pin in secret: an O_RDONLY file's mapping refuses it. */
static void test_auto_read(void **state)
{
	bool pins = kt_kernel_from(6, 5);
	struct chosen c;

	(void)state;
	choose(&c, PINLEASE_READ, PINLEASE_MODE_AUTO);
	assert_int_equal(c.r, 0);
	assert_int_equal(c.info.mode, pins ? PINLEASE_MODE_PINNED : PINLEASE_MODE_STAGED);
	assert_int_equal(c.info.mode_reason, pins ? PINLEASE_WHY_BEST : PINLEASE_WHY_PIN_REFUSED);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(kt_do(&pair.peer, IBV_WR_RDMA_READ, buf, mr->lkey, PAGE, c.view.iova + 3 * PAGE,
			       c.view.rkey),
			 0);
	assert_int_equal(buf[0], 'k');
	assert_int_equal(buf[PAGE - 1], 'k');
	let_go(&c);
}

static void test_pinned_by_name(void **state)
{
	struct chosen c;

	(void)state;
	if (!tmpfs()) {
		assert_refused(PINLEASE_WRITE, PINLEASE_MODE_PINNED, PINLEASE_WHY_DIRTY_TRACKED);
		return;
	}
	choose(&c, PINLEASE_WRITE, PINLEASE_MODE_PINNED);
	assert_int_equal(c.r, 0);
	assert_int_equal(c.info.mode_reason, PINLEASE_WHY_ASKED);
	assert_writes(&c);
	let_go(&c);
}

/* The device fails the data check, but at path MTU 4096 it is right for page-aligned accesses. */
static void test_odp_by_name(void **state)
{
	struct chosen c;

	(void)state;
	if (!dev.odp) {
		assert_refused(PINLEASE_WRITE, PINLEASE_MODE_ODP, PINLEASE_WHY_NO_ODP);
		return;
	}
	assert_int_equal(dev.mtu, IBV_MTU_4096);
	choose(&c, PINLEASE_WRITE, PINLEASE_MODE_ODP);
	assert_int_equal(c.r, 0);
	assert_int_equal(c.info.mode, PINLEASE_MODE_ODP);
	assert_writes(&c);
	/* Fenced: the old key is dead. */
	assert_int_equal(kt_do(&pair.peer, IBV_WR_RDMA_WRITE, buf, mr->lkey, PAGE, c.view.iova, c.view.rkey),
			 -(1000 + IBV_WC_REM_ACCESS_ERR));
	let_go(&c);
	kt_pair_drop(&pair);
	assert_int_equal(kt_pair_make(&dev, &pair, 8), 0);
}

static void test_staged_by_name(void **state)
{
	struct chosen c;

	(void)state;
	choose(&c, PINLEASE_WRITE, PINLEASE_MODE_STAGED);
	assert_int_equal(c.r, 0);
	assert_int_equal(c.info.mode, PINLEASE_MODE_STAGED);
	assert_int_equal(c.info.mode_reason, PINLEASE_WHY_ASKED);
	assert_writes(&c);
	let_go(&c);
}

static int group_setup(void **state)
{
	(void)state;
	if (kt_fs_make(&fs, fs_type, 64) || kt_rdma_open(&dev) || kt_pair_make(&dev, &pair, 8))
		return -1;
	mr = ibv_reg_mr(dev.pd, buf, sizeof(buf), IBV_ACCESS_LOCAL_WRITE);
	return mr ? pinlease_ctx_new(NULL, &ctx) : -1;
}

static int group_teardown(void **state)
{
	int r = pinlease_ctx_free(ctx);

	(void)state;
	ibv_dereg_mr(mr);
	kt_pair_drop(&pair);
	kt_rdma_close(&dev);
	return r;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_auto_write),  cmocka_unit_test(test_auto_read),
		cmocka_unit_test(test_pinned_by_name), cmocka_unit_test(test_odp_by_name),
		cmocka_unit_test(test_staged_by_name),
	};

	rt_assert(argc == 2, "usage: choice FILESYSTEM");
	fs_type = argv[1];
	kt_init();
	rt_require();
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
