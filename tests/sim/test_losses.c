/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Errors of writeback: who hears of them, how often, and what a retry writes. The kernel
 * reports an error once for each open file description, which all leases of a file
 * share, so here too an fdatasync that fails once says 0 the next time.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>

#include "world.h"

static const struct pinlease_opts told = { .mode = PINLEASE_MODE_STAGED, .flags = PINLEASE_L_DIRTY_TOLD };
static const struct pinlease_opts manual = { .mode = PINLEASE_MODE_STAGED,
					     .flags = PINLEASE_L_DIRTY_TOLD | PINLEASE_L_MANUAL };

/* How many pieces a call of fn writes to files. */
static unsigned int pieces(struct pinlease *lease, int want)
{
	unsigned int before = sim_calls("pwrite");

	assert_int_equal(world_sync(lease), want);
	return sim_calls("pwrite") - before;
}

static void break_once(struct world *w, struct pinlease *lease)
{
	world_opener_in(sim_open(w->path, O_RDWR), SIM_S);
	if (world_info(lease).state != PINLEASE_ACTIVE)
		assert_int_equal(pinlease_restore(lease, NULL), 0);
}

/* What it has in the file nobody has synced: the error that another lease's sync met may be about that. */
static void test_of_another_lease(struct world *w)
{
	struct pinlease *lost, *clean, *meets;

	world_open(w, PINLEASE_WRITE);
	lost = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	clean = world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, &manual);
	meets = world_lease(w, 8 * SIM_PAGE, 4 * SIM_PAGE, &told);
	world_write_told(lost, SIM_PAGE, SIM_PAGE, 11);
	break_once(w, lost);
	assert_int_equal(pinlease_restore(clean, NULL), 0);
	world_reach(meets, PINLEASE_ACTIVE);
	world_write_told(meets, 0, SIM_PAGE, 12);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(meets), -EIO);
	/* Each of the two once, and the third, which had nothing in the file, not at all. */
	assert_int_equal(pieces(lost, -EIO), 0);
	assert_int_equal(world_info(lost).dirty_bytes, SIM_PAGE);
	assert_int_equal(pieces(lost, 0), 1);
	assert_int_equal(pieces(meets, 0), 1);
	assert_int_equal(pieces(clean, 0), 0);
	assert_int_equal(pieces(lost, 0) + pieces(meets, 0), 0);
	assert_true(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 11));
	world_close(w);
}

/* A sync that has succeeded is the end of it: what fails later was not this lease's. */
static void test_synced_before(struct world *w)
{
	struct pinlease *early, *late;

	world_open(w, PINLEASE_WRITE);
	early = world_lease(w, 0, 4 * SIM_PAGE, &told);
	late = world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, &told);
	world_write_told(early, 0, SIM_PAGE, 13);
	assert_int_equal(world_sync(early), 0);
	world_write_told(late, 0, SIM_PAGE, 14);
	sim_fail("datasync", 1, -ENOSPC, 1);
	assert_int_equal(world_sync(late), -ENOSPC);
	assert_int_equal(pieces(early, 0), 0);
	assert_int_equal(pieces(late, 0), 1);
	world_close(w);
}

/* Written back by a break, and the fdatasync that would have said so never came. */
static void test_written_by_a_break(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &told);
	world_write_told(lease, SIM_PAGE, SIM_PAGE, 15);
	break_once(w, lease);
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	sim_fail("datasync", 1, -EDQUOT, 1);
	assert_int_equal(world_sync(lease), -EDQUOT);
	assert_int_equal(world_info(lease).dirty_bytes, SIM_PAGE);
	assert_int_equal(pieces(lease, 0), 1);
	assert_true(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 15));
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	world_close(w);
}

/* Where writes are synchronous one of them meets the error, and the kernel tells it to nobody else. */
static void test_met_by_a_write(struct world *w)
{
	struct pinlease *early, *late;

	world_open(w, PINLEASE_WRITE);
	early = world_lease(w, 0, 4 * SIM_PAGE, &told);
	late = world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, &told);
	world_write_told(early, 0, SIM_PAGE, 29);
	break_once(w, early);
	world_reach(late, PINLEASE_ACTIVE);
	world_write_told(late, 0, SIM_PAGE, 30);
	sim_fail("pwrite", 1, -EIO, 1);
	assert_int_equal(world_sync(late), -EIO);
	assert_int_equal(world_sync(early), -EIO);
	assert_int_equal(pieces(early, 0), 1);
	assert_int_equal(pieces(late, 0), 1);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 29));
	assert_true(sim_file_is(w->path, 4 * SIM_PAGE, SIM_PAGE, 30));
	world_close(w);
}

/* The loss happens while the lease is revoked: it is kept over the restore, and told then. */
static void test_lost_while_revoked(struct world *w)
{
	struct pinlease *lease, *other;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	other = world_lease(w, 4 * SIM_PAGE, SIM_PAGE, &told);
	world_write_told(lease, SIM_PAGE, SIM_PAGE, 16);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_S);
	world_reach(other, PINLEASE_ACTIVE);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(other), -EIO);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_sync(lease), -EIO);
	assert_int_equal(pieces(lease, 0), 1);
	assert_true(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 16));
	world_close(w);
}

struct syncer {
	struct pinlease *lease;
	uint64_t off, len;
	int ret;
};

/* LOST was told of other data when the disk failed: a restore by hand does not drop what that has lost. */
static void test_lost_while_lost(struct world *w)
{
	struct pinlease *lease, *other;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	other = world_lease(w, 8 * SIM_PAGE, 4 * SIM_PAGE, &manual);
	world_write_told(lease, SIM_PAGE, SIM_PAGE, 17);
	break_once(w, lease);
	world_write_told(lease, 2 * SIM_PAGE, SIM_PAGE, 18);
	sim_stop();
	o = sim_open(w->path, O_RDWR);
	sim_sleep((SIM_BREAK_TIME_S + 1) * SIM_S);
	sim_continue();
	sim_opener_end(o);
	world_reach(lease, PINLEASE_LOST);
	assert_int_equal(pinlease_restore(other, NULL), 0);
	world_write_told(other, 0, SIM_PAGE, 19);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(other), -EIO);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_info(lease).dirty_bytes, SIM_PAGE);
	assert_int_equal(pieces(lease, -EIO), 0);
	assert_int_equal(pieces(lease, 0), 1);
	assert_true(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 17));
	assert_false(sim_file_is(w->path, 2 * SIM_PAGE, SIM_PAGE, 18));
	assert_int_equal(pieces(lease, 0), 0);
	world_close(w);
}

static void *sync_range(void *arg)
{
	struct syncer *s = arg;

	s->ret = pinlease_sync(s->lease, s->off, s->len, 0);
	return NULL;
}

/* Two at once, of one lease and of two: the one fdatasync fails both, and neither hears it again. */
static void two_at_once(struct world *w, bool same)
{
	struct syncer s[2] = { { .len = SIM_PAGE, .ret = 1 }, { .ret = 1 } };
	struct sim_thread *t[2];
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	s[0].lease = world_lease(w, 0, 4 * SIM_PAGE, &told);
	s[1].lease = same ? s[0].lease : world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, &told);
	s[1].off = same ? SIM_PAGE : 0;
	s[1].len = SIM_PAGE;
	for (i = 0; i < 2; i++)
		world_write_told(s[i].lease, s[i].off, SIM_PAGE, 17);
	sim_slow("datasync", 100 * SIM_MS);
	sim_fail("datasync", 1, -EIO, 1);
	t[0] = sim_thread_start(sync_range, &s[0]);
	sim_sleep(50 * SIM_MS);
	/* It writes while the first one's fdatasync runs, so it needs one of its own, which says 0. */
	t[1] = sim_thread_start(sync_range, &s[1]);
	sim_thread_join(t[0]);
	sim_thread_join(t[1]);
	assert_int_equal(s[0].ret, -EIO);
	assert_int_equal(s[1].ret, -EIO);
	assert_int_equal(sim_calls("datasync"), 2);
	assert_int_equal(world_info(s[0].lease).dirty_bytes + (same ? 0 : world_info(s[1].lease).dirty_bytes),
			 2 * SIM_PAGE);
	assert_int_equal(world_sync(s[0].lease), 0);
	assert_int_equal(world_sync(s[1].lease), 0);
	for (i = 0; i < 2; i++)
		assert_int_equal(world_info(s[i].lease).dirty_bytes, 0);
	world_close(w);
}

static void test_two_of_one_lease(struct world *w)
{
	two_at_once(w, true);
}

static void test_two_of_two_leases(struct world *w)
{
	two_at_once(w, false);
}

/* Who comes while an fdatasync runs waits for the next one, and one is enough for all of them. */
static void test_one_for_all(struct world *w)
{
	struct syncer s[5];
	struct sim_thread *t[5];
	uint64_t before;
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	for (i = 0; i < 5; i++) {
		s[i] = (struct syncer){ .lease = world_lease(w, i * SIM_PAGE, SIM_PAGE, &told), .ret = 1 };
		world_write_told(s[i].lease, 0, SIM_PAGE, 20);
	}
	sim_slow("datasync", 100 * SIM_MS);
	before = sim_now();
	for (i = 0; i < 5; i++) {
		t[i] = sim_thread_start(sync_range, &s[i]);
		sim_sleep(SIM_MS);
	}
	for (i = 0; i < 5; i++)
		sim_thread_join(t[i]);
	assert_int_equal(sim_calls("datasync"), 2);
	assert_in_range(sim_now() - before, 200 * SIM_MS, 205 * SIM_MS);
	for (i = 0; i < 5; i++)
		assert_int_equal(s[i].ret, 0);
	/* All of it was covered: a later error is nobody's. */
	sim_slow("datasync", 0);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(s[4].lease), -EIO);
	for (i = 0; i < 4; i++)
		assert_int_equal(world_sync(s[i].lease), 0);
	world_close(w);
}

/* An fdatasync that began before a piece was written does not cover it. */
static void test_written_beside_fdatasync(struct world *w)
{
	struct syncer s = { .ret = 1 };
	struct pinlease *lease;
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	s.lease = world_lease(w, 4 * SIM_PAGE, SIM_PAGE, &manual);
	world_write_told(s.lease, 0, SIM_PAGE, 21);
	world_write_told(lease, 0, SIM_PAGE, 22);
	sim_slow("datasync", SIM_S);
	t = sim_thread_start(sync_range, &s);
	sim_sleep(SIM_MS);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_S / 2);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 22));
	sim_thread_join(t);
	assert_int_equal(s.ret, 0);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pinlease_restore(s.lease, NULL), 0);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(s.lease), -EIO);
	assert_int_equal(world_sync(lease), -EIO);
	assert_int_equal(pieces(lease, 0), 1);
	world_close(w);
}

/* The same where the piece is under way when the fdatasync begins, and when it ends. */
static void test_writing_beside_fdatasync(struct world *w)
{
	struct syncer s[2] = { { .ret = 1 }, { .ret = 1 } };
	struct sim_thread *t[2];
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	for (i = 0; i < 2; i++)
		s[i].lease = world_lease(w, i * SIM_PAGE, SIM_PAGE, &told);
	world_write_told(s[1].lease, 0, SIM_PAGE, 23);
	sim_slow("pwrite", 10 * SIM_S);
	t[1] = sim_thread_start(sync_range, &s[1]);
	sim_sleep(SIM_MS);
	/* Nothing to write: straight to the disk, twice, while the other one writes. */
	assert_int_equal(world_sync(s[0].lease), 0);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(s[0].lease), -EIO);
	sim_thread_join(t[1]);
	sim_slow("pwrite", 0);
	assert_int_equal(s[1].ret, -EIO);
	assert_int_equal(pieces(s[1].lease, 0), 1);
	world_close(w);
}

/* An fdatasync fails while the break writes the very piece: written once more. */
static void test_lost_beside_a_break(struct world *w)
{
	struct syncer s = { .ret = 1 };
	struct pinlease *lease;
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, &manual);
	s.lease = world_lease(w, SIM_PAGE, SIM_PAGE, &manual);
	world_write_told(lease, 0, SIM_PAGE, 24);
	sim_slow("datasync", 200 * SIM_MS);
	sim_fail("datasync", 1, -EIO, 1);
	t = sim_thread_start(sync_range, &s);
	sim_sleep(100 * SIM_MS);
	sim_slow("pwrite", 150 * SIM_MS);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_S);
	sim_thread_join(t);
	sim_clear();
	assert_int_equal(s.ret, -EIO);
	assert_int_equal(sim_calls("pwrite"), 2);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 24));
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_sync(lease), -EIO);
	assert_int_equal(world_sync(lease), 0);
	world_close(w);
}

/* Release waits for who still looks at the lease, and the opener for neither. */
static void test_beside_release(struct world *w)
{
	struct syncer s = { .ret = 1 };
	struct sim_thread *t;
	uint64_t before;

	world_open(w, PINLEASE_WRITE);
	s.lease = world_lease(w, 0, 4 * SIM_PAGE, &told);
	world_write_told(s.lease, 0, SIM_PAGE, 25);
	sim_slow("datasync", 10 * SIM_S);
	sim_fail("datasync", 1, -EIO, 1);
	t = sim_thread_start(sync_range, &s);
	sim_sleep(SIM_MS);
	before = sim_now();
	assert_int_equal(pinlease_release(s.lease), 0);
	assert_in_range(sim_now() - before, 9 * SIM_S, 10 * SIM_S);
	world_forget(w, s.lease);
	sim_thread_join(t);
	assert_int_equal(s.ret, -EIO);
	world_close(w);
}

/* A pinned lease, and beside it a staged one with something to write back. */
static struct pinlease *pinned_beside(struct world *w, struct pinlease **other)
{
	struct pinlease *pinned;

	world_open(w, PINLEASE_WRITE);
	pinned = world_lease(w, 0, 4 * SIM_PAGE, NULL);
	*other = world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, &told);
	world_write_told(*other, 0, SIM_PAGE, 26);
	return pinned;
}

/* As often as its counter holds, and nobody has asked meanwhile. */
static void test_lost_again_and_again(struct world *w)
{
	struct pinlease *other, *pinned = pinned_beside(w, &other);
	unsigned int i;

	sim_fail("datasync", 1, -EIO, 0);
	for (i = 0; i <= UINT16_MAX; i++)
		assert_int_equal(pinlease_sync(other, 0, 0, 0), -EIO);
	sim_clear();
	assert_int_equal(world_sync(pinned), -EIO);
	assert_int_equal(world_sync(pinned), 0);
	world_close(w);
}

/* The pages themselves are the file's: nobody knows what was lost, so all of them are made dirty again. */
static void test_pinned(struct world *w)
{
	struct pinlease *other, *pinned = pinned_beside(w, &other);
	unsigned int advised;

	assert_int_equal(world_info(pinned).mode, PINLEASE_MODE_PINNED);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(other), -EIO);
	advised = sim_calls("advise");
	assert_int_equal(world_sync(pinned), -EIO);
	assert_int_equal(sim_calls("advise"), advised);
	sim_fail("advise", 1, -ENOMEM, 1);
	assert_int_equal(world_sync(pinned), -ENOMEM);
	assert_int_equal(world_sync(pinned), 0);
	assert_int_equal(sim_calls("advise"), advised + 2);
	assert_int_equal(world_sync(pinned), 0);
	assert_int_equal(sim_calls("advise"), advised + 2);
	/* A write that fails may be a synchronous one, and have taken the error away from the others. */
	world_write_told(other, 0, SIM_PAGE, 27);
	sim_fail("pwrite", 1, -ENOSPC, 1);
	assert_int_equal(world_sync(other), -ENOSPC);
	assert_int_equal(world_sync(pinned), -ENOSPC);
	/* And its own msync takes an error away from the others. */
	world_write_told(other, 0, SIM_PAGE, 28);
	break_once(w, other);
	world_reach(pinned, PINLEASE_ACTIVE);
	sim_fail("msync", 1, -EIO, 1);
	assert_int_equal(world_sync(pinned), -EIO);
	assert_int_equal(world_sync(other), -EIO);
	assert_int_equal(world_sync(other), 0);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_of_another_lease),
		world_test(test_synced_before),
		world_test(test_written_by_a_break),
		world_test(test_met_by_a_write),
		world_test(test_lost_while_revoked),
		world_test(test_lost_while_lost),
		world_test(test_two_of_one_lease),
		world_test(test_two_of_two_leases),
		world_test(test_one_for_all),
		world_test(test_written_beside_fdatasync),
		world_test(test_writing_beside_fdatasync),
		world_test(test_lost_beside_a_break),
		world_test(test_beside_release),
		world_test(test_lost_again_and_again),
		world_test(test_pinned),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
