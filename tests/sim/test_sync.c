/* SPDX-License-Identifier: BSD-3-Clause */
/* I5 as far as a simulation can see: what was ordered before sync is in the file when it answers 0. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "world.h"

#define MIB   (1u << 20)
#define SLOTS (WORLD_SIZE / SIM_PAGE)

static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED };
static const struct pinlease_opts told = { .mode = PINLEASE_MODE_STAGED, .flags = PINLEASE_L_DIRTY_TOLD };

static void test_range(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, SIM_PAGE, 4 * SIM_PAGE, &staged);
	world_write(lease, 0, SIM_PAGE, 31);
	world_write(lease, SIM_PAGE, SIM_PAGE, 32);
	assert_int_equal(pinlease_sync(lease, SIM_PAGE, SIM_PAGE, 0), 0);
	assert_false(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 31));
	assert_true(sim_file_is(w->path, 2 * SIM_PAGE, SIM_PAGE, 32));
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 31));
	assert_int_equal(sim_calls("datasync"), 2);
	assert_int_equal(pinlease_sync(lease, 4 * SIM_PAGE, 0, 0), 0);
	assert_int_equal(pinlease_sync(lease, 4 * SIM_PAGE, 1, 0), -ERANGE);
	assert_int_equal(pinlease_sync(lease, 1, UINT64_MAX, 0), -ERANGE);
	assert_int_equal(pinlease_sync(lease, 0, 0, 1), -EINVAL);
	world_close(w);
}

static void test_pinned(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	world_write(lease, 0, SIM_PAGE, 33);
	assert_int_equal(pinlease_sync(lease, 100, 200, 0), 0);
	assert_int_equal(sim_calls("msync"), 1);
	sim_fail("msync", 1, -EIO, 1);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -EIO);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	world_close(w);
}

static void test_full_disk(struct world *w)
{
	const char *other = sim_file("other", 0);
	struct pinlease *lease;
	int fd = open(other, O_RDWR);

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &told);
	assert_int_equal(pinlease_save(lease, fd), -EAGAIN);
	world_write(lease, 0, SIM_PAGE, 34);
	assert_int_equal(pinlease_mark_dirty(lease, 0, SIM_PAGE), 0);
	sim_fail("pwrite", 1, -ENOSPC, 1);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -ENOSPC);
	assert_int_equal(world_info(lease).dirty_bytes, SIM_PAGE);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_int_equal(pinlease_save(lease, fd), 0);
	assert_true(sim_file_is(other, 0, SIM_PAGE, 34));
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 34));
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	close(fd);
	world_close(w);
}

/* After a failed fdatasync the kernel calls its pages clean: only our copy is good, and is written again. */
static void test_datasync_fails(struct world *w)
{
	struct pinlease *lease;
	unsigned int writes;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &told);
	assert_int_equal(pinlease_mark_dirty(lease, 0, SIM_PAGE), 0);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(pinlease_sync(lease, 0, SIM_PAGE, 0), -EIO);
	assert_int_equal(world_info(lease).dirty_bytes, SIM_PAGE);
	writes = sim_calls("pwrite");
	assert_int_equal(pinlease_sync(lease, 0, SIM_PAGE, 0), 0);
	assert_int_equal(sim_calls("pwrite"), writes + 1);
	world_close(w);
}

static void test_not_active(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &staged);
	gen = world_begin(lease, 1);
	o = sim_open(w->path, O_RDONLY);
	world_reach(lease, PINLEASE_BREAKING);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -EAGAIN);
	pinlease_dma_end(lease, 1, gen);
	assert_true(sim_opener_wait(o, SIM_S));
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -EAGAIN);
	sim_opener_end(o);
	world_close(w);
}

struct syncer {
	struct pinlease *lease;
	int ret;
};

static void *sync_once(void *arg)
{
	struct syncer *s = arg;

	s->ret = pinlease_sync(s->lease, 0, 0, 0);
	return NULL;
}

/* A break in the middle: sync stops at its next piece, and the opener is held up by one piece only. */
static void test_broken_in_the_middle(struct world *w)
{
	struct syncer s = { .ret = 1 };
	struct sim_thread *t;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, 8 * MIB), 0);
	s.lease = world_lease(w, 0, 8 * MIB, &told);
	assert_int_equal(pinlease_mark_dirty(s.lease, 0, 8 * MIB), 0);
	sim_disk(10 * MIB, 0);
	t = sim_thread_start(sync_once, &s);
	sim_sleep(250 * SIM_MS);
	o = sim_open(w->path, O_RDWR);
	/* The piece under way is smaller than what the disk takes in 50 ms, and the rest is written back. */
	world_opener_in(o, 600 * SIM_MS);
	sim_thread_join(t);
	assert_int_equal(s.ret, -EAGAIN);
	/* Some by sync, the others by the break, none twice. */
	assert_int_equal(sim_written(), 8 * MIB);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_close(w);
}

/* The disk hangs: that must hold up nobody. */
static void disk_hangs(struct world *w, const struct pinlease_opts *o, const char *call)
{
	struct syncer s = { .ret = 1 };
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	s.lease = world_lease(w, 0, WORLD_SIZE, o);
	sim_slow(call, 60 * SIM_S);
	t = sim_thread_start(sync_once, &s);
	sim_sleep(SIM_MS);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	sim_thread_join(t);
	assert_int_equal(s.ret, 0);
	world_close(w);
}

static void test_disk_hangs(struct world *w)
{
	disk_hangs(w, &staged, "datasync");
	disk_hangs(w, NULL, "datasync");
	disk_hangs(w, NULL, "msync");
}

/* A writer with a slot a page: begin, write, tell, end; at any time the last seed that ended is known. */
struct traffic {
	struct pinlease *lease;
	_Atomic bool stop;
	_Atomic unsigned int ended[SLOTS];
	unsigned int refused;
};

static void *traffic_run(void *arg)
{
	struct traffic *t = arg;
	struct pinlease_view view = { .size = sizeof(view) };
	unsigned int seed = 0, slot;
	struct sim_dma dma;
	uint32_t gen;

	while (!atomic_load(&t->stop)) {
		slot = ++seed % SLOTS;
		if (pinlease_dma_begin(t->lease, 1, &gen)) {
			t->refused++;
			sim_sleep(SIM_MS);
			continue;
		}
		if (!pinlease_view_get(t->lease, 0, &view)) {
			sim_dma_write(&dma, view.rkey, view.iova + slot * SIM_PAGE, SIM_PAGE, 100 + seed,
				      (seed % 7) * 20000);
			pinlease_mark_dirty(t->lease, slot * SIM_PAGE, SIM_PAGE);
			if (sim_dma_wait(&dma) == SIM_DMA_LANDED)
				atomic_store(&t->ended[slot], 100 + seed);
		}
		pinlease_dma_end(t->lease, 1, gen);
		sim_sleep((seed % 5) * 10000);
	}
	return NULL;
}

/* Every slot holds the seed that had ended before, or a later one of the same slot. */
static void slots_hold(const char *path, const unsigned int *least)
{
	unsigned int slot, seed;
	char page[SIM_PAGE];
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	for (slot = 0; slot < SLOTS; slot++) {
		assert_int_equal(fread(page, 1, sizeof(page), f), sizeof(page));
		if (!least[slot])
			continue;
		for (seed = least[slot]; seed < least[slot] + 12 * SLOTS; seed += SLOTS)
			if (sim_filled(page, sizeof(page), seed))
				break;
		assert_in_range(seed, least[slot], least[slot] + 11 * SLOTS);
	}
	fclose(f);
}

static void sync_beside_traffic(struct world *w, const struct pinlease_opts *o)
{
	struct traffic t = { .refused = 0 };
	struct sim_thread *thread;
	unsigned int least[SLOTS], round, slot;

	world_open(w, PINLEASE_WRITE);
	t.lease = world_lease(w, 0, WORLD_SIZE, o);
	thread = sim_thread_start(traffic_run, &t);
	for (round = 0; round < 60; round++) {
		sim_sleep(SIM_MS + round * 7000);
		for (slot = 0; slot < SLOTS; slot++)
			least[slot] = atomic_load(&t.ended[slot]);
		if (round % 10 != 9)
			assert_int_equal(pinlease_sync(t.lease, 0, 0, 0), 0);
		else
			world_opener_in(sim_open(w->path, O_RDWR), SIM_S);
		/* A page being written while it is copied may be torn: looked at when it is quiet. */
		if (round % 10 == 9)
			slots_hold(w->path, least);
		world_reach(t.lease, PINLEASE_ACTIVE);
	}
	atomic_store(&t.stop, true);
	sim_thread_join(thread);
	for (slot = 0; slot < SLOTS; slot++)
		least[slot] = atomic_load(&t.ended[slot]);
	assert_int_equal(pinlease_sync(t.lease, 0, 0, 0), 0);
	slots_hold(w->path, least);
	assert_int_not_equal(t.refused, 0);
	world_close(w);
}

static void test_beside_traffic(struct world *w)
{
	sync_beside_traffic(w, &staged);
}

static void test_beside_traffic_told(struct world *w)
{
	sync_beside_traffic(w, &told);
}

/* What one sync has taken and not written yet, another one has to wait for: it is its data, too. */
static void test_beside_a_sync(struct world *w)
{
	struct syncer s = { .ret = 1 };
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	s.lease = world_lease(w, 0, SIM_PAGE, &told);
	world_write(s.lease, 0, SIM_PAGE, 47);
	assert_int_equal(pinlease_mark_dirty(s.lease, 0, SIM_PAGE), 0);
	sim_slow("pwrite", 100 * SIM_MS);
	t = sim_thread_start(sync_once, &s);
	sim_sleep(10 * SIM_MS);
	assert_int_equal(world_info(s.lease).dirty_bytes, 0);
	assert_false(sim_file_is(w->path, 0, SIM_PAGE, 47));
	assert_int_equal(pinlease_sync(s.lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 47));
	sim_thread_join(t);
	assert_int_equal(s.ret, 0);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_range),
		world_test(test_pinned),
		world_test(test_full_disk),
		world_test(test_datasync_fails),
		world_test(test_not_active),
		world_test(test_broken_in_the_middle),
		world_test(test_disk_hangs),
		world_test(test_beside_traffic),
		world_test(test_beside_traffic_told),
		world_test(test_beside_a_sync),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
