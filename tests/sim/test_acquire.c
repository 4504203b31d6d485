/* SPDX-License-Identifier: BSD-3-Clause */
/* Files and leases coming into being: which mode and why, who is in the way, and what cannot be undone. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <pinlease/backend.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"
#include "world.h"

static const struct pinlease_opts automatic = { .flags = 0 };

/* One line of pinlease_modes(7). */
static void chooses(struct world *w, uint32_t fs, enum sim_odp odp, uint32_t access, uint32_t mode,
		    uint32_t reason)
{
	struct pinlease_lease_info info;

	sim_file_system(fs);
	world_open(w, access);
	w->pd = sim_device(odp);
	info = world_info(world_lease(w, 0, WORLD_SIZE, &automatic));
	assert_int_equal(info.mode, mode);
	assert_int_equal(info.mode_reason, reason);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	world_reach(w->lease[0], PINLEASE_ACTIVE);
	assert_int_equal(world_info(w->lease[0]).mode, mode);
	world_close(w);
}

static void test_choice(struct world *w)
{
	chooses(w, SIM_TMPFS, SIM_ODP_NONE, PINLEASE_WRITE, PINLEASE_MODE_PINNED, PINLEASE_WHY_BEST);
	chooses(w, SIM_TMPFS, SIM_ODP_GOOD, PINLEASE_WRITE, PINLEASE_MODE_PINNED, PINLEASE_WHY_BEST);
	chooses(w, SIM_EXT4, SIM_ODP_NONE, PINLEASE_READ, PINLEASE_MODE_PINNED, PINLEASE_WHY_BEST);
	chooses(w, SIM_EXT4, SIM_ODP_GOOD, PINLEASE_WRITE, PINLEASE_MODE_ODP, PINLEASE_WHY_DIRTY_TRACKED);
	chooses(w, SIM_EXT4, SIM_ODP_NONE, PINLEASE_WRITE, PINLEASE_MODE_STAGED, PINLEASE_WHY_DIRTY_TRACKED);
	chooses(w, SIM_EXT4, SIM_ODP_UNALIGNED, PINLEASE_WRITE, PINLEASE_MODE_STAGED,
		PINLEASE_WHY_DATA_CHECK);
}

/* A kernel that refuses a read-only pin, as all before 6.5: staged, since there is nothing better. */
static void test_read_pin_refused(struct world *w)
{
	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_READ);
	sim_fail("reg_mr", 1, -EFAULT, 1);
	world_lease(w, 0, WORLD_SIZE, &automatic);
	assert_int_equal(world_info(w->lease[0]).mode, PINLEASE_MODE_STAGED);
	assert_int_equal(world_info(w->lease[0]).mode_reason, PINLEASE_WHY_PIN_REFUSED);
	world_close(w);
}

static void refused(struct world *w, const struct pinlease_opts *o, int err, uint32_t stage, uint32_t reason,
		    int sys_errno)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;

	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, o, &why, &lease), err);
	assert_null(lease);
	assert_int_equal(why.stage, stage);
	assert_int_equal(why.reason, reason);
	assert_int_equal(why.sys_errno, sys_errno);
	assert_int_equal(sim_lease(w->path), F_WRLCK);
}

static void test_refused(struct world *w)
{
	const struct pinlease_opts pinned = { .mode = PINLEASE_MODE_PINNED },
				   odp = { .mode = PINLEASE_MODE_ODP };

	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_WRITE);
	refused(w, &pinned, -EOPNOTSUPP, PINLEASE_AT_CHECK, PINLEASE_WHY_DIRTY_TRACKED, 0);
	refused(w, &odp, -EOPNOTSUPP, PINLEASE_AT_CHECK, PINLEASE_WHY_NO_ODP, 0);
	sim_fail("allocate", 1, -ENOSPC, 1);
	refused(w, &automatic, -ENOSPC, PINLEASE_AT_ALLOCATE, PINLEASE_WHY_NO_SPACE, ENOSPC);
	sim_fail("pread", 1, -EIO, 1);
	refused(w, &automatic, -EIO, PINLEASE_AT_FILL, PINLEASE_WHY_IO, EIO);
	sim_fail("reg_mr", 1, -ENOMEM, 2);
	sim_memlock(65536);
	refused(w, &automatic, -ENOMEM, PINLEASE_AT_REGISTER, PINLEASE_WHY_MEMLOCK, ENOMEM);
	sim_memlock(UINT64_MAX);
	refused(w, &automatic, -ENOMEM, PINLEASE_AT_REGISTER, PINLEASE_WHY_MEMORY, ENOMEM);
	world_close(w);
}

/*
 * Memory is short while the device is checked. That says nothing about the device: an
 * error with its reason, and not another mode, which would stay for the lease's life.
 */
static void test_no_memory_for_the_check(struct world *w)
{
	static const char *const calls[] = { "create_cq", "create_qp", "reg_mr" };
	const struct pinlease_opts odp = { .mode = PINLEASE_MODE_ODP };
	unsigned int i;

	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_WRITE);
	w->pd = sim_device(SIM_ODP_GOOD);
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		sim_fail(calls[i], 1, -ENOMEM, 1);
		refused(w, &automatic, -ENOMEM, PINLEASE_AT_CHECK, PINLEASE_WHY_MEMORY, 0);
	}
	sim_memlock(65536);
	sim_fail("reg_mr", 1, -ENOMEM, 1);
	refused(w, &odp, -ENOMEM, PINLEASE_AT_CHECK, PINLEASE_WHY_MEMLOCK, 0);
	sim_memlock(UINT64_MAX);
	assert_int_equal(world_info(world_lease(w, 0, WORLD_SIZE, &automatic)).mode, PINLEASE_MODE_ODP);
	world_close(w);
}

/* No port is active, so the check comes to no result: staged for now, and checked again the next time. */
static void test_check_without_result(struct world *w)
{
	struct pinlease *lease;

	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_WRITE);
	w->pd = sim_device(SIM_ODP_GOOD);
	sim_fail("query_port", 1, -ENETDOWN, 1);
	lease = world_lease(w, 0, WORLD_SIZE, &automatic);
	assert_int_equal(world_info(lease).mode, PINLEASE_MODE_STAGED);
	assert_int_equal(world_info(lease).mode_reason, PINLEASE_WHY_DATA_CHECK);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	assert_int_equal(world_info(world_lease(w, 0, WORLD_SIZE, &automatic)).mode, PINLEASE_MODE_ODP);
	world_close(w);
}

/* A hole under a read lease: an O_DIRECT write into it would go unseen. */
static void test_hole(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease;
	struct pinlease_opts o = { .access = PINLEASE_READ };

	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_WRITE);
	sim_hole(true);
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, &o, &why, &lease), -ENODATA);
	assert_int_equal(why.reason, PINLEASE_WHY_HOLE);
	o.flags = PINLEASE_L_HOLE_FILL;
	world_lease(w, 0, WORLD_SIZE, &o);
	world_close(w);
}

static void in_the_way(struct world *w, uint32_t reason, pid_t pid)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease_file *file = NULL;

	assert_int_equal(pinlease_file_open(w->ctx, w->path, NULL, &why, &file), -EAGAIN);
	assert_null(file);
	assert_int_equal(why.stage, PINLEASE_AT_GUARD);
	assert_int_equal(why.reason, reason);
	assert_int_equal(why.pid, pid);
	assert_int_equal(why.guard, PINLEASE_GUARD_LEASE);
}

static void test_who_is_in_the_way(struct world *w)
{
	struct sim_opener *o;
	void *addr;
	int fd;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(pinlease_file_close(w->file), 0);
	o = sim_open(w->path, O_RDONLY);
	in_the_way(w, PINLEASE_WHY_OPENER, sim_opener_pid(o));
	sim_opener_end(o);
	fd = pl_sys_open(w->path, O_RDONLY);
	in_the_way(w, PINLEASE_WHY_OWN_FD, 0);
	assert_int_equal(pl_sys_map(NULL, SIM_PAGE, PROT_READ, fd, 0, &addr), 0);
	pl_sys_close(fd);
	in_the_way(w, PINLEASE_WHY_OWN_MAPPING, 0);
	pl_sys_unmap(addr, SIM_PAGE);
	assert_int_equal(pinlease_file_open(w->ctx, w->path, NULL, NULL, &w->file), 0);
	world_close(w);
}

/* The description carries a lease already, ours or the application's: never stolen. */
static void test_leased_already(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease_file *file = NULL;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(pinlease_file_attach(w->ctx, sim_lease_fd(w->path), NULL, &why, &file), -EBUSY);
	assert_int_equal(why.reason, PINLEASE_WHY_LEASED);
	assert_int_equal(sim_lease(w->path), F_WRLCK);
	world_close(w);
}

/* Attached: the description lives on in the application, and must be without a lease then. */
static void test_attach_and_close(struct world *w)
{
	struct pinlease_file *file;
	int fd;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(pinlease_file_close(w->file), 0);
	fd = pl_sys_open(w->path, O_RDWR);
	assert_int_equal(pinlease_file_attach(w->ctx, fd, NULL, NULL, &file), 0);
	assert_int_equal(pl_sys_get_lease(fd), F_WRLCK);
	w->file = file;
	world_lease(w, 0, SIM_PAGE, NULL);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SIM_MS);
	world_reach(w->lease[0], PINLEASE_ACTIVE);
	assert_int_equal(pinlease_release(w->lease[0]), 0);
	w->leases = 0;
	assert_int_equal(pinlease_file_close(file), 0);
	assert_int_equal(pl_sys_get_lease(fd), F_UNLCK);
	pl_sys_close(fd);
	w->file = NULL;
	world_close(w);
}

static struct sim_opener *comer;

static void come(void *arg)
{
	comer = sim_truncate(arg, WORLD_SIZE);
	sim_sleep(SIM_MS);
}

/* Broken in the middle, and the provider will not take back what it has just registered. */
static void acquire_that_cannot_be_undone(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;

	world_open(w, PINLEASE_WRITE);
	sim_hook("reg_mr", 1, come, (void *)(uintptr_t)w->path);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, NULL, &why, &lease), -EAGAIN);
	assert_int_equal(why.reason, PINLEASE_WHY_BROKEN);
	assert_null(lease);
	sim_sleep(SIM_S);
	/* It may be reached: the guard is kept. */
	assert_int_equal(sim_mrs(), 1);
	assert_false(sim_opener_done(comer));
	assert_int_equal(pinlease_file_close(w->file), -EBUSY);
}

static void test_acquire_undone_later(struct world *w)
{
	acquire_that_cannot_be_undone(w);
	sim_clear();
	world_opener_in(comer, 2 * SIM_S);
	assert_int_equal(sim_mrs(), 0);
	world_no_event(w);
	world_lease(w, 0, WORLD_SIZE, NULL);
	world_close(w);
}

static void test_acquire_undone_after_expiry(struct world *w)
{
	acquire_that_cannot_be_undone(w);
	assert_true(sim_opener_wait(comer, 60 * SIM_S));
	assert_true(sim_opener_expired(comer));
	sim_opener_end(comer);
	sim_clear();
	sim_sleep(SIM_S);
	world_lease(w, 0, WORLD_SIZE, NULL);
	world_opener_in(sim_truncate(w->path, 0), SIM_MS);
	world_close(w);
}

static bool child_has(void *addr)
{
	unsigned char present;
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(!mincore(addr, SIM_PAGE, &present));
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* opts.addr: the mapping is used where it is, must be of this very range, and no child has it meanwhile. */
static void test_mapping_of_the_application(struct world *w)
{
	struct pinlease_opts o = { .mode = PINLEASE_MODE_PINNED };
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease;
	int fd;

	world_open(w, PINLEASE_WRITE);
	fd = pl_sys_dup(sim_lease_fd(w->path));
	assert_int_equal(pl_sys_map(NULL, WORLD_SIZE, PROT_READ | PROT_WRITE, fd, 0, &o.addr), 0);
	pl_sys_close(fd);
	sim_fail("advise", 1, -ENOMEM, 1);
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, &o, &why, &lease), -ENOMEM);
	assert_int_equal(why.stage, PINLEASE_AT_MAP);
	assert_true(child_has(o.addr));
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	assert_ptr_equal(world_view(lease).addr, o.addr);
	assert_false(child_has(o.addr));
	world_write(lease, SIM_PAGE, SIM_PAGE, 71);
	assert_int_equal(pinlease_release(lease), 0);
	w->leases = 0;
	assert_true(child_has(o.addr));
	assert_true(sim_filled((char *)o.addr + SIM_PAGE, SIM_PAGE, 71));
	/* Another part of the file, or not all of it. */
	assert_int_equal(world_acquire(w, SIM_PAGE, SIM_PAGE, &o, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_MAPPING);
	pl_sys_unmap((char *)o.addr + 8 * SIM_PAGE, SIM_PAGE);
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, &o, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_MAPPING);
	assert_int_equal(world_acquire(w, 0, 8 * SIM_PAGE, &o, &why, &lease), 0);
	assert_int_equal(pinlease_release(lease), 0);
	w->leases = 0;
	pl_sys_unmap(o.addr, 8 * SIM_PAGE);
	pl_sys_unmap((char *)o.addr + 9 * SIM_PAGE, 7 * SIM_PAGE);
	world_close(w);
}

/* The same of a file that the library has a mapping of its own of: staged memory is in the application's. */
static void test_mapping_under_a_seal(struct world *w)
{
	struct pinlease_file_opts of = { .size = sizeof(of),
					 .access = PINLEASE_READ,
					 .guard = PINLEASE_GUARD_SEAL };
	struct pinlease_opts o = { .mode = PINLEASE_MODE_STAGED };
	struct pinlease *lease;
	int memfd, fd;

	assert_int_equal(pinlease_ctx_new(NULL, &w->ctx), 0);
	w->access = PINLEASE_READ;
	w->pd = sim_device(SIM_ODP_NONE);
	w->path = sim_memfd(WORLD_SIZE, &memfd);
	fd = pl_sys_open(w->path, O_RDWR);
	assert_int_equal(pl_sys_map(NULL, WORLD_SIZE, PROT_READ, fd, 0, &o.addr), 0);
	assert_int_equal(pinlease_file_attach(w->ctx, fd, &of, NULL, &w->file), 0);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	assert_ptr_equal(world_view(lease).addr, o.addr);
	assert_false(child_has(o.addr));
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	assert_true(child_has(o.addr));
	/* The file's again: else this would be refused. */
	o.mode = PINLEASE_MODE_PINNED;
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	pl_sys_unmap(o.addr, WORLD_SIZE);
	pl_sys_close(fd);
	world_close(w);
	close(memfd);
}

static bool lands(uint32_t rkey, const struct pinlease_view *view)
{
	struct sim_dma dma;

	sim_dma_write(&dma, rkey, view->iova, SIM_PAGE, 72, 0);
	return sim_dma_wait(&dma) == SIM_DMA_LANDED;
}

/* Of two registrations the first will not go: the key of the other one is dead at once all the same. */
static void test_one_of_two_will_not_go(struct world *w)
{
	struct pinlease_view first, second = { .size = sizeof(second) };
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t index;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_mr_add(lease, w->pd, IBV_ACCESS_REMOTE_WRITE, &index), 0);
	first = world_view(lease);
	assert_int_equal(pinlease_view_get(lease, index, &second), 0);
	assert_true(lands(first.rkey, &first) && lands(second.rkey, &second));
	/* The first call fails; of those behind it the first succeeds, and then none. */
	sim_fail("dereg_mr", 1, -EBUSY, 1);
	sim_fail("dereg_mr", 2, -EBUSY, 0);
	o = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(100 * SIM_MS);
	assert_false(sim_opener_done(o));
	assert_true(lands(first.rkey, &first));
	assert_false(lands(second.rkey, &second));
	sim_clear();
	world_opener_in(o, SIM_S);
	assert_false(lands(first.rkey, &first));
	world_close(w);
}

static unsigned int own_pinned, own_unpinned;

static int own_pin(void *arg, const struct pinlease_pin *pin, struct pinlease_handle *handle)
{
	(void)arg;
	(void)handle;
	assert_int_equal(pin->mode, PINLEASE_MODE_PINNED);
	own_pinned++;
	return 0;
}

static int own_unpin(void *arg, struct pinlease_handle *handle)
{
	(void)arg;
	(void)handle;
	own_unpinned++;
	return 0;
}

/* Who registers by itself gets a lease on what the library would not pin, and is its fence. */
static void test_own_mr(struct world *w)
{
	static const struct pinlease_backend own = { .version = PINLEASE_BACKEND_VERSION,
						     .flags = PINLEASE_BACKEND_OWN_MR,
						     .name = "own",
						     .pin = own_pin,
						     .unpin = own_unpin };
	struct pinlease_backend other = own;
	struct pinlease_opts o = { .backend = &own, .mode = PINLEASE_MODE_PINNED };
	struct pinlease *lease;
	uint32_t index;

	own_pinned = own_unpinned = 0;
	sim_file_system(SIM_EXT4);
	world_open(w, PINLEASE_WRITE);
	refused(w, &o, -EINVAL, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, 0);
	o.pd = w->pd;
	o.mode = PINLEASE_MODE_AUTO;
	refused(w, &o, -EINVAL, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, 0);
	o.mode = PINLEASE_MODE_PINNED;
	other.flags = PINLEASE_BACKEND_OWN_MR << 1;
	o.backend = &other;
	refused(w, &o, -EINVAL, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, 0);
	other.flags = 0;
	refused(w, &o, -EINVAL, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, 0);
	o.pd = NULL;
	refused(w, &o, -EOPNOTSUPP, PINLEASE_AT_CHECK, PINLEASE_WHY_DIRTY_TRACKED, 0);
	o.pd = w->pd;
	o.backend = &own;
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	assert_int_equal(world_info(lease).mode, PINLEASE_MODE_PINNED);
	assert_int_equal(pinlease_mr_add(lease, w->pd, IBV_ACCESS_REMOTE_READ, &index), -EINVAL);
	assert_int_equal(own_pinned, 1);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	assert_int_equal(own_unpinned, 1);
	world_reach(lease, PINLEASE_ACTIVE);
	assert_int_equal(own_pinned, 2);
	world_close(w);
	assert_int_equal(own_unpinned, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_choice),
		world_test(test_read_pin_refused),
		world_test(test_refused),
		world_test(test_no_memory_for_the_check),
		world_test(test_check_without_result),
		world_test(test_hole),
		world_test(test_who_is_in_the_way),
		world_test(test_leased_already),
		world_test(test_attach_and_close),
		world_test(test_acquire_undone_later),
		world_test(test_acquire_undone_after_expiry),
		world_test(test_mapping_of_the_application),
		world_test(test_mapping_under_a_seal),
		world_test(test_one_of_two_will_not_go),
		world_test(test_own_mr),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
