/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ENOMEM at every allocation of every call, once and from then on for ever: those of
 * the kernel and of the provider included. The call answers -ENOMEM or works, its outputs
 * are untouched when it fails, nothing is left behind, and the next attempt works.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <string.h>

#include "sys.h"
#include "world.h"

#define MANY 200

static const struct pinlease_opts pinned = { .mode = PINLEASE_MODE_PINNED };
static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED };
static const struct pinlease_opts automatic = { .flags = PINLEASE_L_MANUAL };

struct scarce {
	const char *name;
	void (*prepare)(struct world *w, const struct pinlease_opts *o);
	int (*call)(struct world *w, const struct pinlease_opts *o); /* 0 or -ENOMEM */
	unsigned int least;					     /* it allocates so often at least */
};

static bool scarce_once(struct world *w, const struct scarce *s, const struct pinlease_opts *o,
			unsigned int n, unsigned int times)
{
	unsigned int before;
	bool hit;
	int ret;

	s->prepare(w, o);
	before = sim_faults();
	sim_fail_class(SIM_MEMORY, n, -ENOMEM, times);
	ret = s->call(w, o);
	sim_clear();
	hit = sim_faults() != before;
	assert_true(!ret || ret == -ENOMEM);
	if (!hit)
		assert_int_equal(ret, 0);
	if (ret)
		assert_int_equal(s->call(w, o), 0);
	while (w->leases)
		assert_int_equal(pinlease_release(w->lease[--w->leases]), 0);
	assert_int_equal(pinlease_file_close(w->file), 0);
	assert_int_equal(pinlease_ctx_free(w->ctx), 0);
	memset(w, 0, sizeof(*w));
	sim_check();
	return hit;
}

static void scarce_through(struct world *w, const struct scarce *s, const struct pinlease_opts *o)
{
	unsigned int n, times;

	for (times = 0; times < 2; times++) {
		for (n = 1; scarce_once(w, s, o, n, times); n++)
			assert_in_range(n, 1, MANY);
		print_message("%s: %u allocations, failing %s\n", s->name, n - 1,
			      times ? "once" : "for ever");
		assert_in_range(n, s->least + 1, MANY);
	}
}

static void prepare_none(struct world *w, const struct pinlease_opts *o)
{
	(void)w;
	(void)o;
}

static void prepare_file(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	world_open(w, PINLEASE_WRITE);
}

static void prepare_lease(struct world *w, const struct pinlease_opts *o)
{
	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, o);
}

static int call_ctx_new(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_ctx *ctx = (void *)7;
	int r = pinlease_ctx_new(NULL, &ctx);

	(void)o;
	if (r)
		assert_ptr_equal(ctx, (void *)7);
	else
		w->ctx = ctx;
	/* Threads: pthread_create says EAGAIN for want of memory, too. */
	return r == -EAGAIN ? -ENOMEM : r;
}

static void prepare_ctx(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	assert_int_equal(pinlease_ctx_new(NULL, &w->ctx), 0);
	w->path = sim_file("file", WORLD_SIZE);
}

static int check_file(struct world *w, int r, struct pinlease_file *file, const struct pinlease_why *why)
{
	if (r) {
		assert_ptr_equal(file, (void *)7);
		assert_int_not_equal(why->reason, PINLEASE_WHY_NONE);
	} else {
		assert_int_equal(why->reason, PINLEASE_WHY_NONE);
		w->file = file;
	}
	return r;
}

static int call_file_open(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	struct pinlease_file *file = (void *)7;
	int r = pinlease_file_open(w->ctx, w->path, NULL, &why, &file);

	(void)o;
	return check_file(w, r, file, &why);
}

/* The application's own descriptor. */
static int attached;

static void prepare_fd(struct world *w, const struct pinlease_opts *o)
{
	prepare_ctx(w, o);
	attached = pl_sys_open(w->path, O_RDWR);
	assert_true(attached >= 0);
}

static int call_file_attach(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	struct pinlease_file *file = (void *)7;
	int r = pinlease_file_attach(w->ctx, attached, NULL, &why, &file);

	(void)o;
	if (!r)
		pl_sys_close(attached);
	return check_file(w, r, file, &why);
}

static int call_acquire(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	struct pinlease *lease = (void *)7;
	int r = world_acquire(w, 0, WORLD_SIZE, o, &why, &lease);

	if (r) {
		assert_ptr_equal(lease, (void *)7);
		assert_int_not_equal(why.reason, PINLEASE_WHY_NONE);
	} else {
		assert_int_equal(why.reason, PINLEASE_WHY_NONE);
		world_view(lease);
	}
	return r;
}

static int call_mr_add(struct world *w, const struct pinlease_opts *o)
{
	uint32_t index = 7;
	int r = pinlease_mr_add(w->lease[0], sim_device(SIM_ODP_NONE), IBV_ACCESS_REMOTE_WRITE, &index);

	(void)o;
	assert_int_equal(index, r ? 7 : 1);
	assert_int_equal(world_info(w->lease[0]).registrations, r ? 1 : 2);
	assert_int_equal(world_state(w->lease[0]), PINLEASE_ACTIVE);
	return r;
}

/* REVOKED with an operation in flight, so that the next generation needs an account of its own. */
static void prepare_revoked(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_opts manual = *o;

	manual.flags |= PINLEASE_L_MANUAL;
	manual.deadline_ms = 10;
	prepare_lease(w, &manual);
	world_begin(w->lease[0], 1);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_S);
}

static int call_restore(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	int r = pinlease_restore(w->lease[0], &why);

	(void)o;
	if (r) {
		assert_int_not_equal(why.reason, PINLEASE_WHY_NONE);
		assert_int_equal(world_info(w->lease[0]).gen, 1);
		assert_int_equal(sim_mrs(), 0);
	}
	assert_int_equal(world_state(w->lease[0]), r ? PINLEASE_REVOKED : PINLEASE_ACTIVE);
	return r;
}

/* By itself: RESTORED, or RESTORE_FAILED with -ENOMEM, and never silence. */
static int call_break(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	uint32_t seen = 0;

	(void)o;
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_MS);
	sim_sleep(SIM_S);
	while (pinlease_ctx_next_event(w->ctx, &ev) == 1) {
		seen |= 1u << ev.type;
		assert_true(ev.type != PINLEASE_EV_RESTORE_FAILED || ev.err == -ENOMEM);
	}
	assert_true(seen & 1u << PINLEASE_EV_BREAK);
	assert_true(seen & 1u << PINLEASE_EV_REVOKED);
	assert_true(!(seen & 1u << PINLEASE_EV_RESTORED) != !(seen & 1u << PINLEASE_EV_RESTORE_FAILED));
	assert_int_equal(world_state(w->lease[0]),
			 seen & 1u << PINLEASE_EV_RESTORED ? PINLEASE_ACTIVE : PINLEASE_REVOKED);
	return 0;
}

/* What is done to an existing lease needs no memory at all. */
static int call_sync(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	assert_int_equal(pinlease_sync(w->lease[0], 0, 0, 0), 0);
	return 0;
}

static int call_release(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	return w->leases ? pinlease_release(w->lease[--w->leases]) : 0;
}

static int call_truncate(struct world *w, const struct pinlease_opts *o)
{
	uint32_t state;

	(void)o;
	assert_int_equal(pinlease_file_truncate(w->file, WORLD_SIZE / 2), 0);
	state = world_state(w->lease[0]);
	assert_true(state == PINLEASE_ACTIVE || state == PINLEASE_REVOKED);
	return 0;
}

static void *begin_first(void *arg)
{
	static int failed = -ENOMEM, worked;
	uint32_t gen = 77;
	int r = pinlease_dma_begin(arg, 1, &gen);

	if (!r)
		pinlease_dma_end(arg, 1, gen);
	else
		assert_int_equal(gen, 77);
	assert_true(!r || r == -ENOMEM);
	return r ? &failed : &worked;
}

struct first_use {
	struct pinlease *lease;
	int ret;
};

static void *first_use(void *arg)
{
	struct first_use *f = arg;

	f->ret = *(int *)begin_first(f->lease);
	return NULL;
}

/* The only allocations of dma_begin are a thread's first. */
static int call_begin_on_a_new_thread(struct world *w, const struct pinlease_opts *o)
{
	struct first_use f = { .lease = w->lease[0] };

	(void)o;
	sim_thread_join(sim_thread_start(first_use, &f));
	assert_int_equal(world_info(w->lease[0]).in_flight, 0);
	return f.ret;
}

/* Counted by one that could get a counter, ended by one that cannot. */
static void *end_only(void *arg)
{
	pinlease_dma_end(arg, 1, 1);
	return NULL;
}

static int call_end_on_a_new_thread(struct world *w, const struct pinlease_opts *o)
{
	struct sim_opener *opener;

	(void)o;
	world_begin(w->lease[0], 1);
	opener = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(SIM_MS);
	assert_false(sim_opener_done(opener));
	sim_thread_join(sim_thread_start(end_only, w->lease[0]));
	world_opener_in(opener, 3 * SIM_MS);
	return 0;
}

static void test_ctx_new(struct world *w)
{
	const struct scarce s = { "pinlease_ctx_new", prepare_none, call_ctx_new, 5 };

	scarce_through(w, &s, NULL);
}

static void test_file_open(struct world *w)
{
	const struct scarce open = { "pinlease_file_open", prepare_ctx, call_file_open, 4 };
	const struct scarce attach = { "pinlease_file_attach", prepare_fd, call_file_attach, 4 };

	scarce_through(w, &open, NULL);
	scarce_through(w, &attach, NULL);
}

static void test_acquire(struct world *w)
{
	const struct scarce s = { "pinlease_acquire", prepare_file, call_acquire, 5 };

	scarce_through(w, &s, &pinned);
	scarce_through(w, &s, &staged);
	scarce_through(w, &s, &automatic);
}

static void prepare_odp(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	world_open(w, PINLEASE_WRITE);
	sim_file_system(SIM_EXT4);
	w->pd = sim_device(SIM_ODP_GOOD);
}

static void prepare_disk(struct world *w, const struct pinlease_opts *o)
{
	sim_file_system(SIM_EXT4);
	prepare_file(w, o);
	w->pd = sim_device(SIM_ODP_GOOD);
}

/* A new device each time, so that its data path is checked each time. */
static void test_data_check(struct world *w)
{
	const struct pinlease_opts odp = { .mode = PINLEASE_MODE_ODP };
	const struct scarce by_name = { "pinlease_acquire, odp", prepare_odp, call_acquire, 9 };
	const struct scarce by_itself = { "pinlease_acquire, auto on a disk", prepare_disk, call_acquire, 9 };

	scarce_through(w, &by_name, &odp);
	scarce_through(w, &by_itself, &automatic);
}

static void test_mr_add(struct world *w)
{
	const struct scarce s = { "pinlease_mr_add", prepare_lease, call_mr_add, 3 };

	scarce_through(w, &s, &pinned);
	scarce_through(w, &s, &staged);
}

static void test_restore(struct world *w)
{
	const struct scarce s = { "pinlease_restore", prepare_revoked, call_restore, 3 };

	scarce_through(w, &s, &pinned);
	scarce_through(w, &s, &staged);
}

static void test_break(struct world *w)
{
	const struct scarce s = { "a break", prepare_lease, call_break, 2 };

	scarce_through(w, &s, &pinned);
	scarce_through(w, &s, &staged);
}

static void test_what_needs_no_memory(struct world *w)
{
	const struct scarce sync = { "pinlease_sync", prepare_lease, call_sync, 0 };
	const struct scarce release = { "pinlease_release", prepare_lease, call_release, 0 };

	scarce_through(w, &sync, &staged);
	scarce_through(w, &release, &pinned);
	scarce_through(w, &release, &staged);
}

static void test_own_truncate(struct world *w)
{
	const struct scarce s = { "pinlease_file_truncate", prepare_lease, call_truncate, 1 };

	scarce_through(w, &s, &pinned);
	scarce_through(w, &s, &staged);
}

static void test_account(struct world *w)
{
	const struct scarce begin = { "pinlease_dma_begin", prepare_lease, call_begin_on_a_new_thread, 2 };
	const struct scarce end = { "pinlease_dma_end", prepare_lease, call_end_on_a_new_thread, 2 };

	scarce_through(w, &begin, &pinned);
	scarce_through(w, &end, &pinned);
}

/* Before anything of the process exists: every step may fail, and none may leave another one half made. */
static int cold_start(void **state)
{
	unsigned int n;

	(void)state;
	for (n = 1; n < MANY; n++) {
		struct pinlease_opts o = { .size = sizeof(o) };
		struct pinlease_ctx *ctx = NULL;
		struct pinlease_file *file = NULL;
		struct pinlease *lease = NULL;
		uint32_t gen;

		sim_begin();
		sim_fail_class(SIM_MEMORY, n, -ENOMEM, 0);
		if (!pinlease_ctx_new(NULL, &ctx) &&
		    !pinlease_file_open(ctx, sim_file("file", WORLD_SIZE), NULL, NULL, &file) &&
		    !pinlease_acquire(file, 0, WORLD_SIZE, &o, NULL, &lease) &&
		    !pinlease_dma_begin(lease, 1, &gen)) {
			pinlease_dma_end(lease, 1, gen);
			n = MANY;
		}
		sim_clear();
		if (pinlease_release(lease) || pinlease_file_close(file) || pinlease_ctx_free(ctx))
			return -1;
	}
	/* It did get so far in the end. */
	return n == MANY + 1 ? world_group(state) : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_ctx_new),      world_test(test_file_open),
		world_test(test_acquire),      world_test(test_data_check),
		world_test(test_mr_add),       world_test(test_restore),
		world_test(test_break),	       world_test(test_what_needs_no_memory),
		world_test(test_own_truncate), world_test(test_account),
	};

	return cmocka_run_group_tests(tests, cold_start, NULL);
}
