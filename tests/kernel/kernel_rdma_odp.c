/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rxe's on-demand paging takes the page and forgets the offset within it: what is not
 * page-aligned goes to, or comes from, the start of the page, without an error. This is
 * why libpinlease checks a device's data path before it trusts it. The same operations
 * through a pinned registration are the control.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "rdma_scene.h"

#define ODP (KT_ACCESS_WRITE | IBV_ACCESS_ON_DEMAND)
#define OFF 100
#define LEN 64

static bool is_asked(void)
{
	if (generation() == WITH_ODP)
		return true;
	kt_note("no ODP");
	return false;
}

static void the_device_claims_odp_from_6_15_on(void **state)
{
	(void)state;
	assert_int_equal(rdma.odp, generation() == WITH_ODP);
}

/* Where did the LEN bytes go: to OFF, where they were sent, or to the start of the page? */
static void write_at_offset(enum scene_fs which, unsigned int access, size_t lands_at)
{
	struct target t;
	struct wire w;

	target_wire_make(&t, &w, which, access);
	memset(t.map, 0, PAGE);
	assert_int_equal(wire_write(&w, &t, OFF, LEN, 'W'), 0);
	assert_true(all_bytes(t.map + lands_at, LEN, 'W'));
	memset(t.map + lands_at, 0, LEN);
	assert_true(all_bytes(t.map, PAGE, 0));
	target_wire_drop(&t, &w);
}

static void read_at_offset(enum scene_fs which, unsigned int access, int comes_back)
{
	struct target t;
	struct wire w;

	target_wire_make(&t, &w, which, access);
	memset(t.map, 'S', PAGE);
	memset(t.map + OFF, 'R', LEN);
	assert_int_equal(wire_read(&w, &t, OFF, LEN), 0);
	assert_true(all_bytes(w.buf, LEN, comes_back));
	target_wire_drop(&t, &w);
}

static void an_unaligned_write_through_odp_goes_to_the_start_of_the_page(void **state)
{
	(void)state;
	write_at_offset(TMPFS, KT_ACCESS_WRITE, OFF);
	if (!is_asked())
		return;
	for_each_fs(which) write_at_offset(which, ODP, 0);
}

static void an_unaligned_read_through_odp_comes_from_the_start_of_the_page(void **state)
{
	(void)state;
	read_at_offset(TMPFS, KT_ACCESS_WRITE, 'R');
	if (!is_asked())
		return;
	for_each_fs(which) read_at_offset(which, ODP, 'S');
}

/* Pages of one message each hold a byte of their own; do they arrive so? */
static bool pages_arrive(unsigned int access, enum ibv_mtu mtu)
{
	enum ibv_mtu active = rdma.mtu;
	bool same = true;
	struct target t;
	struct wire w;

	target_make(&t, TMPFS, access);
	rdma.mtu = mtu;
	wire_make(&w);
	rdma.mtu = active;
	for (size_t at = 0; at < SCENE_SIZE; at++)
		w.buf[at] = (char)(at / 512 + 1);
	assert_int_equal(kt_do(&w.pair.peer, IBV_WR_RDMA_WRITE, w.buf, w.mr->lkey, SCENE_SIZE,
			       (uintptr_t)t.map, t.mr->rkey),
			 0);
	same = !memcmp(w.buf, t.map, SCENE_SIZE);
	target_wire_drop(&t, &w);
	return same;
}

static void whole_pages_arrive_at_mtu_4096_and_not_at_1024(void **state)
{
	(void)state;
	assert_int_equal(rdma.mtu, IBV_MTU_4096);
	assert_true(pages_arrive(KT_ACCESS_WRITE, IBV_MTU_4096));
	assert_true(pages_arrive(KT_ACCESS_WRITE, IBV_MTU_1024));
	if (!is_asked())
		return;
	assert_true(pages_arrive(ODP, IBV_MTU_4096));
	assert_false(pages_arrive(ODP, IBV_MTU_1024));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_device_claims_odp_from_6_15_on),
		cmocka_unit_test(an_unaligned_write_through_odp_goes_to_the_start_of_the_page),
		cmocka_unit_test(an_unaligned_read_through_odp_comes_from_the_start_of_the_page),
		cmocka_unit_test(whole_pages_arrive_at_mtu_4096_and_not_at_1024),
	};

	kt_init();
	return cmocka_run_group_tests(tests, rdma_setup, rdma_teardown);
}
