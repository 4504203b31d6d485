/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uring_stopped tmpfs|ext4: the owner of a staged lease is stopped for longer than
 * lease-break-time, and the kernel lets an opener on. From then on the file is the opener's:
 * when the owner runs again not a byte of what the device had written may go into it. The owner
 * is told LOST, keeps the data for pinlease_save, and has the lease back when it asks for it.
 *
 * Four owners at once: stopped before the break, or told of it already and draining; the opener
 * writes, or it reads. (After a reader's expiry the kernel answers F_UNLCK with 0: there the
 * library's own clock has to know.)
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BREAK_TIME 2u	  /* s */
#define MS	   1000000ull
#define PATIENCE   KT_LONG

enum stamp { ORIGINAL = 3, DEVICE = 5, OPENER = 7 };

/* Which step the owner could not take, in owner.failed. */
enum step { SET_UP = 1, WRITTEN, LOST_EVENT, IS_LOST, REFUSES, SAVED, RESTORED, RELEASED };

struct owner {			/* in kt_shared memory */
	const char *name;
	bool draining, reader;
	char path[KT_PATH_MAX], saved[KT_PATH_MAX];
	_Atomic bool ready, broken, judged, finished;
	_Atomic bool told;	/* LOST has come, all has been checked, and nothing restored yet */
	_Atomic int failed;
	_Atomic uint64_t lost_bytes;
	struct kt_call *call, *opener;
};

#define OWNERS 4u
static struct owner *owners;
static struct kt_fs fs;
static const char *fs_type;

static bool wait_for(const _Atomic bool *flag)
{
	for (unsigned int ms = 0; ms < PATIENCE && !atomic_load(flag); ms++)
		kt_sleep_ms(1);
	return atomic_load(flag);
}

/* The owner's process. It asserts nothing: the test reads owner.failed. */

struct holding {
	struct ut u;
	struct pinlease_file *file;
	struct pinlease *lease;
};

static int hold(struct holding *h, struct owner *o)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .mode = PINLEASE_MODE_STAGED,
				      .backend = pinlease_uring_backend() };
	uint32_t gen;
	int r = pinlease_ctx_new(NULL, &h->u.ctx);

	if (!r)
		r = pinlease_uring_new(8, 2, &h->u.ring);
	if (!r)
		r = pinlease_file_open(h->u.ctx, o->path, NULL, NULL, &h->file);
	opts.backend_arg = h->u.ring;
	if (!r)
		r = pinlease_acquire(h->file, 0, UT_LEN, &opts, NULL, &h->lease);
	/* Never ended: the break cannot be over before the deadline. */
	if (!r && o->draining)
		r = pinlease_dma_begin(h->lease, 1, &gen);
	return r;
}

/* The device writes two blocks, and says so. */
static int device_writes(struct holding *h)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };
	uint64_t block[UT_BLOCK / sizeof(uint64_t)];
	int source = memfd_create("device", MFD_CLOEXEC), r = 0;

	ut_stamp(block, DEVICE);
	if (pwrite(source, block, UT_BLOCK, 0) != UT_BLOCK)
		return -EIO;
	for (uint64_t i = 0; i < 2 && !r; i++) {
		r = pinlease_uring_read(h->u.ring, h->lease, i * UT_BLOCK, UT_BLOCK, source, 0, i);
		if (!r && (pinlease_uring_next(h->u.ring, &done, (int)PATIENCE) != 1 || done.res != UT_BLOCK))
			r = -EIO;
	}
	close(source);
	return r;
}

static bool event_within(struct holding *h, uint32_t type, struct pinlease_event *ev)
{
	*ev = (struct pinlease_event){ .size = sizeof(*ev) };
	for (unsigned int ms = 0; ms < PATIENCE; ms++) {
		while (pinlease_ctx_next_event(h->u.ctx, ev) == 1)
			if (ev->type == type)
				return true;
		kt_sleep_ms(1);
	}
	return false;
}

static bool save_to(struct holding *h, const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : pinlease_save(h->lease, fd);

	close(fd);
	return !r;
}

/* 0, or the step that failed. */
static int after_lost(struct holding *h, struct owner *o)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_view view = { .size = sizeof(view) };
	uint32_t gen;

	if (pinlease_lease_info(h->lease, &info) || info.state != PINLEASE_LOST)
		return IS_LOST;
	if (pinlease_dma_begin(h->lease, 1, &gen) != -ESTALE)
		return REFUSES;
	if (!save_to(h, o->saved))
		return SAVED;
	atomic_store(&o->told, true);
	if (!wait_for(&o->judged) || pinlease_restore(h->lease, NULL))
		return RESTORED;
	/* With what is in the file now. */
	if (pinlease_view_get(h->lease, 0, &view))
		return RESTORED;
	if (ut_stamp_of(view.addr) != (o->reader ? ORIGINAL : OPENER))
		return RESTORED;
	return pinlease_release(h->lease) || pinlease_file_close(h->file) ? RELEASED : 0;
}

static int owner_steps(struct owner *o)
{
	struct holding h = { .lease = NULL };
	struct pinlease_event ev;

	if (hold(&h, o))
		return SET_UP;
	if (device_writes(&h))
		return WRITTEN;
	atomic_store(&o->ready, true);
	if (o->draining) {
		if (!event_within(&h, PINLEASE_EV_BREAK, &ev))
			return SET_UP;
		atomic_store(&o->broken, true);
	}
	if (!event_within(&h, PINLEASE_EV_LOST, &ev))
		return LOST_EVENT;
	atomic_store(&o->lost_bytes, ev.lost_bytes);
	return after_lost(&h, o);
}

static int owner_main(const void *arg)
{
	struct owner *o = *(struct owner *const *)arg;

	atomic_store(&o->failed, owner_steps(o));
	atomic_store(&o->finished, true);
	return 0;
}

/* The opener's process: what it is let on for it does, and goes. */
static int opener_main(const void *arg)
{
	const struct owner *o = *(struct owner *const *)arg;
	uint64_t block[UT_BLOCK / sizeof(uint64_t)];
	int fd = open(o->path, (o->reader ? O_RDONLY : O_WRONLY) | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	ut_stamp(block, OPENER);
	for (uint32_t i = 0; i < UT_BLOCKS && !r; i++) {
		if (!o->reader)
			r = pwrite(fd, block, UT_BLOCK, i * UT_BLOCK) == UT_BLOCK ? 0 : -EIO;
		else if (pread(fd, block, UT_BLOCK, i * UT_BLOCK) != UT_BLOCK)
			r = -EIO;
		else if (ut_stamp_of(block) != ORIGINAL)
			r = -EILSEQ;
	}
	close(fd);
	return r;
}

/* The test */

static void fill(const char *path)
{
	uint64_t block[UT_BLOCK / sizeof(uint64_t)];
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	ut_stamp(block, ORIGINAL);
	assert_true(fd >= 0);
	for (uint32_t i = 0; i < UT_BLOCKS; i++)
		assert_int_equal(pwrite(fd, block, UT_BLOCK, i * UT_BLOCK), UT_BLOCK);
	close(fd);
}

static void start(struct owner *o, unsigned int i)
{
	static const char *const names[OWNERS] = { "writer", "reader", "writer-draining", "reader-draining" };

	o->name = names[i];
	o->reader = i & 1;
	o->draining = i & 2;
	ut_file(o->path, fs.dir, o->name, UT_BLOCKS);
	fill(o->path);
	snprintf(o->saved, sizeof(o->saved), "%.80s/saved%u", fs.dir, i);
	o->call = kt_call_start(owner_main, &o, sizeof(o));
	assert_non_null(o->call);
	assert_true(wait_for(&o->ready));
	assert_int_equal(atomic_load(&o->failed), 0);
}

/* Stopped as it should be, with an opener that waits. */
static void stop(struct owner *o)
{
	if (!o->draining)
		assert_int_equal(kill(o->call->pid, SIGSTOP), 0);
	o->opener = kt_call_start(opener_main, &o, sizeof(o));
	assert_non_null(o->opener);
	if (o->draining) {
		assert_true(wait_for(&o->broken));
		assert_int_equal(kill(o->call->pid, SIGSTOP), 0);
	}
	assert_int_equal(kt_call_blocked(o->opener, 20), 1);
}

static void let_on(struct owner *o)
{
	assert_int_equal(kt_call_done(o->opener, PATIENCE), 1);
	if (o->opener->ret)
		print_error("%s: the opener: %s\n", o->name, strerror(-o->opener->ret));
	assert_int_equal(o->opener->ret, 0);
	/* By the kernel's clock: the owner was stopped all the time. */
	assert_true(kt_call_ns(o->opener) > (BREAK_TIME - 1) * 1000 * MS);
	kt_call_end(o->opener);
}

/* Every block is what the opener has left there, or has seen. */
static void untouched(const struct owner *o)
{
	for (uint32_t i = 0; i < UT_BLOCKS; i++)
		assert_int_equal(ut_stamp_at(o->path, i), o->reader ? ORIGINAL : OPENER);
}

static void judge(struct owner *o)
{
	assert_int_equal(kill(o->call->pid, SIGCONT), 0);
	if (!wait_for(&o->told))
		print_error("%s: step %d failed\n", o->name, atomic_load(&o->failed));
	assert_true(atomic_load(&o->told));
	/* Where nothing is told to be dirty, all of it is. */
	assert_int_equal(atomic_load(&o->lost_bytes), UT_LEN);
	untouched(o);
	assert_int_equal(ut_stamp_at(o->saved, 0), DEVICE);
	assert_int_equal(ut_stamp_at(o->saved, 1), DEVICE);
	assert_int_equal(ut_stamp_at(o->saved, 2), ORIGINAL);
	atomic_store(&o->judged, true);
	assert_true(wait_for(&o->finished));
	if (atomic_load(&o->failed))
		print_error("%s: step %d failed\n", o->name, atomic_load(&o->failed));
	assert_int_equal(atomic_load(&o->failed), 0);
	untouched(o);
	kt_call_end(o->call);
}

static void nothing_is_written_after_the_expiry(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < OWNERS; i++)
		start(&owners[i], i);
	for (i = 0; i < OWNERS; i++)
		stop(&owners[i]);
	for (i = 0; i < OWNERS; i++)
		let_on(&owners[i]);
	for (i = 0; i < OWNERS; i++)
		judge(&owners[i]);
}

static int setup(void **state)
{
	(void)state;
	owners = kt_shared(OWNERS * sizeof(*owners));
	assert_non_null(owners);
	assert_int_equal(kt_fs_make(&fs, fs_type, 64), 0);
	assert_int_equal(kt_break_time(BREAK_TIME), 0);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(nothing_is_written_after_the_expiry) };

	fs_type = argc == 2 ? argv[1] : "tmpfs";
	ut_begin();
	return cmocka_run_group_tests(tests, setup, NULL);
}
