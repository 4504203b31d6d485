/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What no call takes: nothing where something has to be, structs that are too short or of tomorrow,
 * flags and combinations that mean nothing. Each is refused with its errno and reason, and nothing has
 * changed. And the reasons of a kernel that refuses a guard.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <string.h>

#include "pair.h"
#include "wire.h"

/* Any is wrong: the functions look no further than at what is missing. */
static void test_nothing(struct world *w)
{
	struct pinlease_grant *grant = NULL;
	struct pinlease_file *file = NULL;
	struct pinlease *lease = NULL;
	struct pinlease_peer *peer = NULL;
	uint64_t off, len;
	uint32_t n = 0;
	char buf[PINLEASE_MESSAGE_MAX] = "";

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(pinlease_ctx_new(NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_ctx_fd(NULL), -EINVAL);
	assert_int_equal(pinlease_ctx_next_event(NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_ctx_next_event(w->ctx, NULL), -EINVAL);
	assert_int_equal(pinlease_file_open(w->ctx, NULL, NULL, NULL, &file), -EINVAL);
	assert_int_equal(pinlease_file_attach(w->ctx, 0, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_file_truncate(NULL, 0), -EINVAL);
	assert_int_equal(pinlease_file_allocate(NULL, 0, 0, 1), -EINVAL);
	assert_int_equal(pinlease_acquire(NULL, 0, SIM_PAGE, NULL, NULL, &lease), -EINVAL);
	assert_int_equal(pinlease_acquire(w->file, 0, SIM_PAGE, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_restore(NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_ack(NULL, 1), -EINVAL);
	assert_int_equal(pinlease_dma_begin(NULL, 1, &n), -EINVAL);
	pinlease_dma_end(NULL, 1, 1);
	assert_int_equal(pinlease_mark_dirty(NULL, 0, 1), -EINVAL);
	assert_int_equal(pinlease_sync(NULL, 0, 0, 0), -EINVAL);
	assert_int_equal(pinlease_save(NULL, 1), -EINVAL);
	assert_int_equal(pinlease_dirty_next(NULL, 0, &off, &len), -EINVAL);
	assert_int_equal(pinlease_probe(w->ctx, NULL, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_probe_fd(NULL, 0, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_grant_new(NULL, NULL, &grant), -EINVAL);
	assert_int_equal(pinlease_grant_descriptor(NULL, buf, sizeof(buf)), -EINVAL);
	assert_int_equal(pinlease_grant_message(NULL, 0, buf, sizeof(buf)), -EINVAL);
	assert_int_equal(pinlease_grant_received(NULL, buf, sizeof(buf)), -EINVAL);
	assert_int_equal(pinlease_grant_disconnected(NULL), -EINVAL);
	assert_int_equal(pinlease_grant_next(NULL, NULL, &grant, NULL), -EINVAL);
	assert_int_equal(pinlease_peer_attach(NULL, 0, &peer), -EINVAL);
	assert_int_equal(pinlease_peer_begin(NULL, PINLEASE_READ, 0, 1, NULL), -EINVAL);
	assert_int_equal(pinlease_peer_end(NULL, 1, 1), -EINVAL);
	assert_int_equal(pinlease_peer_message(NULL, buf, 1), -EINVAL);
	assert_int_equal(pinlease_peer_answer(NULL, buf, sizeof(buf)), -EINVAL);
	assert_true(!grant && !file && !lease && !peer);
	/* And what may be nothing. */
	assert_int_equal(pinlease_ctx_free(NULL), 0);
	assert_int_equal(pinlease_file_close(NULL), 0);
	assert_int_equal(pinlease_release(NULL), 0);
	assert_int_equal(pinlease_grant_free(NULL), 0);
	assert_int_equal(pinlease_peer_detach(NULL), 0);
	world_close(w);
}

/* Of a lease that is there: each with one argument missing, or a struct that is too short for any answer. */
static void test_of_a_lease(struct world *w)
{
	struct pinlease_ctx_stats stats = { .size = 8 };
	struct pinlease_file_info file_info = { .size = 8 };
	struct pinlease_lease_info info = { .size = 8 };
	struct pinlease_view view = { .size = 8 };
	struct pinlease_event ev = { .size = 4 };
	struct pinlease *lease;
	uint64_t off = 7, len = 7;
	uint32_t index = 7;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, NULL);
	assert_int_equal(pinlease_view_get(lease, 0, NULL), -EINVAL);
	assert_int_equal(pinlease_view_get(lease, 0, &view), -EINVAL);
	assert_int_equal(pinlease_lease_info(lease, NULL), -EINVAL);
	assert_int_equal(pinlease_lease_info(lease, &info), -EINVAL);
	assert_int_equal(pinlease_file_info(w->file, &file_info), -EINVAL);
	assert_int_equal(pinlease_ctx_stats(w->ctx, &stats), -EINVAL);
	assert_int_equal(pinlease_ctx_next_event(w->ctx, &ev), -EINVAL);
	assert_int_equal(pinlease_mr_add(lease, NULL, 0, &index), -EINVAL);
	assert_int_equal(pinlease_mr_add(lease, w->pd, 0, NULL), -EINVAL);
	assert_int_equal(pinlease_mr_add(lease, w->pd, IBV_ACCESS_ON_DEMAND, &index), -EINVAL);
	assert_int_equal(pinlease_dma_begin(lease, 1, NULL), -EINVAL);
	assert_int_equal(pinlease_dirty_next(lease, 0, NULL, &len), -EINVAL);
	assert_int_equal(pinlease_dirty_next(lease, 0, &off, NULL), -EINVAL);
	assert_int_equal(pinlease_sync(lease, 0, 0, 1), -EINVAL);
	assert_int_equal(pinlease_file_allocate(w->file, FALLOC_FL_KEEP_SIZE, UINT64_MAX, 1), -EINVAL);
	assert_int_equal(pinlease_file_allocate(w->file, FALLOC_FL_KEEP_SIZE, 0, UINT64_MAX), -EINVAL);
	assert_true(index == 7 && off == 7 && len == 7);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_int_equal(world_info(lease).in_flight, 0);
	world_close(w);
}

static void refuses(struct world *w, const struct pinlease_opts *o, int err, uint32_t reason)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;

	assert_int_equal(world_acquire(w, 0, SIM_PAGE, o, &why, &lease), err);
	assert_null(lease);
	assert_int_equal(why.reason, reason);
}

static void test_leases(struct world *w)
{
	const struct pinlease_opts reader[] = {
		{ .access = PINLEASE_READ, .ibv_access = IBV_ACCESS_REMOTE_WRITE },
		{ .access = PINLEASE_READ, .flags = PINLEASE_L_FILL_NONE },
		{ .access = PINLEASE_READ, .flags = PINLEASE_L_DIRTY_TOLD },
	};
	const struct pinlease_opts any[] = {
		{ .mode = PINLEASE_MODE_STAGED + 1 },
		{ .access = 77 },
		{ .flags = 1u << 31 },
		{ .ibv_access = IBV_ACCESS_ON_DEMAND },
		{ .flags = PINLEASE_L_HOLE_FILL },
	};
	size_t i;

	world_open(w, PINLEASE_WRITE);
	for (i = 0; i < sizeof(any) / sizeof(any[0]); i++)
		refuses(w, &any[i], -EINVAL, PINLEASE_WHY_ARGUMENT);
	for (i = 0; i < sizeof(reader) / sizeof(reader[0]); i++)
		refuses(w, &reader[i], -EINVAL, PINLEASE_WHY_ARGUMENT);
	/* The size is asked for under no lock, before anything is mapped. */
	sim_fail("stat_id", 1, -EIO, 0);
	refuses(w, NULL, -EIO, PINLEASE_WHY_BAD_FD);
	sim_clear();
	world_close(w);
	world_open(w, PINLEASE_READ);
	refuses(w, &(struct pinlease_opts){ .access = PINLEASE_WRITE }, -EACCES, PINLEASE_WHY_BAD_FD);
	world_close(w);
}

static void test_grants(struct world *w)
{
	static const struct {
		struct pinlease_grant_opts o;
		int err;
	} wrong[] = {
		{ { .access = 77 }, -EINVAL },
		{ { .align = 3 }, -EINVAL },
		{ { .reserved = 1 }, -EINVAL },
		{ { .off = WORLD_SIZE }, -ERANGE },
		{ { .off = SIM_PAGE, .len = WORLD_SIZE }, -ERANGE },
		{ { .access = PINLEASE_WRITE }, -EACCES },
	};
	const struct pinlease_opts reads = { .access = PINLEASE_READ },
				   unfilled = { .mode = PINLEASE_MODE_STAGED, .flags = PINLEASE_L_FILL_NONE };
	struct pinlease_grant *grant = NULL, *next = NULL;
	struct pinlease *lease, *other;
	struct pinlease_grant_opts o;
	struct pair p;
	size_t i;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &reads);
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		o = wrong[i].o;
		o.size = sizeof(o);
		assert_int_equal(pinlease_grant_new(lease, &o, &grant), wrong[i].err);
	}
	sim_fail("alloc", 1, -ENOMEM, 1);
	assert_int_equal(pinlease_grant_new(lease, NULL, &grant), -ENOMEM);
	sim_clear();
	assert_null(grant);
	assert_int_equal(pinlease_grant_next(lease, NULL, &next, NULL), 0);
	p = pair_new(lease, 0, 0);
	assert_int_equal(pinlease_grant_message(p.grant, ~PINLEASE_GRANT_END, pair_buf, 64), -EINVAL);
	/* No room for the message: it is due still. */
	assert_int_equal(pinlease_grant_message(p.grant, PINLEASE_GRANT_END, pair_buf, 1), -ENOSPC);
	assert_int_equal(pinlease_grant_disconnected(p.grant), 0);
	assert_int_equal(pinlease_grant_descriptor(p.grant, pair_buf, sizeof(pair_buf)), -ENOTCONN);
	assert_int_equal(pinlease_grant_message(p.grant, PINLEASE_GRANT_END, pair_buf, 64), 0);
	pair_free(&p);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	lease = world_lease(w, 0, SIM_PAGE, &unfilled);
	other = world_lease(w, SIM_PAGE, SIM_PAGE, NULL);
	assert_int_equal(pinlease_grant_new(lease, NULL, &grant), -EINVAL);
	p = pair_new(other, 0, 0);
	assert_int_equal(pinlease_grant_next(lease, p.grant, &next, NULL), -EINVAL);
	pair_free(&p);
	assert_true(!grant && !next);
	world_close(w);
}

/* What a peer answers by hand; nothing of it is believed but what its grant has. */
static void test_hostile_answers(struct world *w)
{
	const struct pinlease_grant_opts reads = { .size = sizeof(reads),
						   .len = SIM_PAGE,
						   .access = PINLEASE_READ };
	struct pl_wire given, answer;
	struct pinlease_grant *grant;
	struct pinlease *lease;
	struct pair p;
	int n;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_grant_new(lease, &reads, &grant), 0);
	n = pinlease_grant_descriptor(grant, pair_buf, sizeof(pair_buf));
	assert_int_equal(pl_wire_decode(pair_buf, (size_t)n, &given), 0);
	answer = (struct pl_wire){ .type = PL_WIRE_RETURNED, .gen = given.gen, .lease = given.lease,
				   .grant = given.grant, .count = 1, .range = { { 0, 8 } } };
	n = pl_wire_encode(&answer, pair_buf, sizeof(pair_buf));
	/* It could write nothing. */
	assert_int_equal(pinlease_grant_received(grant, pair_buf, (size_t)n), -EPROTO);
	assert_int_equal(pinlease_grant_received(grant, pair_buf, 3), -EPROTO);
	p = pair_new(lease, 0, SIM_PAGE);
	assert_int_equal(pl_wire_decode(pair_buf, 64, &given), 0);
	answer.grant = given.grant;
	answer.range[0] = (struct pl_wire_range){ SIM_PAGE - 8, 16 };
	n = pl_wire_encode(&answer, pair_buf, sizeof(pair_buf));
	/* Beyond its end, and then another's. */
	assert_int_equal(pinlease_grant_received(p.grant, pair_buf, (size_t)n), -EPROTO);
	assert_int_equal(pinlease_grant_received(grant, pair_buf, (size_t)n), -EPROTO);
	/* Of its own grant, but under the name of another lease. */
	answer.count = 0;
	answer.lease++;
	n = pl_wire_encode(&answer, pair_buf, sizeof(pair_buf));
	assert_int_equal(pinlease_grant_received(p.grant, pair_buf, (size_t)n), -EPROTO);
	assert_int_equal(world_info(lease).in_flight, 2);
	assert_int_equal(pinlease_grant_free(grant), 0);
	pair_free(&p);
	world_close(w);
}

/* A lease that came back shorter: what lies behind its new end is in nobody's reach. */
static void test_behind_the_end(struct world *w)
{
	const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED };
	struct pinlease_grant *grant;
	struct pinlease_grant_opts o = { .size = sizeof(o), .off = WORLD_SIZE - SIM_PAGE };
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &staged);
	assert_int_equal(pinlease_grant_new(lease, &o, &grant), 0);
	world_opener_in(sim_truncate(w->path, SIM_PAGE), SIM_S);
	world_reach(lease, PINLEASE_ACTIVE);
	assert_int_equal(world_view(lease).len, SIM_PAGE);
	assert_int_equal(pinlease_grant_descriptor(grant, pair_buf, sizeof(pair_buf)), -ENODATA);
	assert_int_equal(pinlease_sync(lease, 2 * SIM_PAGE, 0, 0), -ERANGE);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_int_equal(pinlease_grant_free(grant), 0);
	world_close(w);
}

/* A guard that the kernel refuses: the reason says which of its refusals it was. */
static void test_guard_refused(struct world *w)
{
	static const struct {
		const char *call;
		int err, result;
		uint32_t reason;
	} cases[] = {
		{ "set_lease", -EACCES, -EACCES, PINLEASE_WHY_NOT_OWNER },
		{ "set_lease", -EBADF, -EBADF, PINLEASE_WHY_FD_REPLACED },
		{ "set_lease", -ENOMEM, -ENOMEM, PINLEASE_WHY_MEMORY },
		{ "set_lease", -EINVAL, -EOPNOTSUPP, PINLEASE_WHY_NO_LEASES },
		{ "set_owner", -ESRCH, -EOPNOTSUPP, PINLEASE_WHY_NO_LEASES },
		{ "get_lease", -EINVAL, -EINVAL, PINLEASE_WHY_NO_LEASES },
		{ "get_flags", -EBADF, -EBADF, PINLEASE_WHY_BAD_FD },
		{ "anchor_new", -ETOOMANYREFS, -ETOOMANYREFS, PINLEASE_WHY_IN_FLIGHT_FDS },
		{ "anchor_new", -ENOMEM, -ENOMEM, PINLEASE_WHY_MEMORY },
	};
	struct pinlease_file *file = NULL;
	struct pinlease_why why;
	const char *path;
	size_t i;

	world_open(w, PINLEASE_WRITE);
	path = sim_file("other", SIM_PAGE);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(&why, 0, sizeof(why));
		sim_fail(cases[i].call, 1, cases[i].err, 1);
		assert_int_equal(pinlease_file_open(w->ctx, path, NULL, &why, &file), cases[i].result);
		assert_int_equal(why.reason, cases[i].reason);
		assert_null(file);
		sim_clear();
		assert_int_equal(sim_lease(path), F_UNLCK);
	}
	assert_int_equal(pinlease_file_open(w->ctx, path, NULL, NULL, &file), 0);
	assert_int_equal(pinlease_file_close(file), 0);
	world_close(w);
}

/* Structs of tomorrow: what is not known must be zero. */
static void test_sizes(struct world *w)
{
	struct {
		struct pinlease_ctx_opts o;
		char more[16];
	} ctx_opts = { .o = { .size = sizeof(ctx_opts) } };
	struct {
		struct pinlease_file_opts o;
		char more[16];
	} file_opts = { .o = { .size = sizeof(file_opts) } };
	struct pinlease_ctx *ctx = NULL;
	struct pinlease_file *file = NULL;
	struct pinlease_why why = { .reason = 0 };

	world_open(w, PINLEASE_WRITE);
	file_opts.more[3] = ctx_opts.more[3] = 1;
	assert_int_equal(pinlease_ctx_new(&ctx_opts.o, &ctx), -E2BIG);
	assert_int_equal(pinlease_file_open(w->ctx, w->path, &file_opts.o, &why, &file), -E2BIG);
	assert_int_equal(why.reason, PINLEASE_WHY_OPTS_SIZE);
	ctx_opts.more[3] = 0;
	ctx_opts.o.flags = 1u << 30;
	assert_int_equal(pinlease_ctx_new(&ctx_opts.o, &ctx), -EINVAL);
	ctx_opts.o.flags = 0;
	ctx_opts.o.signo = 1;	/* SIGHUP is no real-time signal */
	assert_int_equal(pinlease_ctx_new(&ctx_opts.o, &ctx), -EINVAL);
	file_opts.more[3] = 0;
	file_opts.o.reserved = 1;
	assert_int_equal(pinlease_file_open(w->ctx, w->path, &file_opts.o, &why, &file), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_ARGUMENT);
	assert_true(!ctx && !file);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_nothing), world_test(test_of_a_lease),	  world_test(test_leases),
		world_test(test_grants),  world_test(test_guard_refused), world_test(test_sizes),
		world_test(test_hostile_answers), world_test(test_behind_the_end),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
