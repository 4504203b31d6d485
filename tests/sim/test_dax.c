/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs-dax and device-dax: every byte written since the last persist is covered when sync
 * answers 0 (sim_pmem.c keeps what a power cut would leave), in each mode; and what is left
 * to the page cache's way. What breaks a file on fs-dax is what breaks any file.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys.h"
#include "world.h"

static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED };
static const struct pinlease_opts odp = { .mode = PINLEASE_MODE_ODP };

/* A file or a device, with a device that does on-demand paging right. */
static void dax_open(struct world *w, enum sim_dax dax, uint32_t access)
{
	sim_file_system(SIM_EXT4);
	sim_dax(dax);
	world_open(w, access);
	w->pd = sim_device(SIM_ODP_GOOD);
}

/* What is written is not durable by itself: else nothing below could fail. */
static void write_undurable(struct world *w, struct pinlease *lease, uint64_t off, uint32_t len,
			    unsigned int seed)
{
	world_write(lease, off, len, seed);
	if (world_view(lease).mode != PINLEASE_MODE_STAGED)
		assert_false(sim_durable(w->path, off, len));
}

static void sync_covers(struct world *w, enum sim_dax dax, const struct pinlease_opts *o, uint32_t mode)
{
	struct pinlease *lease;

	dax_open(w, dax, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, o);
	assert_int_equal(world_view(lease).mode, mode);
	write_undurable(w, lease, 0, SIM_PAGE, 41);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 41));
	assert_true(sim_durable(w->path, 0, WORLD_SIZE));
	/* A piece in the middle of a page, and only that piece. */
	write_undurable(w, lease, 5 * SIM_PAGE + 100, 1000, 42);
	write_undurable(w, lease, 9 * SIM_PAGE, 64, 43);
	assert_int_equal(pinlease_sync(lease, 5 * SIM_PAGE + 100, 1000, 0), 0);
	assert_true(sim_file_is(w->path, 5 * SIM_PAGE + 100, 1000, 42));
	assert_true(sim_durable(w->path, 5 * SIM_PAGE + 100, 1000));
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_durable(w->path, 0, WORLD_SIZE));
	/* Without a page cache, nothing of its is called. */
	if (dax != SIM_DAX_PAGES)
		assert_int_equal(sim_calls("msync") + sim_calls("datasync") + sim_calls("pwrite"), 0);
	else
		assert_int_equal(sim_calls("pmem_persist") + sim_calls("pmem_copy"), 0);
	world_close(w);
}

static void test_file_odp(struct world *w)
{
	sync_covers(w, SIM_DAX_FILES, NULL, PINLEASE_MODE_ODP);
}

static void test_file_staged(struct world *w)
{
	sync_covers(w, SIM_DAX_FILES, &staged, PINLEASE_MODE_STAGED);
}

static void test_no_map_sync(struct world *w)
{
	sync_covers(w, SIM_DAX_PAGES, NULL, PINLEASE_MODE_ODP);
	sync_covers(w, SIM_DAX_PAGES, &staged, PINLEASE_MODE_STAGED);
}

static void test_device(struct world *w)
{
	sync_covers(w, SIM_DAX_DEVICE, NULL, PINLEASE_MODE_PINNED);
	assert_int_equal(sim_calls("pmem_deep_flush"), 3);
	sync_covers(w, SIM_DAX_DEVICE, &staged, PINLEASE_MODE_STAGED);
	sync_covers(w, SIM_DAX_DEVICE, &odp, PINLEASE_MODE_ODP);
}

/* Where a flush beyond persist fails the answer is not 0, and a retry makes it good. */
static void test_deep_flush_fails(struct world *w)
{
	struct pinlease *lease;

	dax_open(w, SIM_DAX_DEVICE, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_DAX_ALIGN, &staged);
	world_write(lease, 0, SIM_PAGE, 44);
	sim_fail("pmem_deep_flush", 1, -EIO, 1);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -EIO);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_durable(w->path, 0, SIM_PAGE));
	world_close(w);
}

/* The guard is static, nothing breaks; offsets are multiples of the alignment, lengths are not. */
static void test_device_guard(struct world *w)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .guard = PINLEASE_GUARD_LEASE };
	struct pinlease_why why = { .reason = 0 };
	struct pinlease_file *file;
	struct pinlease *lease;

	dax_open(w, SIM_DAX_DEVICE, PINLEASE_WRITE);
	assert_int_equal(sim_calls("set_lease") + sim_calls("anchor_new"), 0);
	assert_int_equal(pinlease_file_open(w->ctx, w->path, &fo, &why, &file), -EOPNOTSUPP);
	assert_int_equal(why.reason, PINLEASE_WHY_NO_LEASES);
	fo.guard = PINLEASE_GUARD_SEAL;
	assert_int_equal(pinlease_file_open(w->ctx, w->path, &fo, &why, &file), -EOPNOTSUPP);
	assert_int_equal(why.reason, PINLEASE_WHY_NO_SEALS);
	assert_int_equal(world_acquire(w, SIM_PAGE, SIM_PAGE, NULL, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_ALIGNMENT);
	assert_int_equal(world_acquire(w, SIM_DAX_ALIGN, WORLD_SIZE, NULL, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_RANGE);
	lease = world_lease(w, SIM_DAX_ALIGN, 100, NULL);
	assert_int_equal(world_view(lease).guard, PINLEASE_GUARD_STATIC);
	assert_int_equal(world_view(lease).len, 100);
	world_write(lease, 0, 100, 45);
	assert_int_equal(pinlease_file_truncate(w->file, 0), -EINVAL);
	assert_int_equal(pinlease_file_allocate(w->file, 0, 0, SIM_PAGE), -ENODEV);
	assert_int_equal(world_state(lease), PINLEASE_ACTIVE);
	assert_true(sim_file_is(w->path, SIM_DAX_ALIGN, 100, 45));
	world_no_event(w);
	world_close(w);
}

static void test_static_elsewhere(struct world *w)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .guard = PINLEASE_GUARD_STATIC };
	struct pinlease_why why = { .reason = 0 };
	struct pinlease_file *file;

	dax_open(w, SIM_DAX_FILES, PINLEASE_WRITE);
	assert_int_equal(pinlease_file_open(w->ctx, w->path, &fo, &why, &file), -EOPNOTSUPP);
	assert_int_equal(why.reason, PINLEASE_WHY_NOT_STATIC);
	assert_int_equal(why.stage, PINLEASE_AT_GUARD);
	assert_int_equal(why.guard, PINLEASE_GUARD_STATIC);
	world_close(w);
}

/* What nobody writes needs no persist; a device is read through its mapping. */
static void read_only(struct world *w, enum sim_dax dax, uint32_t mode)
{
	struct pinlease_opts o = { .mode = mode };
	struct pinlease *lease;
	char page[SIM_PAGE];

	dax_open(w, dax, PINLEASE_READ);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	sim_fill(page, sizeof(page), 1);
	assert_memory_equal(world_view(lease).addr, page, sizeof(page));
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_int_equal(sim_calls("pmem_persist") + sim_calls("datasync"), 0);
	world_close(w);
}

static void test_read_only(struct world *w)
{
	read_only(w, SIM_DAX_FILES, PINLEASE_MODE_ODP);
	read_only(w, SIM_DAX_FILES, PINLEASE_MODE_STAGED);
	read_only(w, SIM_DAX_DEVICE, PINLEASE_MODE_PINNED);
	read_only(w, SIM_DAX_DEVICE, PINLEASE_MODE_STAGED);
}

/* A break writes staged memory back by libpmem2; the mapping is right again when the file is whole again. */
static void test_break_and_restore(struct world *w)
{
	struct pinlease *lease;

	dax_open(w, SIM_DAX_FILES, PINLEASE_WRITE);
	lease = world_lease(w, 4 * SIM_PAGE, 12 * SIM_PAGE, &staged);
	world_write(lease, SIM_PAGE, SIM_PAGE, 46);
	world_opener_in(sim_truncate(w->path, 8 * SIM_PAGE), SIM_S);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_true(sim_file_is(w->path, 5 * SIM_PAGE, SIM_PAGE, 46));
	assert_true(sim_durable(w->path, 4 * SIM_PAGE, 4 * SIM_PAGE));
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).len, 4 * SIM_PAGE);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_S);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).len, 12 * SIM_PAGE);
	world_write(lease, 11 * SIM_PAGE, SIM_PAGE, 47);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, 15 * SIM_PAGE, SIM_PAGE, 47));
	assert_true(sim_durable(w->path, 0, WORLD_SIZE));
	assert_int_equal(sim_calls("pwrite"), 0);
	world_close(w);
}

/* The guard has expired unnoticed and the file was cut: the copy would be SIGBUS. */
static void test_cut_file(struct world *w)
{
	struct pinlease *lease;

	dax_open(w, SIM_DAX_FILES, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &staged);
	world_write(lease, 8 * SIM_PAGE, SIM_PAGE, 48);
	assert_int_equal(truncate(w->path, 4 * SIM_PAGE), 0);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), -ENODATA);
	assert_int_equal(truncate(w->path, WORLD_SIZE), 0);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, 8 * SIM_PAGE, SIM_PAGE, 48));
	world_close(w);
}

/* The application's mapping stays its own; ours beside it makes durable what is written through it. */
static void own_mapping(struct world *w, enum sim_dax dax, uint32_t mode)
{
	struct pinlease_opts o = { .mode = mode };
	struct pinlease *lease;
	int fd;

	dax_open(w, dax, PINLEASE_WRITE);
	assert_int_equal(pinlease_file_close(w->file), 0);
	fd = pl_sys_open(w->path, O_RDWR);
	assert_int_equal(pl_sys_map(NULL, WORLD_SIZE, PROT_READ | PROT_WRITE, fd, 0, &o.addr), 0);
	assert_int_equal(pinlease_file_attach(w->ctx, fd, NULL, NULL, &w->file), 0);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	assert_ptr_equal(world_view(lease).addr, o.addr);
	write_undurable(w, lease, SIM_PAGE, SIM_PAGE, 49);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_file_is(w->path, SIM_PAGE, SIM_PAGE, 49));
	assert_true(sim_durable(w->path, 0, WORLD_SIZE));
	world_close(w);
	assert_int_equal(sim_calls("map_sync"), mode == PINLEASE_MODE_STAGED);
	assert_true(sim_filled((char *)o.addr + SIM_PAGE, SIM_PAGE, 49));
	pl_sys_unmap(o.addr, WORLD_SIZE);
	pl_sys_close(fd);
}

static void test_own_mapping(struct world *w)
{
	own_mapping(w, SIM_DAX_FILES, PINLEASE_MODE_ODP);
	own_mapping(w, SIM_DAX_FILES, PINLEASE_MODE_STAGED);
}

/* Every allocation of an acquire fails once; nothing is left behind (sim_end), and then it works. */
static void out_of_memory(struct world *w, enum sim_dax dax, const struct pinlease_opts *o)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;
	unsigned int n, failed = 0;
	int r = -ENOMEM;

	dax_open(w, dax, PINLEASE_WRITE);
	for (n = 1; r; n++) {
		sim_fail_class(SIM_MEMORY, n, -ENOMEM, 1);
		r = world_acquire(w, 0, WORLD_SIZE, o, &why, &lease);
		sim_clear();
		failed += r != 0;
		assert_true(!r || r == -ENOMEM);
		assert_in_range(n, 1, 50);
	}
	assert_true(failed >= 3);
	world_write(lease, 0, SIM_PAGE, 50);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_true(sim_durable(w->path, 0, WORLD_SIZE));
	world_close(w);
}

static void test_out_of_memory(struct world *w)
{
	out_of_memory(w, SIM_DAX_FILES, &staged);
	out_of_memory(w, SIM_DAX_FILES, &odp);
	out_of_memory(w, SIM_DAX_DEVICE, &staged);
	out_of_memory(w, SIM_DAX_DEVICE, NULL);
}

/* Staged memory is copied to pages that acquire has faulted in: a full disk is its error, and no SIGBUS. */
static void test_faulted_in(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;
	unsigned int n;

	dax_open(w, SIM_DAX_FILES, PINLEASE_WRITE);
	for (n = 1; n < 10 && why.stage != PINLEASE_AT_ALLOCATE; n++) {
		sim_fail("advise", n, -EHWPOISON, 1);
		world_acquire(w, n * SIM_PAGE, SIM_PAGE, &staged, &why, &lease);
		sim_clear();
	}
	assert_int_equal(why.stage, PINLEASE_AT_ALLOCATE);
	assert_int_equal(why.reason, PINLEASE_WHY_IO);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_file_odp),	   world_test(test_file_staged),
		world_test(test_no_map_sync),	   world_test(test_device),
		world_test(test_deep_flush_fails), world_test(test_device_guard),
		world_test(test_static_elsewhere), world_test(test_read_only),
		world_test(test_break_and_restore), world_test(test_cut_file),
		world_test(test_own_mapping),
		world_test(test_out_of_memory),
		world_test(test_faulted_in),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
