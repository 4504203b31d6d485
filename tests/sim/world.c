/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "world.h"

#define PATIENCE (200 * SIM_S)

void world_open(struct world *w, uint32_t access)
{
	struct pinlease_file_opts o = { .size = sizeof(o), .access = access };
	struct pinlease_why why = { .reason = 0 };

	assert_int_equal(pinlease_ctx_new(NULL, &w->ctx), 0);
	w->access = access;
	w->pd = sim_device(SIM_ODP_NONE);
	w->path = sim_file("file", WORLD_SIZE);
	assert_int_equal(pinlease_file_open(w->ctx, w->path, &o, &why, &w->file), 0);
}

int world_acquire(struct world *w, uint64_t off, uint64_t len, const struct pinlease_opts *o,
		  struct pinlease_why *why, struct pinlease **lease)
{
	struct pinlease_opts opts = { .size = sizeof(opts) };
	int r;

	if (o)
		opts = *o;
	opts.size = sizeof(opts);
	if (opts.pd == WORLD_NO_PD)
		opts.pd = NULL;
	else if (!opts.pd && !opts.backend)
		opts.pd = w->pd;
	if (!opts.ibv_access)
		opts.ibv_access = IBV_ACCESS_REMOTE_READ;
	if (opts.ibv_access == IBV_ACCESS_REMOTE_READ &&
	    (opts.access ? opts.access : w->access) == PINLEASE_WRITE)
		opts.ibv_access |= IBV_ACCESS_REMOTE_WRITE;
	r = pinlease_acquire(w->file, off, len, &opts, why, lease);
	if (!r) {
		assert_true(w->leases < WORLD_LEASES);
		w->lease[w->leases++] = *lease;
	}
	return r;
}

struct pinlease *world_lease(struct world *w, uint64_t off, uint64_t len, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;

	assert_int_equal(world_acquire(w, off, len, o, &why, &lease), 0);
	return lease;
}

void world_forget(struct world *w, struct pinlease *lease)
{
	unsigned int i;

	for (i = 0; i < w->leases; i++)
		if (w->lease[i] == lease)
			w->lease[i] = NULL;
}

void world_take_events(struct world *w)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(w->ctx, &ev) == 1)
		;
}

void world_close(struct world *w)
{
	/* A release says what no event that was taken has said. */
	world_take_events(w);
	while (w->leases)
		assert_int_equal(pinlease_release(w->lease[--w->leases]), 0);
	assert_int_equal(pinlease_file_close(w->file), 0);
	assert_int_equal(pinlease_ctx_free(w->ctx), 0);
	memset(w, 0, sizeof(*w));
}

struct wait_event {
	struct pinlease_ctx *ctx;
	struct pinlease_event *ev;
	int ret;
};

static bool event_there(void *arg)
{
	struct wait_event *wait = arg;

	/* What is under way comes first, so that the order of events does not depend on who runs faster. */
	sim_settle();
	wait->ret = pinlease_ctx_next_event(wait->ctx, wait->ev);
	return wait->ret != 0;
}

struct pinlease_event world_event(struct world *w, uint32_t type)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct wait_event wait = { .ctx = w->ctx, .ev = &ev };

	assert_true(sim_until(event_there, &wait, PATIENCE));
	assert_int_equal(wait.ret, 1);
	assert_int_equal(ev.type, type);
	return ev;
}

void world_no_event(struct world *w)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	sim_settle();
	assert_int_equal(pinlease_ctx_next_event(w->ctx, &ev), 0);
}

struct pinlease_view world_view(struct pinlease *lease)
{
	struct pinlease_view view = { .size = sizeof(view) };

	assert_int_equal(pinlease_view_get(lease, 0, &view), 0);
	return view;
}

struct pinlease_lease_info world_info(struct pinlease *lease)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	assert_int_equal(pinlease_lease_info(lease, &info), 0);
	return info;
}

uint32_t world_state(struct pinlease *lease)
{
	return world_info(lease).state;
}

struct wait_state {
	struct pinlease *lease;
	uint32_t state;
};

static bool state_there(void *arg)
{
	struct wait_state *wait = arg;

	return world_state(wait->lease) == wait->state;
}

void world_reach(struct pinlease *lease, uint32_t state)
{
	struct wait_state wait = { .lease = lease, .state = state };

	if (!sim_until(state_there, &wait, PATIENCE))
		assert_int_equal(world_state(lease), state);
}

uint32_t world_begin(struct pinlease *lease, uint32_t n)
{
	uint32_t gen = 0;

	assert_int_equal(pinlease_dma_begin(lease, n, &gen), 0);
	return gen;
}

void world_write(struct pinlease *lease, uint64_t off, uint32_t len, unsigned int seed)
{
	struct pinlease_view view = world_view(lease);
	uint32_t gen = world_begin(lease, 1);
	struct sim_dma dma;

	sim_dma_write(&dma, view.rkey, view.iova + off, len, seed, 0);
	assert_int_equal(sim_dma_wait(&dma), SIM_DMA_LANDED);
	pinlease_dma_end(lease, 1, gen);
}

void world_write_told(struct pinlease *lease, uint64_t off, uint32_t len, unsigned int seed)
{
	world_write(lease, off, len, seed);
	assert_int_equal(pinlease_mark_dirty(lease, off, len), 0);
}

int world_sync(struct pinlease *lease)
{
	return pinlease_sync(lease, 0, 0, 0);
}

void world_opener_in(struct sim_opener *o, uint64_t ns)
{
	assert_true(sim_opener_wait(o, PATIENCE));
	assert_int_equal(sim_opener_ret(o), 0);
	assert_false(sim_opener_expired(o));
	assert_in_range(sim_opener_ns(o), 0, ns);
	sim_opener_end(o);
}

/* cmocka */

/* What a process makes once and keeps (counters of this thread and of the dead) is made before anything is
 * counted. */
int world_group(void **state)
{
	struct world w = { .leases = 0 };
	struct pinlease *lease;

	(void)state;
	/* For who runs it by hand: ctest has limits of its own, and --long a multiple of them. */
	alarm(3600);
	setbuf(stdout, NULL);
	sim_begin();
	/* Once a process: a kernel without membarrier(2), or a seccomp filter that refuses it. */
	if (getenv("PL_SIM_NO_MEMBARRIER"))
		sim_fail("membarrier_register", 1, -ENOSYS, 1);
	world_open(&w, PINLEASE_WRITE);
	lease = world_lease(&w, 0, SIM_PAGE, NULL);
	pinlease_dma_end(lease, 1, world_begin(lease, 1));
	world_close(&w);
	sim_rebase();
	sim_end();
	return 0;
}

/* Leaves a dirty simulation when fn fails (cmocka jumps away): nothing can be said by the tests behind it. */
void world_run(void **state)
{
	static bool dirty;
	const struct world_case *c = *state;
	struct world w = { .leases = 0 };

	if (dirty) {
		fprintf(stderr, "The tests behind the failed one were not run.\n");
		exit(1);
	}
	dirty = true;
	sim_begin();
	c->fn(&w);
	if (getenv("PL_SIM_NO_MEMBARRIER"))
		assert_int_equal(sim_calls("membarrier"), 0);
	sim_end();
	dirty = false;
}
