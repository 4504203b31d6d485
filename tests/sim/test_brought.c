/* SPDX-License-Identifier: BSD-3-Clause */
/* What the application brings along, its descriptor, its mapping, its memfd, is left to it as it was. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys.h"
#include "world.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

/* The file of the world is this descriptor's from now on. */
static void attach(struct world *w, int fd)
{
	struct pinlease_why why = { .reason = 0 };

	if (w->file)
		assert_int_equal(pinlease_file_close(w->file), 0);
	assert_int_equal(pinlease_file_attach(w->ctx, fd, NULL, &why, &w->file), 0);
}

/* pwrite(2) writes behind the end then, wherever it is told to. */
static void test_descriptor_that_appends(struct world *w)
{
	struct pinlease_opts o = { .mode = PINLEASE_MODE_STAGED };
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;
	int fd;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(pinlease_file_close(w->file), 0);
	w->file = NULL;
	fd = pl_sys_open(w->path, O_RDWR | O_APPEND);
	attach(w, fd);
	assert_int_equal(world_acquire(w, 0, SIM_PAGE, &o, &why, &lease), -EOPNOTSUPP);
	assert_int_equal(why.reason, PINLEASE_WHY_NO_WRITE);
	/* What does not go through write(2) is as good as ever. */
	lease = world_lease(w, 0, SIM_PAGE, &(struct pinlease_opts){ .mode = PINLEASE_MODE_PINNED });
	world_write(lease, 0, SIM_PAGE, 5);
	assert_int_equal(world_sync(lease), 0);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 5));
	assert_int_equal(sim_file_size(w->path), WORLD_SIZE);
	world_lease(w, 4 * SIM_PAGE, SIM_PAGE,
		    &(struct pinlease_opts){ .mode = PINLEASE_MODE_STAGED, .access = PINLEASE_READ });
	world_close(w);
	pl_sys_close(fd);
}

static void test_saved_to_one_that_appends(struct world *w)
{
	const char *path = sim_file("saved", SIM_PAGE);
	struct pinlease *lease;
	int fd;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, &(struct pinlease_opts){ .mode = PINLEASE_MODE_STAGED });
	world_write(lease, 0, SIM_PAGE, 7);
	sim_fail("datasync", 1, -EIO, 1);
	assert_int_equal(world_sync(lease), -EIO);
	fd = pl_sys_open(path, O_RDWR | O_APPEND);
	assert_int_equal(pinlease_save(lease, fd), -EINVAL);
	assert_int_equal(sim_file_size(path), SIM_PAGE);
	assert_true(sim_file_is(path, 0, SIM_PAGE, 1));
	pl_sys_close(fd);
	assert_int_equal(pinlease_save(lease, fd), -EBADF);
	fd = pl_sys_open(path, O_RDWR);
	assert_int_equal(pinlease_save(lease, fd), 0);
	assert_true(sim_file_is(path, 0, SIM_PAGE, 7));
	pl_sys_close(fd);
	world_close(w);
}

/* The sim knows of mappings that were made through what it has opened. */
static int memfd(struct world *w)
{
	int made, fd;

	world_open(w, PINLEASE_WRITE);
	fd = pl_sys_open(sim_memfd(WORLD_SIZE, &made), O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(close(made), 0);
	return fd;
}

/* One that may be written could not be made again: nobody gets such a one of a sealed file. */
static void test_staged_over_what_cannot_be_mapped_again(struct world *w)
{
	struct pinlease_opts o = { .mode = PINLEASE_MODE_STAGED, .access = PINLEASE_READ };
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;
	void *other;
	char *mem;
	int fd;

	fd = memfd(w);
	assert_int_equal(pl_sys_map(NULL, WORLD_SIZE, PROT_READ | PROT_WRITE, fd, 0, &o.addr), 0);
	assert_int_equal(pl_sys_map(NULL, WORLD_SIZE, PROT_READ, fd, 0, &other), 0);
	mem = o.addr;
	attach(w, fd);
	assert_int_equal(pl_sys_get_seals(fd) & SEALS, SEALS);
	assert_int_equal(world_acquire(w, 0, WORLD_SIZE, &o, &why, &lease), -EPERM);
	assert_int_equal(why.reason, PINLEASE_WHY_SEALED);
	mem[5] = 'x';
	assert_int_equal(((char *)other)[5], 'x');
	/* Nothing has to be made again of what stays. */
	o.mode = PINLEASE_MODE_PINNED;
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	mem[6] = 'y';
	assert_int_equal(((char *)other)[6], 'y');
	pl_sys_unmap(mem, WORLD_SIZE);
	pl_sys_unmap(other, WORLD_SIZE);
	world_close(w);
	pl_sys_close(fd);
}

static void grow(void *arg)
{
	assert_int_equal(ftruncate(*(int *)arg, 2 * WORLD_SIZE), 0);
}

/* Between its size was asked for and the seals: what is behind the library's mapping is not in it. */
static void test_memfd_that_grew_before_it_was_sealed(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease = NULL;
	int fd;

	fd = memfd(w);
	sim_hook("add_seals", 1, grow, &fd);
	attach(w, fd);
	assert_int_equal(sim_faults(), 1);
	assert_int_equal(world_acquire(w, WORLD_SIZE, SIM_PAGE, NULL, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_RANGE);
	assert_int_equal(world_acquire(w, WORLD_SIZE - SIM_PAGE, 2 * SIM_PAGE, NULL, &why, &lease), -EINVAL);
	assert_int_equal(why.reason, PINLEASE_WHY_RANGE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	world_close(w);
	pl_sys_close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_descriptor_that_appends),
		world_test(test_saved_to_one_that_appends),
		world_test(test_staged_over_what_cannot_be_mapped_again),
		world_test(test_memfd_that_grew_before_it_was_sealed),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
