/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SIGKILL of an owner with an opener blocked on its lease and requests in flight: what
 * still lands after the opener was let on? The ring's own teardown, in both orders of
 * the ring's fd and the leased one, with the anchor and without, under two loads:
 *
 *	pipe	reads that wait for data, which comes right after the kill
 *	disk	a direct read of a slow disk, which nobody can cancel
 *
 * The first never lands: whoever would copy is dead. The second is the device's own
 * doing and lands when the disk answers; only the anchor, held by the ring, keeps the
 * opener waiting so long. Without it the same rounds must show late writes.
 */
#include "ut.h"

#include "rounds.h"
#include "slowdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PENDING	 8u /* blocks that are being written when the owner dies */
#define DISK_MS	 60u
#define WATCH_MS 50u /* how long the opener looks on after the last byte could have come */
#define DEADLINE 60000u

struct shared {
	sem_t ready, child;
	_Atomic int error;
	_Atomic bool over, leave;   /* nothing more can come; the child may go */
	_Atomic uint64_t let_on_ns; /* the opener's call returned */
	struct slow_shared *disk;
};

struct arm {
	bool disk, anchor, ring_first, child;
};

struct round_arg {
	struct arm arm;
	struct shared *shared;
	bool truncates;
	char path[KT_PATH_MAX], fifo[KT_PATH_MAX], device[32];
};

static struct kt_fs fs;
static struct slow_disk disk;
static struct shared *shared;

/* The owner's process */

static int owner_lease(const struct round_arg *a, struct ut *u, struct pinlease **lease)
{
	struct pinlease_ctx_opts ctx_opts = { .size = sizeof(ctx_opts) };
	struct pinlease_file_opts file_opts = { .size = sizeof(file_opts),
						.flags = a->arm.anchor ? 0 : PINLEASE_F_NO_ANCHOR };
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .mode = PINLEASE_MODE_PINNED,
				      .deadline_ms = DEADLINE,
				      .backend = pinlease_uring_backend() };
	struct pinlease_file *file;
	int ret = 0;

	if (a->arm.ring_first)
		ret = pinlease_uring_new(32, 4, &u->ring);
	if (!ret)
		ret = pinlease_ctx_new(&ctx_opts, &u->ctx);
	if (!ret)
		ret = pinlease_file_open(u->ctx, a->path, &file_opts, NULL, &file);
	if (!ret && !a->arm.ring_first)
		ret = pinlease_uring_new(32, 4, &u->ring);
	opts.backend_arg = u->ring;
	return ret ? ret : pinlease_acquire(file, 0, UT_LEN, &opts, NULL, lease);
}

static int owner_load(const struct round_arg *a, struct ut *u, struct pinlease *lease)
{
	int fd = a->arm.disk ? open(a->device, O_RDONLY | O_DIRECT | O_CLOEXEC)
			     : open(a->fifo, O_RDWR | O_CLOEXEC);
	uint32_t gen;
	int ret;

	if (fd < 0)
		return -errno;
	/* Never ended, so the opener stays blocked whatever becomes of the requests. */
	ret = pinlease_dma_begin(lease, 1, &gen);
	if (a->arm.disk)
		return ret ? ret : pinlease_uring_read(u->ring, lease, 0, PENDING * UT_BLOCK, fd, 0, 0);
	for (uint32_t i = 0; i < PENDING && !ret; i++)
		ret = pinlease_uring_read(u->ring, lease, i * UT_BLOCK, UT_BLOCK, fd, 0, i);
	return ret;
}

/* A child that lives on, with nothing but what fork gave it. */
static void owner_fork(struct shared *s)
{
	if (fork())
		return;
	sem_post(&s->child);
	for (int i = 0; i < 60000 && !atomic_load(&s->leave); i++)
		kt_sleep_ms(1);
	_exit(0);
}

static int owner(const void *arg)
{
	const struct round_arg *a = arg;
	struct pinlease *lease;
	struct ut u = { NULL, NULL };
	int ret = owner_lease(a, &u, &lease);

	if (!ret)
		ret = owner_load(a, &u, lease);
	if (!ret && a->arm.child)
		owner_fork(a->shared);
	atomic_store(&a->shared->error, ret);
	sem_post(&a->shared->ready);
	kt_sleep_ms(600000);
	return 0;
}

/* The opener's process: how many blocks change after it was let on. */

static int opener(const void *arg)
{
	const struct round_arg *a = arg;
	static char before[UT_LEN / 2];
	int fd = a->truncates ? truncate(a->path, UT_LEN / 2) : open(a->path, O_RDWR | O_CLOEXEC), late = 0;
	uint64_t until;
	char *map;

	if (fd < 0)
		return -errno;
	atomic_store(&a->shared->let_on_ns, kt_now());
	if (a->truncates)
		fd = open(a->path, O_RDWR | O_CLOEXEC);
	map = mmap(NULL, UT_LEN / 2, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	memcpy(before, map, sizeof(before));
	while (!atomic_load(&a->shared->over))
		kt_sleep_ms(1);
	until = kt_now() + WATCH_MS * 1000000ull;
	while (kt_now() < until)
		kt_sleep_ms(1);
	for (uint32_t i = 0; i < UT_BLOCKS / 2; i++)
		late += memcmp(before + i * UT_BLOCK, map + i * UT_BLOCK, UT_BLOCK) != 0;
	return late;
}

/* The test's process */

/* Offers data to reads that wait for it; what stays in the pipe was not read. */
static void feed(int fifo)
{
	static char block[UT_BLOCK];

	memset(block, 0xff, sizeof(block));
	for (uint32_t i = 0; i < PENDING; i++)
		assert_int_equal(write(fifo, block, sizeof(block)), sizeof(block));
}

static bool disk_is_busy(void)
{
	return atomic_load(&disk.shared->answered) != atomic_load(&disk.shared->arrived);
}

static void wait_disk(void)
{
	for (unsigned int ms = 0; ms < UT_LONG && disk_is_busy(); ms++)
		kt_sleep_ms(1);
}

static struct round_arg round_setup(const struct arm *arm, uint32_t round)
{
	struct round_arg a = { .arm = *arm, .shared = shared, .truncates = round & 1 };

	ut_file(a.path, fs.dir, "f", UT_BLOCKS);
	snprintf(a.fifo, sizeof(a.fifo), "%.80s/fifo", fs.dir);
	snprintf(a.device, sizeof(a.device), "%s", disk.device);
	unlink(a.fifo);
	assert_int_equal(mkfifo(a.fifo, 0600), 0);
	atomic_store(&shared->over, false);
	atomic_store(&shared->leave, false);
	if (arm->disk)
		atomic_store(&disk.shared->delay_ms, DISK_MS);
	return a;
}

struct result {
	int late;	  /* blocks; -1: the disk had answered before the kill, so the round says nothing */
	uint64_t wait_ns; /* from the kill until the opener was let on */
};

static struct result one_round(const struct arm *arm, uint32_t round)
{
	struct round_arg a = round_setup(arm, round);
	int fifo = open(a.fifo, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct kt_call *own = kt_call_start(owner, &a, sizeof(a)), *open_call;
	struct result res = { 0 };
	uint64_t kill_ns;
	bool counts;

	assert_non_null(own);
	assert_int_equal(sem_wait(&shared->ready), 0);
	assert_int_equal(atomic_load(&shared->error), 0);
	if (arm->child)
		assert_int_equal(sem_wait(&shared->child), 0);
	open_call = kt_call_start(opener, &a, sizeof(a));
	assert_non_null(open_call);
	assert_int_equal(kt_call_blocked(open_call, 5), 1);
	/* The kill: requests in flight, the opener blocked. */
	counts = !arm->disk || disk_is_busy();
	kill_ns = kt_now();
	assert_int_equal(kill(own->pid, SIGKILL), 0);
	if (arm->disk)
		wait_disk();
	else
		feed(fifo);
	kt_call_kill(own);
	atomic_store(&shared->over, true);
	assert_int_equal(kt_call_done(open_call, UT_LONG), 1);
	assert_true(open_call->ret >= 0);
	res.late = counts ? open_call->ret : -1;
	res.wait_ns = atomic_load(&shared->let_on_ns) - kill_ns;
	atomic_store(&shared->leave, true);
	kt_call_end(open_call);
	kt_call_end(own);
	close(fifo);
	return res;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Rounds with late writes, of as many as count. */
static uint32_t run(const struct arm *arm, uint32_t rounds, uint64_t *slowest_ns)
{
	uint64_t *waits = calloc(rounds, sizeof(*waits));
	uint32_t done = 0, late = 0, blocks = 0;

	assert_non_null(waits);
	for (uint32_t i = 0; done < rounds && i < 4 * rounds; i++) {
		struct result res = one_round(arm, i);

		if (res.late < 0)
			continue;
		late += res.late > 0;
		blocks += (uint32_t)res.late;
		waits[done++] = res.wait_ns;
	}
	assert_int_equal(done, rounds);
	qsort(waits, done, sizeof(*waits), by_value);
	*slowest_ns = waits[done - 1];
	printf("%s, %s, %s%s: late writes in %u of %u rounds (%u blocks); opener let on after %.2f ms "
	       "(median), "
	       "%.2f ms (slowest)\n",
	       arm->disk ? "disk" : "pipe", arm->anchor ? "anchor" : "no anchor",
	       arm->ring_first ? "ring opened first" : "leased file opened first",
	       arm->child ? ", child lives on" : "", late, done, blocks, (double)waits[done / 2] / 1e6,
	       (double)waits[done - 1] / 1e6);
	free(waits);
	return late;
}

/* Arms named as they are run: load, anchor; both orders each. */
static void expect_none(struct arm arm)
{
	uint64_t slowest;

	for (int order = 0; order < 2; order++) {
		arm.ring_first = order;
		assert_int_equal(run(&arm, pl_rounds(PL_R_kill_rounds), &slowest), 0);
		assert_true(slowest < UT_LONG * 1000000ull);
	}
}

static void pipe_with_anchor(void **state)
{
	(void)state;
	expect_none((struct arm){ .anchor = true });
}

static void pipe_without_anchor(void **state)
{
	(void)state;
	expect_none((struct arm){ .anchor = false });
}

static void pipe_with_child(void **state)
{
	(void)state;
	expect_none((struct arm){ .anchor = true, .child = true });
}

static void disk_with_anchor(void **state)
{
	(void)state;
	expect_none((struct arm){ .anchor = true, .disk = true });
}

static void disk_with_child(void **state)
{
	(void)state;
	expect_none((struct arm){ .anchor = true, .disk = true, .child = true });
}

/* The control: without the anchor the same rounds do see late writes, in either order. */
static void disk_without_anchor(void **state)
{
	struct arm arm = { .disk = true };
	uint64_t slowest;

	(void)state;
	for (int order = 0; order < 2; order++) {
		arm.ring_first = order;
		assert_true(run(&arm, pl_rounds(PL_R_kill_control_rounds), &slowest) >=
			    pl_rounds(PL_R_kill_control_late));
	}
}

static int start_disk(void)
{
	int ret = slow_disk_make(&disk);

	if (ret == -ENOENT)
		kt_skip("no FUSE here, so no slow disk");
	return ret;
}

/* The argument names the load. */
int main(int argc, char **argv)
{
	const struct CMUnitTest by_pipe[] = {
		cmocka_unit_test(pipe_with_anchor),
		cmocka_unit_test(pipe_without_anchor),
		cmocka_unit_test(pipe_with_child),
	};
	const struct CMUnitTest by_disk[] = {
		cmocka_unit_test(disk_with_anchor),
		cmocka_unit_test(disk_with_child),
		cmocka_unit_test(disk_without_anchor),
	};
	bool with_disk = argc > 1 && !strcmp(argv[1], "disk");
	int ret;

	ut_begin();
	if (kt_fs_make(&fs, "tmpfs", 16) || (with_disk && start_disk()))
		return 1;
	shared = kt_shared(sizeof(*shared));
	sem_init(&shared->ready, 1, 0);
	sem_init(&shared->child, 1, 0);
	if (!with_disk)
		return cmocka_run_group_tests(by_pipe, NULL, NULL);
	ret = cmocka_run_group_tests(by_disk, NULL, NULL);
	slow_disk_drop(&disk);
	return ret;
}
