/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The check of a device's data path, on a device that loses the offset within a page under
 * ODP: refused, and a plain registration is not; asked once for each device and path MTU;
 * by name only where a page-aligned message has page-aligned packets.
 */
#include <errno.h>
#include <infiniband/verbs.h>

#include "backend.h"
#include "datacheck.h"
#include "world.h"

static void test_verdict(struct world *w)
{
	struct ibv_pd *good, *bad;

	world_open(w, PINLEASE_WRITE);
	good = sim_device(SIM_ODP_GOOD);
	bad = sim_device(SIM_ODP_UNALIGNED);
	assert_int_equal(pl_datacheck_run(good, 0), 0);
	assert_int_equal(pl_datacheck_run(good, IBV_ACCESS_ON_DEMAND), 0);
	assert_int_equal(pl_datacheck_run(bad, 0), 0);
	assert_int_equal(pl_datacheck_run(bad, IBV_ACCESS_ON_DEMAND), -EOPNOTSUPP);
	sim_device_mtu(bad, 1, 4096);
	assert_int_equal(pl_datacheck_run(bad, IBV_ACCESS_ON_DEMAND), -EOPNOTSUPP);
	world_close(w);
}

static void expect(struct ibv_pd *pd, int result, bool asked)
{
	unsigned int before = sim_device_qps(pd);

	assert_int_equal(pl_datacheck_odp(pd, pl_datacheck_mtu(pd->context)), result);
	assert_int_equal(sim_device_qps(pd) > before, asked);
}

static void test_remembered(struct world *w)
{
	struct ibv_pd *good, *bad;

	world_open(w, PINLEASE_WRITE);
	good = sim_device(SIM_ODP_GOOD);
	bad = sim_device(SIM_ODP_UNALIGNED);
	expect(good, 0, true);
	expect(bad, -EOPNOTSUPP, true);
	expect(good, 0, false);
	expect(bad, -EOPNOTSUPP, false);
	sim_device_mtu(bad, 1, 4096);
	expect(bad, -EOPNOTSUPP, true);
	sim_device_mtu(bad, 1, 1024);
	expect(bad, -EOPNOTSUPP, false);
	expect(good, 0, false);
	world_close(w);
}

/* No answer is no answer: asked again when there is a port, or memory. */
static void test_not_remembered(struct world *w)
{
	struct ibv_pd *pd;

	world_open(w, PINLEASE_WRITE);
	pd = sim_device(SIM_ODP_GOOD);
	sim_device_mtu(pd, 1, 0);
	assert_int_equal(pl_datacheck_mtu(pd->context), 0);
	expect(pd, -ENETDOWN, false);
	sim_device_mtu(pd, 1, 1024);
	sim_fail("create_qp", 2, -ENOMEM, 1);
	expect(pd, -ENOMEM, true);
	expect(pd, 0, true);
	world_close(w);
}

/* Where ports differ, the smaller one counts. */
static void test_two_ports(struct world *w)
{
	struct ibv_pd *pd;
	uint32_t reason = 0;

	world_open(w, PINLEASE_WRITE);
	pd = sim_device(SIM_ODP_UNALIGNED);
	sim_device_mtu(pd, 1, 4096);
	assert_int_equal(pl_datacheck_mtu(pd->context), 4096);
	assert_int_equal(pl_odp_by_name_ok(pd, &reason), 0);
	sim_device_mtu(pd, 2, 1024);
	assert_int_equal(pl_datacheck_mtu(pd->context), 1024);
	assert_int_equal(pl_odp_by_name_ok(pd, &reason), -EOPNOTSUPP);
	assert_int_equal(reason, PINLEASE_WHY_DATA_CHECK);
	sim_device_mtu(pd, 1, 0);
	assert_int_equal(pl_datacheck_mtu(pd->context), 1024);
	world_close(w);
}

/* What holds for the first registration holds for the others: by name, here as there. */
static void test_further_registrations(struct world *w)
{
	const struct pinlease_opts by_name = { .mode = PINLEASE_MODE_ODP }, automatic = { .flags = 0 };
	struct ibv_pd *wide, *narrow, *good;
	struct pinlease *lease;
	uint32_t index = 0;

	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_WRITE);
	wide = w->pd = sim_device(SIM_ODP_UNALIGNED);
	narrow = sim_device(SIM_ODP_UNALIGNED);
	good = sim_device(SIM_ODP_GOOD);
	sim_device_mtu(wide, 1, 4096);
	lease = world_lease(w, 0, WORLD_SIZE, &by_name);
	assert_int_equal(world_info(lease).mode, PINLEASE_MODE_ODP);
	assert_int_equal(pinlease_mr_add(lease, narrow, IBV_ACCESS_REMOTE_WRITE, &index), -EOPNOTSUPP);
	assert_int_equal(pinlease_mr_add(lease, wide, IBV_ACCESS_REMOTE_WRITE, &index), 0);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	w->pd = good;
	lease = world_lease(w, 0, WORLD_SIZE, &automatic);
	assert_int_equal(world_info(lease).mode, PINLEASE_MODE_ODP);
	assert_int_equal(pinlease_mr_add(lease, wide, IBV_ACCESS_REMOTE_WRITE, &index), -EOPNOTSUPP);
	assert_int_equal(pinlease_mr_add(lease, good, IBV_ACCESS_REMOTE_WRITE, &index), 0);
	world_close(w);
}

static void routes(struct ibv_pd *pd, const struct sim_gid *gid, int count, int result, int used)
{
	sim_device_gids(pd, gid, count);
	assert_int_equal(pl_datacheck_run(pd, IBV_ACCESS_ON_DEMAND), result);
	assert_int_equal(sim_device_gid(pd), used);
}

/* Ethernet: what can be routed is tried first, and any that answers will do. */
static void test_ethernet(struct world *w)
{
	static const struct sim_gid mixed[] = { { .local = true },
						{ .v2 = true, .local = true },
						{ .none = true },
						{ .v2 = true, .dead = true },
						{ .v2 = true } };
	static const struct sim_gid poor[] = { { .dead = true }, { .v2 = true, .local = true } };
	/* More of them than are tried: the good one stands behind. */
	static const struct sim_gid late[12] = { [0 ... 10] = { .local = true }, [11] = { .v2 = true } };
	static const struct sim_gid dead[] = { { .v2 = true, .dead = true }, { .dead = true } };
	static const struct sim_gid none[] = { { .none = true } };
	struct ibv_pd *pd;

	world_open(w, PINLEASE_WRITE);
	pd = sim_device(SIM_ODP_GOOD);
	routes(pd, mixed, 5, 0, 4);
	routes(pd, poor, 2, 0, 1);
	routes(pd, late, 12, 0, 11);
	routes(pd, dead, 2, -ETIMEDOUT, -1);
	routes(pd, none, 1, -EADDRNOTAVAIL, -1);
	sim_fail("query_gid", 1, -EIO, 0);
	routes(pd, mixed, 5, -EADDRNOTAVAIL, -1);
	sim_clear();
	world_close(w);
}

/* What goes wrong on the way is told, and only what the flags are to blame for is a verdict on them. */
static void test_errors_on_the_way(struct world *w)
{
	static const struct {
		const char *call;
		unsigned int nth;
		int err, result;
	} cases[] = {
		{ "port_count", 1, -EIO, -EIO },	{ "create_cq", 1, -EOPNOTSUPP, -EIO },
		{ "modify_qp", 1, -EINVAL, -EINVAL },	{ "modify_qp", 6, -ETIMEDOUT, -ETIMEDOUT },
		{ "post_send", 1, -ENOMEM, -ENOMEM },	{ "poll_cq", 1, -EIO, -EIO },
		{ "post_send", 2, -EINVAL, -EOPNOTSUPP }, { "poll_cq", 2, -EIO, -EOPNOTSUPP },
	};
	struct ibv_pd *pd;
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	pd = sim_device(SIM_ODP_GOOD);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		sim_fail(cases[i].call, cases[i].nth, cases[i].err, 1);
		assert_int_equal(pl_datacheck_run(pd, IBV_ACCESS_ON_DEMAND), cases[i].result);
		sim_clear();
	}
	/* What cannot be given back at once is tried again; sim_end counts. */
	sim_fail("destroy_qp", 1, -EBUSY, 2);
	assert_int_equal(pl_datacheck_run(pd, IBV_ACCESS_ON_DEMAND), 0);
	sim_clear();
	sim_fail("destroy_cq", 1, -EBUSY, 2);
	assert_int_equal(pl_datacheck_run(pd, IBV_ACCESS_ON_DEMAND), 0);
	sim_clear();
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_verdict),	world_test(test_remembered), world_test(test_not_remembered),
		world_test(test_two_ports),	world_test(test_further_registrations),
		world_test(test_ethernet),	world_test(test_errors_on_the_way),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
