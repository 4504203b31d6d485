/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data check on the device itself: a plain registration passes on every kernel,
 * rxe's ODP (7.2) fails, and an independent unaligned write shows that it deserves to. Then
 * what is made of that: auto's refusal, ODP by name according to the path MTU, the answer
 * remembered; and with the Nth verbs call failing (the linker's --wrap), nothing leaked.
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
#include "verbs.h"

#define PAGE 4096u

static struct kt_rdma dev;

/* Verbs calls that can fail are counted, and call number fail_at fails; objects made and freed are, too. */
static unsigned int calls, fail_at, qps_made;
static int live;

static bool fails(void)
{
	return ++calls == fail_at;
}

#define WRAP_MAKE(fn, params, args)                                                                          \
	int __real_pl_verbs_##fn params;                                                                     \
	int __wrap_pl_verbs_##fn params;                                                                     \
	int __wrap_pl_verbs_##fn params                                                                      \
	{                                                                                                    \
		int r = fails() ? -ENOMEM : __real_pl_verbs_##fn args;                                       \
                                                                                                             \
		live += !r;                                                                                  \
		return r;                                                                                    \
	}
#define WRAP_FREE(fn, params, args)                                                                          \
	int __real_pl_verbs_##fn params;                                                                     \
	int __wrap_pl_verbs_##fn params;                                                                     \
	int __wrap_pl_verbs_##fn params                                                                      \
	{                                                                                                    \
		int r = __real_pl_verbs_##fn args;                                                           \
                                                                                                             \
		live -= !r;                                                                                  \
		return r;                                                                                    \
	}
#define WRAP_CALL(fn, params, args)                                                                          \
	int __real_pl_verbs_##fn params;                                                                     \
	int __wrap_pl_verbs_##fn params;                                                                     \
	int __wrap_pl_verbs_##fn params                                                                      \
	{                                                                                                    \
		return fails() ? -EIO : __real_pl_verbs_##fn args;                                           \
	}

WRAP_MAKE(reg_mr,
	  (struct ibv_pd * pd, void *addr, uint64_t len, uint64_t iova, uint32_t access, struct ibv_mr **mr),
	  (pd, addr, len, iova, access, mr))
WRAP_MAKE(create_cq, (struct ibv_context * context, int entries, struct ibv_cq **cq), (context, entries, cq))
WRAP_FREE(dereg_mr, (struct ibv_mr * mr), (mr))
WRAP_FREE(destroy_cq, (struct ibv_cq * cq), (cq))
WRAP_FREE(destroy_qp, (struct ibv_qp * qp), (qp))
WRAP_CALL(port_count, (struct ibv_context * context), (context))
WRAP_CALL(query_port, (struct ibv_context * context, uint8_t port, struct ibv_port_attr *attr),
	  (context, port, attr))
WRAP_CALL(modify_qp, (struct ibv_qp * qp, struct ibv_qp_attr *attr, int mask), (qp, attr, mask))
WRAP_CALL(post_send, (struct ibv_qp * qp, struct ibv_send_wr *wr), (qp, wr))

int __real_pl_verbs_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct ibv_qp **qp);
int __wrap_pl_verbs_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct ibv_qp **qp);

int __wrap_pl_verbs_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct ibv_qp **qp)
{
	int r = fails() ? -ENOMEM : __real_pl_verbs_create_qp(pd, attr, qp);

	qps_made++;
	live += !r;
	return r;
}

/* The bare fact: one unaligned write into an ODP region, by plain verbs. 1: it went where it should. */
static int odp_is_right(void)
{
	struct kt_pair pair;
	struct ibv_mr *mr;
	uint8_t *mem;
	int right;

	mem = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(mem != MAP_FAILED);
	mr = ibv_reg_mr(dev.pd, mem, 2 * PAGE, KT_ACCESS_WRITE | IBV_ACCESS_ON_DEMAND);
	assert_non_null(mr);
	assert_int_equal(kt_pair_make(&dev, &pair, 4), 0);
	memset(mem, 0x11, 64);
	assert_int_equal(kt_do(&pair.peer, IBV_WR_RDMA_WRITE, mem, mr->lkey, 64, (uintptr_t)mem + PAGE + 100,
			       mr->rkey),
			 0);
	right = mem[PAGE + 100] == 0x11 && mem[PAGE] == 0;
	kt_pair_drop(&pair);
	assert_int_equal(ibv_dereg_mr(mr), 0);
	munmap(mem, 2 * PAGE);
	return right;
}

static void test_plain_passes(void **state)
{
	uint64_t start;

	(void)state;
	assert_int_equal(pl_datacheck_run(dev.pd, 0), 0);
	start = kt_now();
	assert_int_equal(pl_datacheck_run(dev.pd, 0), 0);
	print_message("the check takes %llu us\n", (unsigned long long)(kt_now() - start) / 1000);
	assert_int_equal(live, 0);
}

static void test_odp(void **state)
{
	uint32_t reason = 0;
	int right;

	(void)state;
	if (!dev.odp) {
		assert_int_equal(pl_backend_odp.capable(dev.pd, NULL, &reason), -EOPNOTSUPP);
		assert_int_equal(reason, PINLEASE_WHY_NO_ODP);
		assert_int_equal(pl_odp_by_name_ok(dev.pd, &reason), -EOPNOTSUPP);
		return;
	}
	right = odp_is_right();
	print_message("an unaligned write through ODP goes to the %s place\n", right ? "right" : "wrong");
	assert_int_equal(pl_datacheck_run(dev.pd, IBV_ACCESS_ON_DEMAND), right ? 0 : -EOPNOTSUPP);
	assert_int_equal(pl_backend_odp.capable(dev.pd, NULL, &reason), right ? 0 : -EOPNOTSUPP);
	if (!right)
		assert_int_equal(reason, PINLEASE_WHY_DATA_CHECK);
	assert_int_equal(live, 0);
}

/* Asked once and remembered: also the bad news. */
static void test_remembered(void **state)
{
	unsigned int before;
	int first;

	(void)state;
	if (!dev.odp) {
		kt_note("the device does no ODP");
		return;
	}
	first = pl_datacheck_odp(dev.pd, pl_datacheck_mtu(dev.ctx));
	before = qps_made;
	assert_int_equal(pl_datacheck_odp(dev.pd, pl_datacheck_mtu(dev.ctx)), first);
	assert_int_equal(qps_made, before);
}

/* By name, for those whose accesses are page-aligned: only where the packets of one are, too. */
static void test_by_name(void **state)
{
	uint32_t reason = 0, mtu = pl_datacheck_mtu(dev.ctx);

	(void)state;
	assert_int_equal(mtu, 128u << dev.mtu);
	if (!dev.odp || odp_is_right()) {
		kt_note("no device whose ODP is wrong");
		return;
	}
	if (mtu >= PAGE) {
		assert_int_equal(pl_odp_by_name_ok(dev.pd, &reason), 0);
	} else {
		assert_int_equal(pl_odp_by_name_ok(dev.pd, &reason), -EOPNOTSUPP);
		assert_int_equal(reason, PINLEASE_WHY_DATA_CHECK);
	}
}

static void test_failing_calls(void **state)
{
	unsigned int needed;
	int r;

	(void)state;
	calls = fail_at = 0;
	assert_int_equal(pl_datacheck_run(dev.pd, 0), 0);
	needed = calls;
	assert_true(needed > 10);
	for (fail_at = 1; fail_at <= needed; fail_at++) {
		calls = 0;
		r = pl_datacheck_run(dev.pd, 0);
		assert_int_equal(live, 0);
		/* A route that fails may be replaced by another one. */
		if (r && r != -ENOMEM && r != -EIO && r != -EOPNOTSUPP)
			fail_msg("call %u of %u failing: %d", fail_at, needed, r);
	}
	fail_at = 0;
	assert_int_equal(pl_datacheck_run(dev.pd, 0), 0);
}

static int group_setup(void **state)
{
	(void)state;
	return kt_rdma_open(&dev);
}

static int group_teardown(void **state)
{
	(void)state;
	kt_rdma_close(&dev);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_passes), cmocka_unit_test(test_odp),
		cmocka_unit_test(test_remembered),   cmocka_unit_test(test_by_name),
		cmocka_unit_test(test_failing_calls),
	};

	kt_init();
	rt_require();
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
