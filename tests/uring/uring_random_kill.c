/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SIGKILL of an owner at a random moment of its life: opening, acquiring, under load, in a
 * break, restoring, releasing. Whenever it is: the opener is let on at once and not after
 * lease-break-time, no lease is left in /proc/locks, and the file does not change any more
 * under who was let on.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rounds.h"

#define SOON	 UT_LONG /* lease-break-time is 45 s */
#define LIFE_US	 10000u /* in which the kill comes, beyond twice what the first lease takes */
#define WATCH_US 1500u	/* for writes that are late */

struct life {
	char path[KT_PATH_MAX];
	unsigned int seed;
	_Atomic uint64_t *done;
};

static struct kt_fs fs[2];
static const char *const types[] = { "tmpfs", "ext4" };

static unsigned int roll(unsigned int *seed, unsigned int below)
{
	return (unsigned int)rand_r(seed) % below;
}

/* The owner's process: leases come and go until it is killed. Its errors are what breaks answer it. */

static void some_requests(struct pinlease_uring *ring, struct pinlease *lease, int source, struct life *life)
{
	struct pinlease_uring_completion c = { .size = sizeof(c) };
	unsigned int i, n = roll(&life->seed, 200);

	for (i = 0; i < n; i++) {
		uint64_t off = roll(&life->seed, UT_BLOCKS) * UT_BLOCK;

		if (pinlease_uring_read(ring, lease, off, UT_BLOCK, source, 0, i))
			return;
		if (pinlease_uring_next(ring, &c, (int)UT_LONG) == 1)
			atomic_fetch_add(life->done, c.res == (int)UT_BLOCK);
	}
}

static void one_lease(struct pinlease_ctx *ctx, struct pinlease_uring *ring, int source, struct life *life)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .backend = pinlease_uring_backend(),
				      .backend_arg = ring };
	struct pinlease_file *file;
	struct pinlease *lease;

	if (pinlease_file_open(ctx, life->path, NULL, NULL, &file))
		return;
	if (!pinlease_acquire(file, 0, UT_LEN, &opts, NULL, &lease)) {
		some_requests(ring, lease, source, life);
		if (roll(&life->seed, 2))
			pinlease_sync(lease, 0, 0, 0);
		while (pinlease_release(lease))
			;
	}
	pinlease_file_close(file);
}

static int owner(const void *arg)
{
	struct life life = *(const struct life *)arg;
	int source = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	struct pinlease_uring *ring;
	struct pinlease_ctx *ctx;

	if (pinlease_ctx_new(NULL, &ctx) || pinlease_uring_new(8, 2, &ring))
		return -EIO;
	for (;;)
		one_lease(ctx, ring, source, &life);
}

/* The opener's: 1 if the file changed after it was let on. */
static int opener(const void *arg)
{
	const struct life *life = arg;
	int fd = open(life->path, O_RDWR | O_CLOEXEC), changed;
	static char before[UT_LEN];
	char *map;

	if (fd < 0)
		return -errno;
	map = mmap(NULL, UT_LEN, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	memcpy(before, map, UT_LEN);
	usleep(WATCH_US);
	changed = memcmp(before, map, UT_LEN) != 0;
	munmap(map, UT_LEN);
	close(fd);
	return changed;
}

/* The test's */

/* A ring is taken down behind the back of its process, and holds the leased description until then. */
static bool left_behind(const char *path)
{
	unsigned int ms;

	for (ms = 0; ms < SOON && ut_leased(path); ms++)
		kt_sleep_ms(1);
	return ms == SOON;
}

#define TRIES 3u

static unsigned int try_first_lease(struct life *life)
{
	struct kt_call *own = kt_call_start(owner, life, sizeof(*life));
	uint64_t began = kt_now(), took;

	assert_non_null(own);
	while (!ut_leased(life->path) && kt_now() < began + SOON * 1000000ull)
		usleep(100);
	took = kt_now() - began;
	kt_call_kill(own);
	assert_false(left_behind(life->path));
	kt_call_end(own);
	return (unsigned int)(took / 1000);
}

/* How long an owner takes to its first lease, unless it is held up. In a guest, and beside another: long. */
static unsigned int first_lease_us(struct life *life)
{
	unsigned int least = UINT_MAX;

	for (unsigned int i = 0; i < TRIES; i++) {
		unsigned int us = try_first_lease(life);

		least = us < least ? us : least;
	}
	return least;
}

static void one_round(struct life *life, unsigned int life_us, unsigned int *held)
{
	struct kt_call *own, *open_call = NULL;

	own = kt_call_start(owner, life, sizeof(*life));
	assert_non_null(own);
	/* The opener comes before the kill in one round, and after it in the other. */
	usleep(roll(&life->seed, life_us));
	*held += ut_leased(life->path);
	if (life->seed & 64) {
		open_call = kt_call_start(opener, life, sizeof(*life));
		assert_non_null(open_call);
		usleep(roll(&life->seed, 2000));
	}
	kt_call_kill(own);
	if (!open_call)
		open_call = kt_call_start(opener, life, sizeof(*life));
	assert_non_null(open_call);
	assert_int_equal(kt_call_done(open_call, SOON), 1);
	assert_int_equal(open_call->ret, 0);
	assert_false(left_behind(life->path));
	kt_call_end(open_call);
	kt_call_end(own);
}

static void whenever_it_is_killed_nobody_is_stuck_and_nothing_stays(void **state)
{
	unsigned int rounds = pl_rounds(PL_R_random_kills), held = 0, i;
	unsigned int life_us[2];
	struct life life[2];

	(void)state;
	for (i = 0; i < 2; i++) {
		assert_int_equal(kt_fs_make(&fs[i], types[i], 64), 0);
		ut_file(life[i].path, fs[i].dir, "f", UT_BLOCKS);
		life[i].seed = i + 1;
		life[i].done = kt_shared(sizeof(*life[i].done));
		assert_non_null(life[i].done);
		life_us[i] = LIFE_US + 2 * first_lease_us(&life[i]);
	}
	for (i = 0; i < rounds; i++) {
		life[i % 2].seed += i;
		one_round(&life[i % 2], life_us[i % 2], &held);
	}
	printf("%u owners killed, %u of them with the lease held, after %llu requests\n", rounds, held,
	       (unsigned long long)(atomic_load(life[0].done) + atomic_load(life[1].done)));
	/* Else the kills came before there was anything to lose. */
	assert_true(held > rounds / 10);
	assert_true(atomic_load(life[0].done) > rounds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whenever_it_is_killed_nobody_is_stuck_and_nothing_stays),
	};

	ut_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
