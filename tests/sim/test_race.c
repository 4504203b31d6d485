/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A break at every step of everything: a first run with the opener at the first system
 * or verbs call, a second one at the second, until a run is over before its turn.
 * Whatever the step, the opener gets in before the kernel's patience is over, the judge
 * sees nothing forbidden, and the call answers what it may.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "lease.h"
#include "world.h"

#define MANY 1000

static const struct pinlease_opts pinned = { .deadline_ms = 1000 };
static const struct pinlease_opts memory = { .mode = PINLEASE_MODE_STAGED, .deadline_ms = 1000 };

struct race {
	const char *name;
	void (*prepare)(struct world *w, const struct pinlease_opts *o);
	int (*call)(struct world *w, const struct pinlease_opts *o); /* 0 or -EAGAIN */
	void (*check)(struct world *w, int ret);
	unsigned int least; /* so many calls without a lock it makes */
	uint64_t within;    /* the opener gets in; 0: as soon as can be */
};

/* The one opener of a run. */
static struct {
	const char *path;
	enum sim_class class;
	bool reader;
	uint64_t within; /* so soon it gets in */
	struct sim_opener *o;
} comer;

static void come(void *arg)
{
	(void)arg;
	comer.o = comer.reader ? sim_open(comer.path, O_RDONLY) : sim_truncate(comer.path, WORLD_SIZE);
	/* With no lock held the library may answer before this call goes on. */
	if (comer.class == SIM_STEP)
		sim_sleep(SIM_MS);
}

/* Broken while it was under way, and the library has heard of it: not to be passed over. */
static void heard_of(int ret)
{
	if (comer.o && comer.class == SIM_STEP)
		assert_int_equal(ret, -EAGAIN);
}

static void come_in(void)
{
	if (!comer.o)
		return;
	world_opener_in(comer.o, comer.within);
	comer.o = NULL;
}

/* One run; false: it was over before the nth step. */
static bool race_once(struct world *w, const struct race *race, const struct pinlease_opts *o, unsigned int n)
{
	bool came;
	int ret;

	comer.path = sim_file("file", WORLD_SIZE);
	race->prepare(w, o);
	sim_hook_class(comer.class, n, come, NULL);
	ret = race->call(w, o);
	sim_clear();
	/* The call may have been another thread's, the slow pass's: comer.o is set when that goes on. */
	sim_settle();
	assert_true(ret == 0 || ret == -EAGAIN);
	came = comer.o != NULL;
	if (!came)
		assert_int_equal(ret, 0);
	come_in();
	if (race->check)
		race->check(w, ret);
	while (w->leases)
		assert_int_equal(pinlease_release(w->lease[--w->leases]), 0);
	if (w->file)
		assert_int_equal(pinlease_file_close(w->file), 0);
	assert_int_equal(pinlease_ctx_free(w->ctx), 0);
	memset(w, 0, sizeof(*w));
	return came;
}

static void race_through(struct world *w, const struct race *race, const struct pinlease_opts *o)
{
	static const enum sim_class classes[] = { SIM_STEP, SIM_FAST };
	unsigned int n, i;

	comer.within = race->within ? race->within : 50 * SIM_MS;
	for (i = 0; i < 4; i++) {
		comer.class = classes[i / 2];
		comer.reader = i % 2;
		for (n = 1; race_once(w, race, o, n); n++)
			assert_in_range(n, 1, MANY);
		print_message("%s: a %s at each of %u %s\n", race->name, comer.reader ? "reader" : "writer",
			      n - 1, comer.class == SIM_STEP ? "calls" : "calls under a lock");
		if (comer.class == SIM_STEP)
			assert_in_range(n, race->least + 1, MANY);
	}
}

static void race_modes(struct world *w, const struct race *race)
{
	race_through(w, race, &pinned);
	race_through(w, race, &memory);
}

/* What is raced */

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

/* REVOKED, the guard free; restored by hand, or by itself after the back-off. */
static void prepare_revoked(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_opts manual = *o;

	manual.flags = PINLEASE_L_MANUAL;
	prepare_lease(w, &manual);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_S);
	sim_sleep(5 * SIM_S);
}

static void prepare_resting(struct world *w, const struct pinlease_opts *o)
{
	prepare_lease(w, o);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_S);
}

static void prepare_written(struct world *w, const struct pinlease_opts *o)
{
	prepare_lease(w, o);
	world_write(w->lease[0], 0, WORLD_SIZE, 51);
}

static int call_open(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_file *file;
	int r = pinlease_file_open(w->ctx, comer.path, NULL, NULL, &file);

	(void)o;
	/* Somebody came before the lease was taken: the file is his. */
	if (!r)
		w->file = file;
	return r;
}

static void prepare_ctx(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	assert_int_equal(pinlease_ctx_new(NULL, &w->ctx), 0);
	w->pd = sim_device(SIM_ODP_NONE);
}

static int call_acquire(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease;
	int r = world_acquire(w, 0, WORLD_SIZE, o, &why, &lease);

	if (r)
		assert_true(why.reason == PINLEASE_WHY_BROKEN || why.reason == PINLEASE_WHY_OPENER);
	heard_of(r);
	return r;
}

static void check_active(struct world *w, int ret)
{
	if (!ret)
		world_reach(w->lease[0], PINLEASE_ACTIVE);
}

static int call_restore(struct world *w, const struct pinlease_opts *o)
{
	int r = pinlease_restore(w->lease[0], NULL);

	(void)o;
	heard_of(r);
	return r;
}

/* Whatever became of it, another restore brings it back. */
static void check_restore(struct world *w, int ret)
{
	(void)ret;
	sim_sleep(SIM_S);
	assert_int_equal(pinlease_restore(w->lease[0], NULL), 0);
	world_view(w->lease[0]);
}

static int call_wait_for_restore(struct world *w, const struct pinlease_opts *o)
{
	(void)w;
	(void)o;
	/* Not until it is ACTIVE: whoever has come stays that long. */
	sim_sleep(100 * SIM_MS);
	return 0;
}

static int call_release(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	return pinlease_release(w->lease[--w->leases]);
}

static void check_data(struct world *w, int ret)
{
	(void)ret;
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 51));
}

static int call_sync(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	return pinlease_sync(w->lease[0], 0, 0, 0);
}

static int call_mr_add(struct world *w, const struct pinlease_opts *o)
{
	uint32_t index = 7;
	int r = pinlease_mr_add(w->lease[0], w->pd, IBV_ACCESS_REMOTE_WRITE, &index);

	(void)o;
	assert_int_equal(index, r ? 7 : 1);
	heard_of(r);
	return r;
}

static void check_registrations(struct world *w, int ret)
{
	(void)ret;
	world_reach(w->lease[0], PINLEASE_ACTIVE);
	assert_int_equal(sim_mrs(), world_info(w->lease[0]).registrations);
}

static int call_truncate(struct world *w, const struct pinlease_opts *o)
{
	(void)o;
	return pinlease_file_truncate(w->file, WORLD_SIZE / 2);
}

static int call_close(struct world *w, const struct pinlease_opts *o)
{
	struct pinlease_file *file = w->file;

	(void)o;
	w->file = NULL;
	return pinlease_file_close(file);
}

/* Between the taking of the guard and the entry in the table only the slow pass can find it. */
static void test_file_open(struct world *w)
{
	const struct race r = { "pinlease_file_open", prepare_ctx, call_open, NULL, 3, 600 * SIM_MS };

	race_through(w, &r, &pinned);
}

static void test_file_close(struct world *w)
{
	const struct race r = { "pinlease_file_close", prepare_file, call_close, NULL, 0, 0 };

	race_through(w, &r, &pinned);
}

static void test_acquire(struct world *w)
{
	const struct race r = { "pinlease_acquire", prepare_file, call_acquire, check_active, 3, 0 };

	race_modes(w, &r);
}

static void test_restore_by_hand(struct world *w)
{
	const struct race r = { "pinlease_restore", prepare_revoked, call_restore, check_restore, 3, 0 };

	race_modes(w, &r);
}

static void test_restore_by_itself(struct world *w)
{
	const struct race r = {
		"automatic restore", prepare_resting, call_wait_for_restore, check_active, 3, 0
	};

	race_modes(w, &r);
}

static void test_release(struct world *w)
{
	const struct race r = { "pinlease_release", prepare_written, call_release, check_data, 2, 0 };

	race_modes(w, &r);
}

static void test_sync(struct world *w)
{
	const struct race r = { "pinlease_sync", prepare_written, call_sync, check_data, 2, 0 };

	race_modes(w, &r);
}

static void test_mr_add(struct world *w)
{
	const struct race r = { "pinlease_mr_add", prepare_lease, call_mr_add, check_registrations, 1, 0 };

	race_modes(w, &r);
}

static void test_own_truncate(struct world *w)
{
	const struct race r = {
		"pinlease_file_truncate", prepare_written, call_truncate, check_active, 3, 0
	};

	race_modes(w, &r);
}

/*
 * Between the mark of a break and its membarrier nothing may be summed: another thread's begin,
 * granted, can be in its store buffer still. The last end pokes just then.
 */
static struct {
	struct pinlease *lease;
	uint32_t gen, before, after;
	bool wait; /* for the deadline, too, and for no slow pass: that makes a barrier of its own */
} gap;

static void end_in_the_gap(void *arg)
{
	(void)arg;
	gap.before = world_state(gap.lease);
	if (gap.wait)
		sim_sleep(200 * SIM_MS);
	pinlease_dma_end(gap.lease, 1, gap.gen);
	if (gap.wait)
		sim_sleep(100 * SIM_MS);
	gap.after = world_state(gap.lease);
}

/* Answers how many membarriers the break took. */
static unsigned int break_with_gap(struct world *w, uint32_t deadline_ms, bool wait)
{
	const struct pinlease_opts o = { .deadline_ms = deadline_ms };
	struct sim_opener *opener;
	unsigned int made;

	world_open(w, PINLEASE_WRITE);
	gap.lease = world_lease(w, 0, SIM_PAGE, &o);
	gap.gen = world_begin(gap.lease, 1);
	gap.before = gap.after = PINLEASE_INIT;
	gap.wait = wait;
	made = sim_calls("membarrier");
	sim_hook("membarrier", 1, end_in_the_gap, NULL);
	opener = sim_open(w->path, O_RDWR);
	assert_true(sim_opener_wait(opener, 10 * SIM_S));
	made = sim_calls("membarrier") - made;
	/* The breaker comes back while the opener is there. */
	sim_sleep(2 * SIM_S);
	world_opener_in(opener, 2 * SIM_S);
	assert_int_equal(gap.before, PINLEASE_BREAKING);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 0);
	world_close(w);
	return made;
}

/* Under TSan the library has none either: each begin is fenced. */
static bool has_membarrier(void)
{
	assert_int_equal(pl_account_setup(), 0);
	return pl_account_has_membarrier();
}

static void test_end_before_barrier(struct world *w)
{
	if (!has_membarrier())
		return;
	assert_int_equal(break_with_gap(w, 1000, false), 1);
	assert_int_equal(gap.after, PINLEASE_BREAKING);
}

/* The breaker is held up for longer than the deadline: who fences makes the barrier. */
static void test_deadline_before_barrier(struct world *w)
{
	if (!has_membarrier())
		return;
	assert_int_equal(break_with_gap(w, 100, true), 2);
	assert_int_equal(gap.after, PINLEASE_REVOKED);
}

/* The lock is held. */
static void look_in_the_gap(void *arg)
{
	(void)arg;
	gap.before = pl_lease_state(gap.lease);
	gap.after = sim_mrs();
}

static void barrier_before_fence(int ret, unsigned int made)
{
	assert_int_equal(ret, 0);
	assert_int_equal(made, 1);
	assert_int_equal(gap.before, PINLEASE_BREAKING);
	assert_int_equal(gap.after, 1);
}

/* What we break ourselves is summed behind a membarrier, too. */
static void test_own_breaks_before_barrier(struct world *w)
{
	unsigned int made;
	int r;

	if (!has_membarrier())
		return;
	world_open(w, PINLEASE_WRITE);
	gap.lease = world_lease(w, 0, 2 * SIM_PAGE, NULL);
	made = sim_calls("membarrier");
	sim_hook("membarrier", 1, look_in_the_gap, NULL);
	r = pinlease_file_truncate(w->file, SIM_PAGE);
	barrier_before_fence(r, sim_calls("membarrier") - made);
	gap.before = gap.after = 0;
	made = sim_calls("membarrier");
	sim_hook("membarrier", 1, look_in_the_gap, NULL);
	r = pinlease_release(gap.lease);
	barrier_before_fence(r, sim_calls("membarrier") - made);
	world_forget(w, gap.lease);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_file_open),
		world_test(test_file_close),
		world_test(test_acquire),
		world_test(test_restore_by_hand),
		world_test(test_restore_by_itself),
		world_test(test_release),
		world_test(test_sync),
		world_test(test_mr_add),
		world_test(test_own_truncate),
		world_test(test_end_before_barrier),
		world_test(test_deadline_before_barrier),
		world_test(test_own_breaks_before_barrier),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
