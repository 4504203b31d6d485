/* SPDX-License-Identifier: BSD-3-Clause */
/* Grants: an owner, and peers of the same process that it talks to in byte buffers. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <pinlease/peers.h>

#include "forkguard.h"
#include "pair.h"

static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED,
					     .flags = PINLEASE_L_MANUAL | PINLEASE_L_GRANTED };
static const struct pinlease_opts plain = { .flags = PINLEASE_L_MANUAL };

static struct pinlease_peer_key begin(struct pair *p, uint64_t off, uint64_t len)
{
	struct pinlease_peer_key key = { .size = sizeof(key) };

	assert_int_equal(pinlease_peer_begin(p->peer, PINLEASE_WRITE, off, len, &key), 0);
	return key;
}

static void peer_write(struct pair *p, uint64_t off, uint32_t len, unsigned int seed)
{
	struct pinlease_peer_key key = begin(p, off, len);
	struct sim_dma dma;

	sim_dma_write(&dma, key.rkey, key.addr, len, seed, 0);
	assert_int_equal(sim_dma_wait(&dma), SIM_DMA_LANDED);
	pinlease_peer_end(p->peer, key.gen, 1);
}

static void test_cooperative_peers(struct world *w)
{
	struct pinlease_grant *g;
	struct pinlease *lease;
	struct sim_opener *o;
	struct pinlease_event ev;
	struct pair a, b;
	uint32_t rkey;
	int r;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &plain);
	a = pair_new(lease, 0, 4 * SIM_PAGE);
	b = pair_new(lease, 4 * SIM_PAGE, 0);
	assert_int_equal(world_info(lease).in_flight, 2);
	assert_int_equal(pair_tell(&a, 0, &r), 0);
	rkey = world_view(lease).rkey;
	assert_int_equal(begin(&a, 0, 1).rkey, rkey);
	pinlease_peer_end(a.peer, 1, 1);
	peer_write(&b, SIM_PAGE, SIM_PAGE, 31);
	o = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	/* How an application finds them. */
	assert_int_equal(pinlease_grant_next(lease, NULL, &g, NULL), 1);
	assert_ptr_equal(g, a.grant);
	assert_int_equal(pinlease_grant_next(lease, g, &g, NULL), 1);
	assert_ptr_equal(g, b.grant);
	assert_int_equal(pinlease_grant_next(lease, g, &g, NULL), 0);
	pair_recall(&a);
	pair_recall(&b);
	assert_int_equal(pair_answer(&a), 0);
	sim_sleep(100 * SIM_MS);
	assert_false(sim_opener_done(o));
	assert_int_equal(pair_answer(&b), 0);
	world_opener_in(o, 101 * SIM_MS);
	ev = world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(ev.in_flight, 0);
	assert_true(sim_file_is(w->path, 5 * SIM_PAGE, SIM_PAGE, 31));
	assert_int_equal(pair_tell(&a, 0, &r), 0);
	assert_int_equal(pinlease_grant_descriptor(a.grant, pair_buf, sizeof(pair_buf)), -EAGAIN);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pair_tell(&a, 0, &r), 64);
	assert_int_equal(r, 0);
	assert_int_equal(begin(&a, 0, 1).gen, 2);
	assert_int_equal(begin(&a, 0, 1).rkey, world_view(lease).rkey);
	assert_int_not_equal(world_view(lease).rkey, rkey);
	pinlease_peer_end(a.peer, 2, 1);
	pinlease_peer_end(a.peer, 2, 1);
	/* Told nothing yet, b holds up nothing. */
	assert_int_equal(world_info(lease).in_flight, 1);
	pair_free(&a);
	pair_free(&b);
	world_close(w);
}

static void test_silent_peer(struct world *w)
{
	struct pinlease_opts o = plain;
	struct pinlease *lease;
	struct sim_opener *op;
	struct pair a;
	int r;

	o.deadline_ms = 500;
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	a = pair_new(lease, 0, 0);
	op = sim_open(w->path, O_RDWR);
	sim_sleep(490 * SIM_MS);
	assert_false(sim_opener_done(op));
	world_opener_in(op, 510 * SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 1);
	/* Too late: the peer still has to stop. */
	pair_recall(&a);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	world_event(w, PINLEASE_EV_RESTORED);
	/* Settled by the fence: the next generation starts with none, nor is the peer given it. */
	assert_int_equal(pair_tell(&a, 0, &r), 0);
	assert_int_equal(world_info(lease).in_flight, 0);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pair_tell(&a, 0, &r), 0);
	/* Till it answers, and is let in again. */
	assert_int_equal(pair_answer(&a), -ESTALE);
	assert_int_equal(pair_tell(&a, 0, &r), 64);
	assert_int_equal(begin(&a, 0, 1).gen, 3);
	pinlease_peer_end(a.peer, 3, 1);
	pair_free(&a);
	world_close(w);
}

static void test_disconnected_peer(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	struct pair a, b;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &plain);
	a = pair_new(lease, 0, 0);
	b = pair_new(lease, 0, 0);
	o = sim_open(w->path, O_RDWR);
	sim_sleep(10 * SIM_MS);
	assert_int_equal(pinlease_grant_disconnected(a.grant), 0);
	sim_sleep(10 * SIM_MS);
	assert_false(sim_opener_done(o));
	assert_int_equal(pinlease_grant_free(b.grant), 0);
	world_opener_in(o, 21 * SIM_MS);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pinlease_grant_message(a.grant, 0, pair_buf, sizeof(pair_buf)), 0);
	assert_int_equal(pinlease_grant_descriptor(a.grant, pair_buf, sizeof(pair_buf)), -ENOTCONN);
	/* A later break costs it nothing. */
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	pair_free(&a);
	assert_int_equal(pinlease_peer_detach(b.peer), 0);
	world_close(w);
}

/* A staged lease with two writers; how many bytes does the break write back? */
static uint64_t written_back(struct world *w, bool both, bool own)
{
	struct pinlease *lease;
	struct sim_opener *o;
	struct pair a, b;
	uint64_t before;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &staged);
	a = pair_new(lease, 4 * SIM_PAGE, 4 * SIM_PAGE);
	b = pair_new(lease, 8 * SIM_PAGE, 4 * SIM_PAGE);
	peer_write(&a, SIM_PAGE, SIM_PAGE, 41);
	peer_write(&b, SIM_PAGE, 100, 42);
	if (own)
		pinlease_dma_end(lease, 1, world_begin(lease, 1));
	before = sim_written();
	o = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	pair_recall(&a);
	assert_int_equal(pair_answer(&a), 0);
	if (both) {
		pair_recall(&b);
		assert_int_equal(pair_answer(&b), 0);
	} else {
		assert_int_equal(pinlease_grant_disconnected(b.grant), 0);
	}
	world_opener_in(o, 10 * SIM_MS);
	assert_true(sim_file_is(w->path, 5 * SIM_PAGE, SIM_PAGE, 41));
	assert_true(sim_file_is(w->path, 9 * SIM_PAGE, 100, 42));
	pair_free(&a);
	pair_free(&b);
	world_close(w);
	return sim_written() - before;
}

static void test_ranges_narrow_the_writeback(struct world *w)
{
	assert_int_equal(written_back(w, true, false), 2 * SIM_PAGE);
}

static void test_one_untold_writer_is_enough(struct world *w)
{
	assert_int_equal(written_back(w, false, false), WORLD_SIZE);
}

static void test_the_owner_wrote_too(struct world *w)
{
	assert_int_equal(written_back(w, true, true), WORLD_SIZE);
}

static void test_stale_and_foreign_returns(struct world *w)
{
	unsigned char old[PINLEASE_MESSAGE_MAX];
	struct pinlease *lease;
	struct sim_opener *o;
	struct pair a, b;
	int n, r;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &staged);
	a = pair_new(lease, 0, 0);
	b = pair_new(lease, 0, 4 * SIM_PAGE);
	o = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	pair_recall(&a);
	pair_recall(&b);
	n = pinlease_peer_answer(a.peer, old, sizeof(old));
	assert_int_equal(pinlease_grant_received(b.grant, old, (size_t)n), -EPROTO);
	assert_int_equal(pinlease_grant_received(a.grant, old, (size_t)n - 1), -EPROTO);
	assert_false(sim_opener_done(o));
	assert_int_equal(pinlease_grant_received(a.grant, old, (size_t)n), 0);
	assert_int_equal(pinlease_grant_received(a.grant, old, (size_t)n), -ESTALE);
	assert_int_equal(pair_answer(&b), 0);
	world_opener_in(o, 10 * SIM_MS);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pair_tell(&a, 0, &r), 64);
	/* Of generation 1: in generation 2 it returns nothing. */
	assert_int_equal(pinlease_grant_received(a.grant, old, (size_t)n), -ESTALE);
	assert_int_equal(world_info(lease).in_flight, 1);
	pair_free(&a);
	pair_free(&b);
	world_close(w);
}

static void test_release_and_taking_back(struct world *w)
{
	struct pinlease *lease;
	struct pair a;
	int r;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &plain);
	a = pair_new(lease, 0, 0);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_int_equal(pair_tell(&a, PINLEASE_GRANT_END, &r), 40);
	assert_int_equal(r, 1);
	assert_int_equal(pair_tell(&a, PINLEASE_GRANT_END, &r), 0);
	assert_int_equal(pair_answer(&a), 0);
	assert_int_equal(world_info(lease).in_flight, 0);
	assert_int_equal(pair_tell(&a, PINLEASE_GRANT_END, &r), 32);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	pair_free(&a);
	world_close(w);
}

static void test_gone_with_the_end_of_the_file(struct world *w)
{
	struct pinlease *lease;
	struct pair a, b;
	int r;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &plain);
	a = pair_new(lease, 0, SIM_PAGE);
	b = pair_new(lease, 8 * SIM_PAGE, 0);
	assert_int_equal(pair_tell(&b, PINLEASE_GRANT_END, &r), 40);
	assert_int_equal(pair_answer(&b), 0);
	assert_int_equal(pair_tell(&a, PINLEASE_GRANT_END, &r), 40);
	assert_int_equal(pair_answer(&a), 0);
	world_opener_in(sim_truncate(w->path, 4 * SIM_PAGE), SIM_MS);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pair_tell(&a, 0, &r), 64);
	assert_int_equal(pinlease_grant_descriptor(b.grant, pair_buf, sizeof(pair_buf)), -ENODATA);
	assert_int_equal(pair_tell(&b, 0, &r), 32);
	assert_int_equal(pair_tell(&b, 0, &r), 0);
	pair_free(&a);
	pair_free(&b);
	world_close(w);
}

static void test_arguments(struct world *w)
{
	struct pinlease_grant_opts o = { .size = sizeof(o) };
	struct pinlease_grant *g = NULL;
	struct pinlease *lease;

	world_open(w, PINLEASE_READ);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	o.access = PINLEASE_WRITE;
	assert_int_equal(pinlease_grant_new(lease, &o, &g), -EACCES);
	o.access = 0;
	o.align = 3;
	assert_int_equal(pinlease_grant_new(lease, &o, &g), -EINVAL);
	o.align = 0;
	o.off = WORLD_SIZE;
	assert_int_equal(pinlease_grant_new(lease, &o, &g), -ERANGE);
	o.off = 1;
	o.len = WORLD_SIZE;
	assert_int_equal(pinlease_grant_new(lease, &o, &g), -ERANGE);
	o.len = 0;
	o.mr_index = 1;
	assert_int_equal(pinlease_grant_new(lease, &o, &g), -ERANGE);
	assert_null(g);
	world_close(w);
}

static void test_out_of_memory(struct world *w)
{
	struct pinlease_peer *peer = NULL;
	struct pinlease_grant *g = NULL;
	struct pinlease *lease;
	struct pair a;
	int n;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &plain);
	a = pair_new(lease, 0, 0);
	n = pinlease_grant_descriptor(a.grant, pair_buf, sizeof(pair_buf));
	sim_fail("alloc", 1, -ENOMEM, 0);
	assert_int_equal(pinlease_grant_new(lease, NULL, &g), -ENOMEM);
	assert_int_equal(pinlease_peer_attach(pair_buf, (size_t)n, &peer), -ENOMEM);
	sim_clear();
	assert_null(g);
	assert_null(peer);
	assert_int_equal(world_info(lease).in_flight, 1);
	pair_free(&a);
	world_close(w);
}

/* A child's generation is another one: here it is counted on by hand, and back. */
static void test_forked_child(struct world *w)
{
	struct pinlease_grant *g;
	struct pinlease *lease;
	struct pair a;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &plain);
	a = pair_new(lease, 0, 0);
	pl_fork_generation_now++;
	assert_int_equal(pinlease_grant_new(lease, NULL, &g), -ECHILD);
	assert_int_equal(pinlease_grant_descriptor(a.grant, pair_buf, sizeof(pair_buf)), -ECHILD);
	assert_int_equal(pinlease_grant_message(a.grant, 0, pair_buf, sizeof(pair_buf)), -ECHILD);
	assert_int_equal(pinlease_grant_received(a.grant, pair_buf, 64), -ECHILD);
	assert_int_equal(pinlease_grant_disconnected(a.grant), -ECHILD);
	assert_int_equal(pinlease_grant_next(lease, NULL, &g, NULL), -ECHILD);
	pl_fork_generation_now--;
	assert_int_equal(world_info(lease).in_flight, 1);
	pair_free(&a);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_cooperative_peers),
		world_test(test_silent_peer),
		world_test(test_disconnected_peer),
		world_test(test_ranges_narrow_the_writeback),
		world_test(test_one_untold_writer_is_enough),
		world_test(test_the_owner_wrote_too),
		world_test(test_stale_and_foreign_returns),
		world_test(test_release_and_taking_back),
		world_test(test_gone_with_the_end_of_the_file),
		world_test(test_arguments),
		world_test(test_out_of_memory),
		world_test(test_forked_child),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
