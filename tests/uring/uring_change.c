/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layout changes of the owner's own: the kernel's answer and the kernel's outcome, whatever
 * the mode of fallocate(2); broken are the leases whose range is touched, and no others,
 * whose traffic goes on meanwhile.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "rounds.h"

#define HALF	   (UT_LEN / 2)
#define CHANGE_OFF (8 * UT_BLOCK)
#define CHANGE_LEN (4 * UT_BLOCK)
#define PUNCH	   (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define GAP_MAX	   3	/* times the gap without a punch */
#define GAP_TRIES  3
#define WINDOW	   50	/* completions, at least, in which the longest gap is looked for */

#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES 0x80 /* since Linux 6.17 */
#endif

enum touched { NEITHER = 0, FIRST = 1, BOTH = 3 };

static const struct {
	int mode;
	enum touched touched;
} modes[] = {
	{ 0, NEITHER },
	{ FALLOC_FL_KEEP_SIZE, NEITHER },
	{ PUNCH, FIRST },
	{ FALLOC_FL_ZERO_RANGE, FIRST },
	{ FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FIRST },
	{ FALLOC_FL_UNSHARE_RANGE, FIRST },
	{ FALLOC_FL_WRITE_ZEROES, FIRST },
	{ FALLOC_FL_COLLAPSE_RANGE, BOTH },
	{ FALLOC_FL_INSERT_RANGE, BOTH },
};

static struct ut u;
static struct kt_fs fs;

/* A file, leased in two halves, and another one of the same contents that nobody leases. */
struct scene {
	char path[KT_PATH_MAX], twin[KT_PATH_MAX];
	struct pinlease_file *file;
	struct pinlease *half[2];
};

static struct pinlease *lease_half(struct pinlease_file *file, struct pinlease_uring *ring, uint64_t off)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .backend = pinlease_uring_backend(),
				      .backend_arg = ring };
	struct pinlease *lease = NULL;

	assert_int_equal(pinlease_acquire(file, off, HALF, &opts, NULL, &lease), 0);
	return lease;
}

static void scene_open(struct scene *s, uint32_t guard)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .guard = guard };

	ut_file(s->path, fs.dir, "leased", UT_BLOCKS);
	ut_file(s->twin, fs.dir, "twin", UT_BLOCKS);
	assert_int_equal(pinlease_file_open(u.ctx, s->path, &opts, NULL, &s->file), 0);
	s->half[0] = lease_half(s->file, u.ring, 0);
	s->half[1] = lease_half(s->file, u.ring, HALF);
}

static void scene_end(struct scene *s)
{
	assert_int_equal(pinlease_release(s->half[0]), 0);
	ut_drop(s->half[1], s->file);
}

static void scene_unlink(const struct scene *s)
{
	unlink(s->path);
	unlink(s->twin);
}

static void scene_close(struct scene *s)
{
	scene_end(s);
	scene_unlink(s);
}

static void same_as_twin(const struct scene *s)
{
	char a[UT_BLOCK], b[UT_BLOCK];
	int fd = open(s->path, O_RDONLY | O_CLOEXEC), twin = open(s->twin, O_RDONLY | O_CLOEXEC);
	ssize_t n, at = 0;

	assert_true(fd >= 0 && twin >= 0);
	do {
		memset(a, 'a', sizeof(a));
		memset(b, 'a', sizeof(b));
		n = pread(fd, a, sizeof(a), at);
		assert_int_equal(pread(twin, b, sizeof(b), at), n);
		assert_memory_equal(a, b, sizeof(a));
		at += n;
	} while (n > 0);
	close(fd);
	close(twin);
}

/* Taken by the thread that made the change: it had not polled for events while it did. */
static void told_in_order(struct pinlease *lease)
{
	static const uint32_t order[] = { PINLEASE_EV_BREAK, PINLEASE_EV_REVOKED, PINLEASE_EV_RESTORED };
	struct pinlease_event ev = { .size = sizeof(ev) };
	size_t i;

	for (i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		assert_int_equal(pinlease_ctx_next_event(u.ctx, &ev), 1);
		assert_ptr_equal(ev.lease, lease);
		assert_int_equal(ev.type, order[i]);
		if (ev.type != PINLEASE_EV_RESTORED)
			assert_int_equal(ev.cause, PINLEASE_BY_OWNER);
	}
}

static void assert_touched(struct scene *s, enum touched touched)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	int i;

	for (i = 0; i < 2; i++) {
		assert_int_equal(ut_info(s->half[i]).breaks, touched >> i & 1);
		assert_int_equal(ut_info(s->half[i]).state, PINLEASE_ACTIVE);
		if (touched >> i & 1)
			told_in_order(s->half[i]);
	}
	assert_int_equal(pinlease_ctx_next_event(u.ctx, &ev), 0);
}

/*
 * The same of a file of ours and of its twin, by the kernel: the answer, and what is then in it.
 * The bytes are compared after the release: staged memory is written back by then.
 */
static void one_mode(size_t i, uint32_t guard)
{
	struct scene s;
	int twin, want;

	scene_open(&s, guard);
	twin = open(s.twin, O_RDWR | O_CLOEXEC);
	assert_true(twin >= 0);
	want = fallocate(twin, modes[i].mode, CHANGE_OFF, CHANGE_LEN) ? -errno : 0;
	close(twin);
	assert_int_equal(pinlease_file_allocate(s.file, modes[i].mode, CHANGE_OFF, CHANGE_LEN), want);
	assert_touched(&s, modes[i].touched);
	scene_end(&s);
	same_as_twin(&s);
	scene_unlink(&s);
}

static void drain_events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(u.ctx, &ev) == 1)
		;
}

static void every_mode_answers_as_the_kernel_and_breaks_what_it_touches(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		one_mode(i, PINLEASE_GUARD_LEASE);
		one_mode(i, PINLEASE_GUARD_NONE);
	}
}

static void truncate_breaks_what_lies_behind(void **state)
{
	struct scene s;

	(void)state;
	scene_open(&s, PINLEASE_GUARD_LEASE);
	assert_int_equal(pinlease_file_truncate(s.file, UT_LEN - UT_BLOCK), 0);
	assert_touched(&s, 2);
	assert_int_equal(ut_view(s.half[1]).len, HALF - UT_BLOCK);
	assert_int_equal(truncate(s.twin, UT_LEN - UT_BLOCK), 0);
	scene_close(&s);
}

/* Completion after completion of one lease, and the longest time between two. */
struct traffic {
	struct ut u;
	struct pinlease *lease;
	int source;
	pthread_t thread;
	_Atomic bool stop;
	_Atomic uint64_t gap;		/* ns; set to 0 by who measures */
	_Atomic uint64_t done;
	_Atomic int error;		/* what ended it early */
};

static void *traffic_main(void *arg)
{
	struct traffic *t = arg;
	struct pinlease_uring_completion c = { .size = sizeof(c) };
	uint64_t last = kt_now(), now;
	int r;

	/* What is looked for is a wait for the change, not for a processor that it uses. */
	setpriority(PRIO_PROCESS, (id_t)gettid(), -20);
	while (!atomic_load(&t->stop)) {
		r = pinlease_uring_read(t->u.ring, t->lease, 0, UT_BLOCK, t->source, 0, 0);
		if (!r)
			r = pinlease_uring_next(t->u.ring, &c, (int)UT_LONG) == 1 ? c.res : -ETIMEDOUT;
		if (r != (int)UT_BLOCK) {
			atomic_store(&t->error, r);
			break;
		}
		now = kt_now();
		if (now - last > atomic_load(&t->gap))
			atomic_store(&t->gap, now - last);
		last = now;
		atomic_fetch_add(&t->done, 1);
	}
	return NULL;
}

static uint64_t gap_of(struct traffic *t, struct pinlease_file *file, bool punch)
{
	uint64_t until = kt_now() + UT_LONG * 1000000ull, done = atomic_load(&t->done);

	atomic_store(&t->gap, 0);
	if (punch)
		assert_int_equal(pinlease_file_allocate(file, PUNCH, CHANGE_OFF, CHANGE_LEN), 0);
	do {
		kt_sleep_ms(20);
	} while (atomic_load(&t->done) < done + WINDOW && !atomic_load(&t->error) && kt_now() < until);
	assert_int_equal(atomic_load(&t->error), 0);
	assert_true(atomic_load(&t->done) >= done + WINDOW);
	return atomic_load(&t->gap);
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/*
 * Medians of the longest gaps of many windows, with and without: one preemption by another
 * process is longer than any gap of ours.
 */
static bool gaps_are_alike(struct traffic *t, struct pinlease_file *file)
{
	unsigned int rounds = pl_rounds(PL_R_change_gaps), i;
	uint64_t with[1000], without[1000];

	assert_true(rounds <= 1000);
	for (i = 0; i < rounds; i++) {
		without[i] = gap_of(t, file, false);
		with[i] = gap_of(t, file, true);
	}
	qsort(with, rounds, sizeof(with[0]), by_value);
	qsort(without, rounds, sizeof(without[0]), by_value);
	printf("longest gap, median of %u windows: %llu us without a punch, %llu us with one\n", rounds,
	       (unsigned long long)without[rounds / 2] / 1000, (unsigned long long)with[rounds / 2] / 1000);
	return with[rounds / 2] <= GAP_MAX * without[rounds / 2];
}

/*
 * A lease that were broken would be silent for its deregistration and registration, or show in
 * its count of breaks. What holds up its traffic does so in each try; the threads of a punch that
 * take a processor from it do not.
 */
static void a_punch_in_one_lease_does_not_hold_up_the_other(void **state)
{
	struct traffic t = { .u = { .ctx = u.ctx } };
	unsigned int tries = 0;
	struct scene s;
	bool alike;

	(void)state;
	scene_open(&s, PINLEASE_GUARD_LEASE);
	assert_int_equal(pinlease_release(s.half[1]), 0);
	assert_int_equal(pinlease_uring_new(8, 2, &t.u.ring), 0);
	t.lease = s.half[1] = lease_half(s.file, t.u.ring, HALF);
	t.source = open(s.twin, O_RDONLY | O_CLOEXEC);
	assert_true(t.source >= 0);
	assert_int_equal(pthread_create(&t.thread, NULL, traffic_main, &t), 0);
	do {
		alike = gaps_are_alike(&t, s.file);
	} while (++tries < GAP_TRIES && !alike);
	atomic_store(&t.stop, true);
	pthread_join(t.thread, NULL);
	close(t.source);
	assert_int_equal(ut_info(s.half[0]).breaks, tries * pl_rounds(PL_R_change_gaps));
	assert_int_equal(ut_info(s.half[1]).breaks, 0);
	assert_true(alike);
	scene_close(&s);
	assert_int_equal(pinlease_uring_free(t.u.ring), 0);
	drain_events();
}

static int setup(void **state)
{
	(void)state;
	ut_start(&u, 32, 4);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_stop(&u);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mode_answers_as_the_kernel_and_breaks_what_it_touches),
		cmocka_unit_test(truncate_breaks_what_lies_behind),
		cmocka_unit_test(a_punch_in_one_lease_does_not_hold_up_the_other),
	};

	if (argc != 2) {
		fprintf(stderr, "usage: uring_change FILE-SYSTEM\n");
		return 2;
	}
	ut_begin_on(&fs, argv[1], 64);
	return cmocka_run_group_tests(tests, setup, teardown);
}
