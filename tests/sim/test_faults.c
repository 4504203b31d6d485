/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * EINTR at every call that may block, and an error of every other call at every place
 * where it is made, over the whole life of a lease. An application may be told of the
 * error; nothing is left behind, nobody is kept waiting, and the judge sees nothing
 * forbidden.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <string.h>

#include "world.h"

#define MANY 400

static const struct pinlease_opts pinned = { .deadline_ms = 500 };
static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED, .deadline_ms = 500 };

/* The steps of a life; each one may be refused, and the next ones then have less to do. */
struct life {
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct ibv_pd *pd;
	const char *path;
	int err;    /* the last one anybody was told */
	bool quiet; /* nobody may be told anything */
};

static void told(struct life *l, const char *by, int r)
{
	if (r && l->quiet)
		fail_msg("%s answered %d", by, r);
	if (r)
		l->err = r;
}

static void life_begin(struct life *l, const struct pinlease_opts *o)
{
	struct pinlease_opts opts = *o;
	uint32_t gen, index;

	opts.size = sizeof(opts);
	opts.pd = l->pd;
	opts.ibv_access = IBV_ACCESS_REMOTE_WRITE;
	told(l, "pinlease_ctx_new", pinlease_ctx_new(NULL, &l->ctx));
	if (l->ctx)
		told(l, "pinlease_file_open", pinlease_file_open(l->ctx, l->path, NULL, NULL, &l->file));
	if (l->file)
		told(l, "pinlease_acquire", pinlease_acquire(l->file, 0, WORLD_SIZE, &opts, NULL, &l->lease));
	if (!l->lease)
		return;
	told(l, "pinlease_mr_add", pinlease_mr_add(l->lease, l->pd, 0, &index));
	if (!pinlease_dma_begin(l->lease, 1, &gen))
		pinlease_dma_end(l->lease, 1, gen);
	told(l, "pinlease_sync", pinlease_sync(l->lease, 0, 0, 0));
	told(l, "pinlease_file_truncate", pinlease_file_truncate(l->file, WORLD_SIZE / 2));
}

/* An opener comes; afterwards the lease is where it may be, and comes back. */
static void life_break(struct life *l)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct sim_opener *o = sim_truncate(l->path, WORLD_SIZE);

	assert_true(sim_opener_wait(o, 60 * SIM_S));
	if (sim_opener_expired(o))
		fail_msg("an opener had to wait for the kernel's own clock");
	sim_opener_end(o);
	sim_sleep(2 * SIM_S);
	while (l->ctx && pinlease_ctx_next_event(l->ctx, &ev) == 1) {
		if (ev.type == PINLEASE_EV_LOST || ev.type == PINLEASE_EV_RESTORE_FAILED)
			told(l, "an event", ev.err);
	}
	if (l->lease && world_state(l->lease) != PINLEASE_ACTIVE)
		told(l, "pinlease_restore", pinlease_restore(l->lease, NULL));
}

static void life_end(struct life *l)
{
	unsigned int tries;
	int r = -EBUSY;

	for (tries = 0; tries < 3 && r; tries++) {
		r = pinlease_release(l->lease);
		told(l, "pinlease_release", r);
	}
	assert_int_equal(r, 0);
	assert_int_equal(pinlease_file_close(l->file), 0);
	assert_int_equal(pinlease_ctx_free(l->ctx), 0);
}

/* Once through all of it; false: it was over before the nth call. */
static bool life_once(const struct pinlease_opts *o, const char *call, unsigned int classes, unsigned int n,
		      int err, unsigned int times, bool quiet)
{
	struct life l = { .pd = sim_device(SIM_ODP_NONE),
			  .path = sim_file("file", WORLD_SIZE),
			  .quiet = quiet };
	unsigned int before = sim_faults();

	if (call)
		sim_fail(call, n, err, times);
	else
		sim_fail_class(classes, n, err, times);
	life_begin(&l, o);
	if (l.ctx)
		life_break(&l);
	life_end(&l);
	sim_clear();
	sim_check();
	return sim_faults() != before;
}

/* Every place in turn; answers how many there were. */
static unsigned int through(const struct pinlease_opts *o, const char *call, unsigned int classes, int err,
			    unsigned int times, bool quiet)
{
	unsigned int n;

	for (n = 1; life_once(o, call, classes, n, err, times, quiet); n++)
		assert_in_range(n, 1, MANY);
	return n - 1;
}

/* Whoever is interrupted goes on: the application never sees it. open(2) is the application's own. */
static void test_interrupted(struct world *w)
{
	unsigned int times;

	(void)w;
	for (times = 1; times <= 7; times += 3) {
		assert_in_range(through(&pinned, NULL, SIM_BLOCKING, -EINTR, times, true), 5, MANY);
		assert_in_range(through(&staged, NULL, SIM_BLOCKING, -EINTR, times, true), 8, MANY);
	}
}

static const struct {
	const char *call;
	int err;
} errors[] = {
	{ "open", -EINTR },
	{ "open", -ENFILE },
	{ "get_flags", -EBADF },
	{ "anchor_new", -ETOOMANYREFS },
	{ "set_lease", -EAGAIN },
	{ "set_lease", -EINVAL },
	{ "set_lease", -ENOLCK },
	{ "set_signal", -EINVAL },
	{ "set_owner", -ESRCH },
	{ "pread", -EIO },
	{ "pwrite", -EIO },
	{ "pwrite", -ENOSPC },
	{ "pwrite", -EDQUOT },
	{ "allocate", -ENOSPC },
	{ "allocate", -EOPNOTSUPP },
	{ "datasync", -EIO },
	{ "msync", -EIO },
	{ "truncate", -EIO },
	{ "map", -ENOMEM },
	{ "map", -EAGAIN },
	{ "advise", -EFAULT },
	{ "advise", -EINVAL },
	{ "advise", -EHWPOISON },
	{ "reg_mr", -EFAULT },
	{ "reg_mr", -EOPNOTSUPP },
	{ "reg_mr", -EINVAL },
	{ "reg_mr", -EPERM },
	{ "dereg_mr", -EBUSY },
	{ "dereg_mr", -EINVAL },
	{ "dereg_mr", -EIO },
	{ "read_text", -EACCES },
	{ "stat", -EIO },
	{ "stat_id", -EIO },
	{ "stat_id", -ESTALE },
	{ "thread_new", -EAGAIN },
	{ "event_new", -EMFILE },
	{ "wait_signal", -EAGAIN },
	{ "get_seals", -EINVAL },
	{ "signal_thread", -EAGAIN },
};

static void test_errors(struct world *w)
{
	const size_t count = sizeof(errors) / sizeof(*errors);
	unsigned int places, all = 0;
	size_t i;

	(void)w;
	for (i = 0; i < count; i++) {
		places = through(&pinned, errors[i].call, 0, errors[i].err, 1, false);
		places += through(&staged, errors[i].call, 0, errors[i].err, 1, false);
		places += through(&staged, errors[i].call, 0, errors[i].err, 4, false);
		if (!places)
			fail_msg("%s is never called", errors[i].call);
		all += places;
	}
	print_message("%zu kinds of errors, %u places\n", count, all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_interrupted),
		world_test(test_errors),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
