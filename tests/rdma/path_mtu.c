/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device on an ordinary Ethernet, path MTU 1024: a second rxe on a dummy interface. The
 * check finds its own way to it and passes a plain registration; ODP by name, which is
 * right at path MTU 4096 for page-aligned accesses, is refused here, since the packets
 * of an aligned message are not aligned any more. Both are shown by hand, too.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>
#include <pinlease.h>

#include "backend.h"
#include "datacheck.h"
#include "kt.h"
#include "kt_rdma.h"
#include "rt.h"

#define PAGE	4096u
#define LINK	"plmtu0"
#define DEVICE	"rxe_plmtu"
#define ADDRESS "10.77.31.1/24"

static struct kt_rdma wide, narrow;	/* rxe0 on lo; DEVICE on LINK */

static void undo(void)
{
	int ignored = system("rdma link delete " DEVICE " 2>/dev/null; ip link delete " LINK " 2>/dev/null");

	(void)ignored;
}

static int make_narrow(void)
{
	undo();
	atexit(undo);
	return system("ip link add " LINK " mtu 1500 type dummy && ip addr add " ADDRESS " dev " LINK
		      " && ip link set " LINK " up && rdma link add " DEVICE " type rxe netdev " LINK);
}

static struct ibv_context *open_by_name(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *found = NULL;
	int i;

	for (i = 0; list && list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), name))
			found = ibv_open_device(list[i]);
	ibv_free_device_list(list);
	return found;
}

/* As kt_rdma_open, for the device of that name. The first IPv4 GID of a dummy is its address. */
static int open_narrow(void)
{
	struct ibv_port_attr port;
	int i;

	narrow.ctx = open_by_name(DEVICE);
	if (!narrow.ctx || ibv_query_port(narrow.ctx, 1, &port))
		return -ENODEV;
	narrow.port = 1;
	narrow.mtu = port.active_mtu;
	narrow.odp = wide.odp;
	for (i = 0; i < port.gid_tbl_len; i++) {
		if (ibv_query_gid(narrow.ctx, 1, i, &narrow.gid) || narrow.gid.raw[10] != 0xff)
			continue;
		narrow.gid_index = (uint8_t)i;
		narrow.pd = ibv_alloc_pd(narrow.ctx);
		return narrow.pd ? 0 : -errno;
	}
	return -EADDRNOTAVAIL;
}

/* A page-aligned write of two pages through ODP: do all its packets get where they should? */
static int aligned_odp_is_right(const struct kt_rdma *dev)
{
	struct kt_pair pair;
	struct ibv_mr *mr;
	uint8_t *mem;
	int right;

	mem = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(mem != MAP_FAILED);
	mr = ibv_reg_mr(dev->pd, mem, 4 * PAGE, KT_ACCESS_WRITE | IBV_ACCESS_ON_DEMAND);
	assert_non_null(mr);
	assert_int_equal(kt_pair_make(dev, &pair, 4), 0);
	memset(mem, 0x22, 2 * PAGE);
	assert_int_equal(kt_do(&pair.peer, IBV_WR_RDMA_WRITE, mem, mr->lkey, 2 * PAGE,
			       (uintptr_t)mem + 2 * PAGE, mr->rkey),
			 0);
	right = !memcmp(mem, mem + 2 * PAGE, 2 * PAGE);
	kt_pair_drop(&pair);
	assert_int_equal(ibv_dereg_mr(mr), 0);
	munmap(mem, 4 * PAGE);
	return right;
}

static void test_plain_passes(void **state)
{
	(void)state;
	assert_int_equal(narrow.mtu, IBV_MTU_1024);
	assert_int_equal(pl_datacheck_mtu(narrow.ctx), 1024);
	assert_int_equal(pl_datacheck_run(narrow.pd, 0), 0);
}

static void test_by_hand(void **state)
{
	(void)state;
	if (!wide.odp) {
		kt_note("the device does no ODP");
		return;
	}
	assert_true(aligned_odp_is_right(&wide));
	assert_false(aligned_odp_is_right(&narrow));
}

static void test_odp_by_name(void **state)
{
	uint32_t reason = 0;

	(void)state;
	assert_int_equal(pl_odp_by_name_ok(narrow.pd, &reason), -EOPNOTSUPP);
	assert_int_equal(reason, wide.odp ? PINLEASE_WHY_DATA_CHECK : PINLEASE_WHY_NO_ODP);
	assert_int_equal(pl_odp_by_name_ok(wide.pd, &reason), wide.odp ? 0 : -EOPNOTSUPP);
}

/* The same by the public door, where one process has both devices. */
static void test_acquire(void **state)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = narrow.pd, .mode = PINLEASE_MODE_ODP,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_why why = { 0 };
	struct pinlease_file *file;
	struct pinlease_ctx *ctx;
	struct pinlease *lease;
	char path[KT_PATH_MAX];
	struct kt_fs fs;

	(void)state;
	assert_int_equal(kt_fs_make(&fs, "tmpfs", 4), 0);
	assert_int_equal(kt_file(path, fs.dir, "mtu", 2 * PAGE), 0);
	assert_int_equal(pinlease_ctx_new(NULL, &ctx), 0);
	assert_int_equal(pinlease_file_open(ctx, path, NULL, NULL, &file), 0);
	assert_int_equal(pinlease_acquire(file, 0, 2 * PAGE, &lo, &why, &lease), -EOPNOTSUPP);
	assert_int_equal(why.reason, wide.odp ? PINLEASE_WHY_DATA_CHECK : PINLEASE_WHY_NO_ODP);
	assert_int_equal(why.stage, PINLEASE_AT_CHECK);
	lo.pd = wide.pd;
	if (wide.odp) {
		assert_int_equal(pinlease_acquire(file, 0, 2 * PAGE, &lo, &why, &lease), 0);
		assert_int_equal(pinlease_release(lease), 0);
	}
	assert_int_equal(pinlease_file_close(file), 0);
	assert_int_equal(pinlease_ctx_free(ctx), 0);
}

static int group_setup(void **state)
{
	(void)state;
	return kt_rdma_open(&wide) || make_narrow() || open_narrow() ? -1 : 0;
}

static int group_teardown(void **state)
{
	(void)state;
	kt_rdma_close(&wide);
	kt_rdma_close(&narrow);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_passes),
		cmocka_unit_test(test_by_hand),
		cmocka_unit_test(test_odp_by_name),
		cmocka_unit_test(test_acquire),
	};

	kt_init();
	rt_require();
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
