/* SPDX-License-Identifier: BSD-3-Clause */
/* I4 for staged memory: what was written is in the file when the opener goes on, or an event says it is not.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys.h"
#include "world.h"

#define SHORT_NS SIM_MS
#define MIB	 (1u << 20)

static const struct pinlease_opts manual = { .mode = PINLEASE_MODE_STAGED, .flags = PINLEASE_L_MANUAL };
static const struct pinlease_opts told = { .mode = PINLEASE_MODE_STAGED,
					   .flags = PINLEASE_L_MANUAL | PINLEASE_L_DIRTY_TOLD };

static void test_auto_on_a_disk_file_system(struct world *w)
{
	struct pinlease_lease_info info;
	struct pinlease *lease;

	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, SIM_PAGE, 4 * SIM_PAGE, NULL);
	info = world_info(lease);
	assert_int_equal(info.mode, PINLEASE_MODE_STAGED);
	assert_int_equal(info.mode_reason, PINLEASE_WHY_DIRTY_TRACKED);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	world_write(lease, SIM_PAGE, SIM_PAGE, 11);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_true(sim_file_is(w->path, 2 * SIM_PAGE, SIM_PAGE, 11));
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_event(w, PINLEASE_EV_RESTORED);
	world_close(w);
}

/* What completed before the fence is in the file, and what was cut off is not, in one piece of memory. */
static void test_writes_in_flight(struct world *w)
{
	struct sim_dma early, late;
	struct pinlease_view view;
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	view = world_view(lease);
	assert_true(sim_filled(view.addr, WORLD_SIZE, 1));
	gen = world_begin(lease, 1);
	sim_dma_write(&early, view.rkey, view.iova, SIM_PAGE, 12, 50 * SIM_MS);
	sim_dma_write(&late, view.rkey, view.iova + SIM_PAGE, SIM_PAGE, 13, SIM_S);
	o = sim_open(w->path, O_RDWR);
	assert_int_equal(sim_dma_wait(&early), SIM_DMA_LANDED);
	sim_sleep(50 * SIM_MS);
	assert_false(sim_opener_done(o));
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 1));
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(o, 101 * SIM_MS);
	assert_int_equal(sim_dma_state(&late), SIM_DMA_CUT);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 12));
	assert_false(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 13));
	world_close(w);
}

/* Not before the fence: what lands while dereg is refused belongs in the file, too. */
static void test_written_after_the_fence(struct world *w)
{
	struct pinlease_view view;
	struct sim_dma dma;

	world_open(w, PINLEASE_WRITE);
	view = world_view(world_lease(w, 0, WORLD_SIZE, &manual));
	sim_fail("dereg_mr", 1, -EBUSY, 4);
	sim_dma_write(&dma, view.rkey, view.iova, SIM_PAGE, 14, 4 * SIM_MS);
	world_opener_in(sim_open(w->path, O_RDWR), 50 * SIM_MS);
	assert_int_equal(sim_dma_state(&dma), SIM_DMA_LANDED);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 14));
	world_close(w);
}

static void test_nothing_written_nothing_to_write(struct world *w)
{
	const struct pinlease_opts o = { .mode = PINLEASE_MODE_STAGED,
					 .flags = PINLEASE_L_MANUAL,
					 .ibv_access = IBV_ACCESS_LOCAL_WRITE };

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, &o);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_int_equal(sim_calls("pwrite"), 0);
	/* Counted operations may have written, though nobody far away can. */
	assert_int_equal(pinlease_restore(w->lease[0], NULL), 0);
	pinlease_dma_end(w->lease[0], 1, world_begin(w->lease[0], 1));
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_int_equal(sim_calls("pwrite"), 1);
	world_close(w);
}

static void lose_to_a_full_disk(struct world *w, struct pinlease *lease)
{
	struct pinlease_event ev;

	world_write(lease, 0, 3 * SIM_PAGE, 15);
	sim_fail("pwrite", 1, -ENOSPC, 0);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	sim_clear();
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(ev.err, -ENOSPC);
	assert_int_equal(ev.lost_bytes, 4 * SIM_PAGE);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
}

static void save_to(struct pinlease *lease, const char *path, int want)
{
	int fd = open(path, O_RDWR);

	assert_int_equal(pinlease_save(lease, fd), want);
	close(fd);
}

static void test_full_disk_then_save_and_restore(struct world *w)
{
	const char *other = sim_file("other", 0);
	struct pinlease *lease;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 4 * SIM_PAGE, 4 * SIM_PAGE, &told);
	assert_int_equal(pinlease_mark_dirty(lease, 0, 4 * SIM_PAGE), 0);
	lose_to_a_full_disk(w, lease);
	/* A restore that does not get the guard keeps what there is to save. */
	o = sim_open(w->path, O_RDONLY);
	assert_int_equal(pinlease_restore(lease, NULL), -EAGAIN);
	sim_opener_end(o);
	save_to(lease, other, 0);
	assert_true(sim_file_is(other, 4 * SIM_PAGE, 3 * SIM_PAGE, 15));
	save_to(lease, other, 0);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	save_to(lease, other, -EAGAIN);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).gen, 2);
	/* The file is the truth again. */
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	world_close(w);
}

static void test_full_disk_then_release(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	lose_to_a_full_disk(w, lease);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	world_close(w);
}

/* release itself finds the disk full: it says so, the lease stays, and the second one drops the data. */
static void test_release_to_a_full_disk(struct world *w)
{
	const char *other = sim_file("other", 0);
	struct pinlease_event ev;
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	world_write(lease, 0, 4 * SIM_PAGE, 16);
	sim_fail("pwrite", 1, -EDQUOT, 1);
	assert_int_equal(pinlease_release(lease), -EDQUOT);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(ev.lost_bytes, 4 * SIM_PAGE);
	save_to(lease, other, 0);
	assert_true(sim_file_is(other, 0, 4 * SIM_PAGE, 16));
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	world_close(w);
}

static void test_release_writes_back(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	world_write(lease, 0, 4 * SIM_PAGE, 17);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	assert_true(sim_file_is(w->path, 0, 4 * SIM_PAGE, 17));
	world_close(w);
}

/* A disk so slow that the kernel would not wait: writeback ends in time, the opener gets in, the rest is
 * kept. */
static void test_writeback_stops_before_the_limit(struct world *w)
{
	const char *other = sim_file("other", 0);
	struct pinlease_event ev;
	struct pinlease *lease;
	struct sim_opener *o;
	unsigned int calls;
	uint64_t before;

	sim_break_time(3);
	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, 8 * MIB), 0);
	lease = world_lease(w, 0, 8 * MIB, &manual);
	before = sim_written();
	calls = sim_calls("pwrite");
	sim_disk(MIB * 10 / 7, 0);
	o = sim_open(w->path, O_RDWR);
	assert_true(sim_opener_wait(o, 10 * SIM_S));
	sim_opener_end(o);
	sim_disk(0, 0);
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(ev.err, -ETIME);
	assert_in_range(ev.lost_bytes, 3 * MIB, 6 * MIB);
	assert_int_equal(sim_written() - before, 8 * MIB - ev.lost_bytes);
	/* No piece after the first takes longer than 50 ms. */
	assert_in_range(sim_calls("pwrite") - calls, (sim_written() - before - MIB) / 70000, 1000);
	assert_int_equal(ev.off + ev.len, 8 * MIB);
	assert_int_equal(ev.len, ev.lost_bytes);
	save_to(lease, other, 0);
	assert_int_equal(sim_file_size(other), 8 * MIB);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	world_close(w);
}

static void test_short_writes_and_reads(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	sim_fail("pread", 1, 1000, 3);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &manual);
	assert_true(sim_filled(world_view(lease).addr, 4 * SIM_PAGE, 1));
	world_write(lease, 0, 4 * SIM_PAGE, 19);
	sim_fail("pwrite", 1, 777, 5);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_true(sim_file_is(w->path, 0, 4 * SIM_PAGE, 19));
	assert_int_equal(sim_faults(), 8);
	world_close(w);
}

/* The range ends where the file ends, in the middle of a page: the file must not grow. */
static void test_end_in_the_middle_of_a_page(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, 3 * SIM_PAGE + 100), 0);
	lease = world_lease(w, SIM_PAGE, 2 * SIM_PAGE + 100, &manual);
	world_write(lease, 0, 2 * SIM_PAGE + 100, 20);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_true(sim_file_is(w->path, SIM_PAGE, 2 * SIM_PAGE + 100, 20));
	assert_int_equal(sim_file_size(w->path), 3 * SIM_PAGE + 100);
	world_close(w);
}

static void test_told(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 8 * SIM_PAGE, &told);
	world_write(lease, 0, 8 * SIM_PAGE, 21);
	assert_int_equal(pinlease_mark_dirty(lease, 8 * SIM_PAGE, 1), -ERANGE);
	assert_int_equal(pinlease_mark_dirty(lease, SIM_PAGE, UINT64_MAX), -ERANGE);
	assert_int_equal(pinlease_mark_dirty(lease, 2 * SIM_PAGE, SIM_PAGE), 0);
	assert_int_equal(world_info(lease).dirty_bytes, SIM_PAGE);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_true(sim_file_is(w->path, 0, 2 * SIM_PAGE, 1));
	assert_false(sim_file_is(w->path, 0, 3 * SIM_PAGE, 1));
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_info(lease).dirty_bytes, 0);
	/* The restored memory is the file's contents: what was not told is gone. */
	assert_true(sim_filled(world_view(lease).addr, 2 * SIM_PAGE, 1));
	world_close(w);
}

static void test_fill_none(struct world *w)
{
	const struct pinlease_opts o = { .mode = PINLEASE_MODE_STAGED,
					 .flags = PINLEASE_L_FILL_NONE | PINLEASE_L_DIRTY_TOLD };
	const char zero[SIM_PAGE] = { 0 };
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 8 * SIM_PAGE, &o);
	assert_int_equal(sim_calls("pread"), 0);
	assert_memory_equal(world_view(lease).addr, zero, SIM_PAGE);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	/* Restored: from the file. */
	world_reach(lease, PINLEASE_ACTIVE);
	assert_true(sim_filled(world_view(lease).addr, 8 * SIM_PAGE, 1));
	world_close(w);
}

/* Whole pages only: what is around a part of one would be written as zeros. */
static void test_fill_none_told(struct world *w)
{
	const struct pinlease_opts o = { .mode = PINLEASE_MODE_STAGED,
					 .flags = PINLEASE_L_FILL_NONE | PINLEASE_L_DIRTY_TOLD |
						  PINLEASE_L_MANUAL };
	struct pinlease *lease;
	const uint64_t tail = 319 * SIM_PAGE;
	static char data[WORLD_SIZE];
	char was[3 * SIM_PAGE];
	FILE *f;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, (off_t)tail + 100), 0);
	lease = world_lease(w, 0, tail + 100, &o);
	assert_int_equal(pinlease_mark_dirty(lease, 1, SIM_PAGE - 1), -ERANGE);
	assert_int_equal(pinlease_mark_dirty(lease, 0, SIM_PAGE + 1), -ERANGE);
	world_write(lease, 2 * SIM_PAGE, SIM_PAGE, 23);
	assert_int_equal(pinlease_mark_dirty(lease, 2 * SIM_PAGE, SIM_PAGE), 0);
	world_write(lease, tail, 100, 24);
	assert_int_equal(pinlease_mark_dirty(lease, tail, 100), 0);
	/* A failed fdatasync makes more than was told dirty, but never what nobody has filled. */
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -EIO);
	assert_int_equal(world_info(lease).dirty_bytes, SIM_PAGE + 100);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_true(sim_file_is(w->path, 0, 2 * SIM_PAGE, 1));
	assert_true(sim_file_is(w->path, 2 * SIM_PAGE, SIM_PAGE, 23));
	assert_true(sim_file_is(w->path, tail, 100, 24));
	f = fopen(w->path, "r");
	assert_int_equal(fread(was, 1, sizeof(was), f), sizeof(was));
	assert_int_equal(fread(was, 1, sizeof(was), f), sizeof(was));
	fclose(f);
	sim_fill(data, WORLD_SIZE, 1);
	assert_memory_equal(was, data + 3 * SIM_PAGE, sizeof(was));
	world_close(w);
}

static void o_writes(const char *path)
{
	struct sim_opener *o = sim_open(path, O_RDWR);
	char page[SIM_PAGE];
	int fd = open(path, O_WRONLY);

	assert_true(sim_opener_wait(o, SIM_S));
	sim_fill(page, sizeof(page), 25);
	assert_int_equal(pwrite(fd, page, sizeof(page), 0), sizeof(page));
	close(fd);
	sim_opener_end(o);
}

static void test_read_only(struct world *w)
{
	const struct pinlease_opts o = { .mode = PINLEASE_MODE_STAGED, .access = PINLEASE_READ };
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE / 2), SHORT_NS);
	assert_int_equal(sim_calls("pwrite"), 0);
	world_reach(lease, PINLEASE_ACTIVE);
	assert_true(sim_filled(world_view(lease).addr, WORLD_SIZE / 2, 1));
	/* What another process has written since, it shows. */
	o_writes(w->path);
	world_reach(lease, PINLEASE_ACTIVE);
	assert_true(sim_filled(world_view(lease).addr, SIM_PAGE, 25));
	assert_int_equal(sim_calls("pwrite"), 0);
	world_close(w);
}

/* The application's own mapping: staged memory takes its place, and the file comes back to it. */
static void test_in_place_of_a_mapping(struct world *w)
{
	struct pinlease_opts o = manual;
	struct pinlease *lease;
	int fd;

	world_open(w, PINLEASE_WRITE);
	fd = pl_sys_dup(sim_lease_fd(w->path));
	assert_int_equal(pl_sys_map(NULL, WORLD_SIZE, PROT_READ | PROT_WRITE, fd, 0, &o.addr), 0);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	assert_ptr_equal(world_view(lease).addr, o.addr);
	world_write(lease, 0, SIM_PAGE, 22);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 1));
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	assert_true(sim_filled(o.addr, SIM_PAGE, 22));
	memset(o.addr, 0, 1);
	assert_false(sim_file_is(w->path, 0, SIM_PAGE, 22));
	pl_sys_unmap(o.addr, WORLD_SIZE);
	pl_sys_close(fd);
	world_close(w);
}

static void test_overlap(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, 4 * SIM_PAGE, &manual);
	assert_int_equal(world_acquire(w, 3 * SIM_PAGE, SIM_PAGE, NULL, &why, &lease), -EEXIST);
	assert_int_equal(why.reason, PINLEASE_WHY_OVERLAP);
	assert_null(lease);
	world_lease(w, 4 * SIM_PAGE, SIM_PAGE, NULL);
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, &manual, &why, &lease), -EEXIST);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_auto_on_a_disk_file_system),
		world_test(test_writes_in_flight),
		world_test(test_written_after_the_fence),
		world_test(test_nothing_written_nothing_to_write),
		world_test(test_full_disk_then_save_and_restore),
		world_test(test_full_disk_then_release),
		world_test(test_release_to_a_full_disk),
		world_test(test_release_writes_back),
		world_test(test_writeback_stops_before_the_limit),
		world_test(test_short_writes_and_reads),
		world_test(test_end_in_the_middle_of_a_page),
		world_test(test_told),
		world_test(test_fill_none),
		world_test(test_fill_none_told),
		world_test(test_read_only),
		world_test(test_in_place_of_a_mapping),
		world_test(test_overlap),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
