/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pinlease_probe: it asks before it opens, leaves nothing behind when a call fails in the
 * middle, and a break that comes meanwhile. That it answers what acquire does is
 * probe_equals_acquire's matter, on real kernels.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <string.h>

#include "sys.h"
#include "world.h"

static int probe(struct world *w, struct pinlease_probe_opts *o, struct pinlease_probe_result *out,
		 struct pinlease_why *why)
{
	o->size = sizeof(*o);
	o->pd = o->pd ? o->pd : w->pd;
	memset(out, 0, sizeof(*out));
	memset(why, 0, sizeof(*why));
	out->size = sizeof(*out);
	return pinlease_probe(w->ctx, w->path, o, why, out);
}

static const struct pinlease_probe_cell *cell(const struct pinlease_probe_result *t, uint32_t guard,
					      uint32_t mode, uint32_t access)
{
	uint32_t i;

	for (i = 0; i < t->count; i++)
		if (t->cell[i].guard == guard && t->cell[i].mode == mode && t->cell[i].access == access)
			return &t->cell[i];
	fail_msg("no cell %u %u %u", guard, mode, access);
	return NULL;
}

/* A ctx and a file that nobody has opened. */
static void start(struct world *w, uint32_t fs, enum sim_odp odp)
{
	sim_file_system(fs);
	w->path = sim_file("probed", WORLD_SIZE);
	w->pd = sim_device(odp);
	assert_int_equal(pinlease_ctx_new(NULL, &w->ctx), 0);
}

static void stop(struct world *w)
{
	assert_int_equal(sim_mrs(), 0);
	assert_int_equal(sim_lease(w->path), F_UNLCK);
	assert_int_equal(pinlease_ctx_free(w->ctx), 0);
	memset(w, 0, sizeof(*w));
}

static void test_table(struct world *w)
{
	struct pinlease_probe_result t;
	struct pinlease_probe_opts o = { .flags = 0 };
	struct pinlease_why why;
	const struct pinlease_probe_cell *c;

	start(w, SIM_EXT4, SIM_ODP_UNALIGNED);
	assert_int_equal(probe(w, &o, &t, &why), 0);
	assert_int_equal(t.count, 24);
	assert_int_equal(cell(&t, PINLEASE_GUARD_LEASE, PINLEASE_MODE_PINNED, PINLEASE_READ)->err, 0);
	c = cell(&t, PINLEASE_GUARD_LEASE, PINLEASE_MODE_PINNED, PINLEASE_WRITE);
	assert_int_equal(c->err, -EOPNOTSUPP);
	assert_int_equal(c->why.reason, PINLEASE_WHY_DIRTY_TRACKED);
	c = cell(&t, PINLEASE_GUARD_SEAL, PINLEASE_MODE_STAGED, PINLEASE_READ);
	assert_int_equal(c->why.reason, PINLEASE_WHY_NO_SEALS);
	assert_int_equal(cell(&t, PINLEASE_GUARD_NONE, PINLEASE_MODE_STAGED, PINLEASE_WRITE)->err, 0);
	assert_int_equal(t.auto_read.mode, PINLEASE_MODE_PINNED);
	assert_int_equal(t.auto_write.mode, PINLEASE_MODE_STAGED);
	assert_int_equal(t.auto_write.guard, PINLEASE_GUARD_LEASE);
	assert_int_equal(t.auto_write.mode_reason, PINLEASE_WHY_DATA_CHECK);
	/* Nothing was done to the file. */
	assert_int_equal(sim_calls("allocate"), 0);
	assert_int_equal(sim_calls("pwrite"), 0);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	world_no_event(w);
	stop(w);
}

static void test_one_access(struct world *w)
{
	struct pinlease_probe_opts o = { .access = PINLEASE_WRITE };
	struct pinlease_probe_result t;
	struct pinlease_why why;

	start(w, SIM_TMPFS, SIM_ODP_NONE);
	assert_int_equal(probe(w, &o, &t, &why), 0);
	assert_int_equal(t.count, 12);
	assert_int_equal(t.auto_read.access, 0);
	assert_int_equal(t.auto_write.access, PINLEASE_WRITE);
	assert_int_equal(t.auto_write.mode, PINLEASE_MODE_PINNED);
	stop(w);
}

static void held(struct world *w, uint32_t access, uint32_t flags, int want)
{
	struct pinlease_probe_opts o = { .access = access, .flags = flags };
	unsigned int breaks = sim_breaks();
	struct pinlease_probe_result t;
	struct pinlease_why why;

	assert_int_equal(probe(w, &o, &t, &why), want);
	if (want) {
		assert_int_equal(why.reason, PINLEASE_WHY_WOULD_BREAK);
		assert_int_equal(why.pid, pl_sys_pid());
		assert_int_equal(t.count, 0);
	}
	if (!flags)
		assert_int_equal(sim_breaks(), breaks);
}

/* A lease on the file is not broken, unless that is asked for; readers do not disturb one for reading. */
static void test_leased(struct world *w)
{
	world_open(w, PINLEASE_WRITE);
	held(w, PINLEASE_READ, 0, -EBUSY);
	held(w, 0, 0, -EBUSY);
	assert_int_equal(sim_lease(w->path), F_WRLCK);
	held(w, PINLEASE_READ, PINLEASE_PROBE_FORCE, 0);
	world_close(w);
	world_open(w, PINLEASE_READ);
	held(w, PINLEASE_READ, 0, 0);
	held(w, PINLEASE_WRITE, 0, -EBUSY);
	assert_int_equal(sim_lease(w->path), F_RDLCK);
	world_close(w);
}

static void test_fd(struct world *w)
{
	struct pinlease_probe_opts o = { .size = sizeof(o) };
	struct pinlease_probe_result t = { .size = sizeof(t) };
	struct pinlease_why why = { .reason = 0 };
	int fd;

	start(w, SIM_TMPFS, SIM_ODP_NONE);
	fd = pl_sys_open(w->path, O_RDONLY);
	assert_int_equal(pinlease_probe_fd(w->ctx, fd, &o, &why, &t), 0);
	assert_int_equal(cell(&t, PINLEASE_GUARD_LEASE, PINLEASE_MODE_PINNED, PINLEASE_READ)->err, 0);
	assert_int_equal(cell(&t, PINLEASE_GUARD_LEASE, PINLEASE_MODE_PINNED, PINLEASE_WRITE)->err, -EBADF);
	pl_sys_close(fd);
	assert_int_equal(pinlease_probe_fd(w->ctx, fd, &o, &why, &t), -EBADF);
	assert_int_equal(why.reason, PINLEASE_WHY_BAD_FD);
	stop(w);
}

struct opening {
	struct world *w;
	struct sim_opener *o;
};

static void open_now(void *arg)
{
	struct opening *op = arg;

	op->o = sim_open(op->w->path, O_RDWR);
	sim_settle();
}

/* Somebody opens the file while the guard is held for a trial: he gets in, and no event tells of it. */
static void test_broken(struct world *w)
{
	struct pinlease_probe_opts o = { .access = PINLEASE_WRITE };
	struct opening op = { .w = w };
	struct pinlease_probe_result t;
	struct pinlease_why why;

	start(w, SIM_TMPFS, SIM_ODP_NONE);
	sim_hook("reg_mr", 1, open_now, &op);
	assert_int_equal(probe(w, &o, &t, &why), 0);
	assert_non_null(op.o);
	assert_int_equal(t.cell[0].err, -EAGAIN);
	assert_int_equal(t.cell[0].why.reason, PINLEASE_WHY_BROKEN);
	world_opener_in(op.o, SIM_S);
	world_no_event(w);
	stop(w);
}

static void test_input(struct world *w)
{
	struct pinlease_probe_opts o = { .size = sizeof(o) };
	struct pinlease_probe_result t = { .size = sizeof(t) };

	start(w, SIM_TMPFS, SIM_ODP_NONE);
	assert_int_equal(pinlease_probe(NULL, w->path, &o, NULL, &t), -EINVAL);
	assert_int_equal(pinlease_probe(w->ctx, NULL, &o, NULL, &t), -EINVAL);
	assert_int_equal(pinlease_probe(w->ctx, w->path, &o, NULL, NULL), -EINVAL);
	assert_int_equal(pinlease_probe(w->ctx, "/nowhere/at/all", &o, NULL, &t), -ENOENT);
	assert_int_equal(pinlease_probe(w->ctx, "/dev/null", &o, NULL, &t), -EINVAL);
	assert_int_equal(pinlease_probe(w->ctx, "/tmp", &o, NULL, &t), -EISDIR);
	o.flags = 2;
	assert_int_equal(pinlease_probe(w->ctx, w->path, &o, NULL, &t), -EINVAL);
	o = (struct pinlease_probe_opts){ .size = sizeof(o), .file_flags = 1u << 31 };
	assert_int_equal(pinlease_probe(w->ctx, w->path, &o, NULL, &t), -EINVAL);
	o = (struct pinlease_probe_opts){ .size = sizeof(o), .access = 3 };
	assert_int_equal(pinlease_probe(w->ctx, w->path, &o, NULL, &t), -EINVAL);
	o = (struct pinlease_probe_opts){ .size = sizeof(o) - 8 };
	assert_int_equal(pinlease_probe(w->ctx, w->path, &o, NULL, &t), -EINVAL);
	t.size = 8;
	assert_int_equal(pinlease_probe(w->ctx, w->path, NULL, NULL, &t), -EINVAL);
	assert_int_equal(t.count, 0);
	t.size = sizeof(t);
	assert_int_equal(pinlease_probe(w->ctx, w->path, NULL, NULL, &t), 0);
	assert_int_equal(t.count, 24);
	stop(w);
}

/* Fail the nth call of a kind until the probe gets through untouched; nothing is left behind each time. */
static void fail_each(struct world *w, enum sim_class class, int err, unsigned int at_least)
{
	struct pinlease_probe_opts o = { .flags = 0 };
	struct pinlease_probe_result t;
	struct pinlease_why why;
	unsigned int nth, before;

	for (nth = 1; nth < 2000; nth++) {
		before = sim_faults();
		sim_fail_class(class, nth, err, 1);
		probe(w, &o, &t, &why);
		sim_clear();
		assert_int_equal(sim_mrs(), 0);
		assert_int_equal(sim_lease(w->path), F_UNLCK);
		if (sim_faults() == before)
			break;
	}
	assert_in_range(nth, at_least, 1999);
}

static void test_faults(struct world *w)
{
	start(w, SIM_TMPFS, SIM_ODP_NONE);
	fail_each(w, SIM_MEMORY, -ENOMEM, 20);
	fail_each(w, SIM_BLOCKING, -EINTR, 2);
	stop(w);
}

/* A provider that does not give back what it registered: said, and the ctx is busy until it does. */
static void test_dereg(struct world *w)
{
	struct pinlease_probe_opts o = { .flags = 0 };
	struct pinlease_probe_result t;
	struct pinlease_why why;

	start(w, SIM_TMPFS, SIM_ODP_NONE);
	sim_fail("dereg_mr", 1, -EINVAL, 1);
	assert_int_equal(probe(w, &o, &t, &why), 0);
	assert_true(sim_faults() > 0);
	stop(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_table),	 world_test(test_one_access), world_test(test_leased),
		world_test(test_fd),	 world_test(test_broken),     world_test(test_input),
		world_test(test_faults), world_test(test_dereg),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
