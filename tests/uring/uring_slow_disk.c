/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that was fast when the lease was acquired, and is too slow when it is broken: what a
 * ring has read cannot all be written back within lease-break-time. The lease is LOST, and
 * says of which ranges: those and no others are missing from the file that the opener, who
 * is let on in time, finds; pinlease_save has them; what the file has and what was saved
 * are together all that was written.
 *
 * From then on that disk's budget is small: a lease that may be dirty all at once is refused, and
 * this one, which is told, is written back in the background.
 *
 * The disk is a recorded one under a file system that writes synchronously, since the page
 * cache would take it all.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "recdisk.h"

#define PIECE	     (16u * UT_BLOCK) /* what is told at a time: the unit of dirty ranges here */
#define PIECES	     64u
#define LEN	     (2 * PIECES * (uint64_t)PIECE) /* every second piece is written to */
#define MUCH	     (2 * LEN)	      /* more than is taken on trust from a disk that nobody knows */
#define BREAK_TIME_S 4u
#define FEW	     8u		      /* pieces: less than a MiB */
#define SLOW_MS	     120u
#define TRIAL_MS     (4 * SLOW_MS)
#define FLUSH_MS     (SLOW_MS / 4)
#define LATE_MS	     15000u /* for one chunk that was under way, and a machine that stands still */

static struct rec_disk disk;
static struct kt_fs fs;
static struct ut u;
static int source;
static char path[KT_PATH_MAX];

static uint64_t at_of(unsigned int piece)
{
	return 2 * piece * (uint64_t)PIECE;
}

static void write_pieces(struct pinlease *lease, uint64_t stamp, unsigned int count)
{
	static unsigned char data[PIECE];
	unsigned int i, b;

	for (i = 0; i < count; i++) {
		for (b = 0; b < PIECE / UT_BLOCK; b++)
			ut_stamp(data + b * UT_BLOCK, stamp + i);
		assert_int_equal(pwrite(source, data, PIECE, 0), PIECE);
		assert_int_equal(pinlease_uring_read(u.ring, lease, at_of(i), PIECE, source, 0, i), 0);
		assert_int_equal(ut_take(&u).res, PIECE);
	}
}

/* Is the piece as it was written, as a whole? */
static bool piece_is(int fd, unsigned int piece, uint64_t stamp)
{
	static unsigned char data[PIECE];
	unsigned int b;

	if (pread(fd, data, PIECE, (off_t)at_of(piece)) != PIECE)
		return false;
	for (b = 0; b < PIECE / UT_BLOCK; b++)
		if (ut_stamp_of(data + b * UT_BLOCK) != (int64_t)(stamp + piece))
			return false;
	return true;
}

/* As an opener finds it: a lease that is active is broken by this. */
static void assert_file(uint64_t stamp, unsigned int count)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned int i;

	assert_true(fd >= 0);
	for (i = 0; i < count; i++)
		assert_true(piece_is(fd, i, stamp));
	close(fd);
}

/* Bytes of a piece that are in a range of those that were lost. */
static uint64_t lost_of(struct pinlease *lease, unsigned int piece)
{
	uint64_t from = at_of(piece), end = from + PIECE, off, len, bytes = 0;

	while (from < end && pinlease_dirty_next(lease, from, &off, &len) == 1 && off < end) {
		bytes += (off + len < end ? off + len : end) - off;
		from = off + len;
	}
	return bytes;
}

/* From the first to the last of them, and how many bytes they are. */
static uint64_t ranges(struct pinlease *lease, uint64_t *first, uint64_t *end)
{
	uint64_t from = 0, off, len, bytes = 0;

	*first = *end = 0;
	while (pinlease_dirty_next(lease, from, &off, &len) == 1) {
		assert_int_equal(off % (2 * PIECE) + len <= PIECE, 1);
		if (!bytes)
			*first = off;
		bytes += len;
		from = *end = off + len;
	}
	return bytes;
}

/* The break, on the slow disk. */
static struct pinlease_event lose(struct pinlease *lease)
{
	struct kt_call *opener;
	struct pinlease_event ev;

	rec_fuse_slow(&disk, SLOW_MS);
	opener = kt_open(path, O_RDONLY);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_LOST, UT_LONG, &ev));
	assert_int_equal(kt_call_done(opener, UT_LONG), 1);
	assert_true(opener->ret >= 0);
	printf("the opener waited for %llu ms\n", (unsigned long long)kt_call_ns(opener) / 1000000);
	assert_in_range(kt_call_ns(opener) / 1000000, 1, BREAK_TIME_S * 1000 + LATE_MS);
	kt_call_end(opener);
	rec_fuse_slow(&disk, 0);
	assert_ptr_equal(ev.lease, lease);
	return ev;
}

static void judge(struct pinlease *lease, const struct pinlease_event *ev, uint64_t stamp)
{
	int file = open(path, O_RDONLY | O_CLOEXEC), saved = memfd_create("saved", MFD_CLOEXEC);
	unsigned int i, kept = 0, written = 0;
	uint64_t first, end;
	uint32_t gen;

	assert_true(file >= 0 && saved >= 0);
	assert_int_equal(ev->err, -ETIME);
	assert_int_equal(ev->lost_bytes, ranges(lease, &first, &end));
	assert_int_equal(ev->off, first);
	assert_int_equal(ev->len, end - first);
	assert_int_equal(pinlease_dma_begin(lease, 1, &gen), -ESTALE);
	assert_int_equal(pinlease_save(lease, saved), 0);
	for (i = 0; i < PIECES; i++) {
		if (lost_of(lease, i) == PIECE) {
			kept++;
			assert_false(piece_is(file, i, stamp));
			assert_true(piece_is(saved, i, stamp));
		} else {
			assert_int_equal(lost_of(lease, i), 0);
			written++;
			assert_true(piece_is(file, i, stamp));
		}
	}
	printf("of %u pieces %u are in the file and %u were lost, and saved\n", PIECES, written, kept);
	assert_true(written && kept);
	close(file);
	close(saved);
}

static int acquire(struct pinlease_file *file, uint64_t len, struct pinlease_why *why,
		   struct pinlease **lease)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .backend = pinlease_uring_backend(),
				      .backend_arg = u.ring };

	return pinlease_acquire(file, 0, len, &opts, why, lease);
}

static void refused(void)
{
	struct pinlease_why why = { 0 };
	char other[KT_PATH_MAX];
	struct pinlease_file *file;
	struct pinlease *lease;

	ut_file(other, fs.dir, "other", MUCH / UT_BLOCK);
	file = ut_open(&u, other, PINLEASE_WRITE, 0);
	/* It asks the disk once more first: in the break it may have written too little to know. */
	rec_fuse_slow(&disk, TRIAL_MS);
	assert_int_equal(acquire(file, MUCH, &why, &lease), -EFBIG);
	assert_int_equal(why.reason, PINLEASE_WHY_BUDGET);
	rec_fuse_slow(&disk, 0);
	assert_int_equal(acquire(file, UT_BLOCK, &why, &lease), 0);
	ut_drop(lease, file);
}

/* Nobody syncs, and most of it goes all the same: as much as such a disk would not take in a break. */
static void flushed(struct pinlease *lease)
{
	uint64_t until = kt_now() + UT_LONG * 1000000ull;

	write_pieces(lease, 3000, PIECES);
	rec_fuse_slow(&disk, FLUSH_MS);
	while (ut_info(lease).dirty_bytes > LEN / 4) {
		assert_true(kt_now() < until);
		kt_sleep_ms(20);
	}
	rec_fuse_slow(&disk, 0);
}

static void test_lost_in_ranges(void **state)
{
	struct pinlease_file *file;
	struct pinlease_event ev;
	struct pinlease *lease;
	int fd;

	(void)state;
	ut_file(path, fs.dir, "leased", LEN / UT_BLOCK);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, LEN, PINLEASE_L_MANUAL | PINLEASE_L_DIRTY_TOLD, 0);
	assert_int_equal(ut_view(lease).mode, PINLEASE_MODE_STAGED);
	assert_int_equal(mount(NULL, fs.dir, NULL, MS_REMOUNT | MS_SYNCHRONOUS, NULL), 0);

	/* As long as it is fast, nothing is. So little that how fast is not known for what comes. */
	write_pieces(lease, 1000, FEW);
	assert_true(kt_open_now(path, O_RDONLY, UT_LONG) >= 0);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_file(1000, FEW);
	ut_restore(lease);

	write_pieces(lease, 2000, PIECES);
	ev = lose(lease);
	judge(lease, &ev, 2000);

	/* To the file itself, as somebody would who sees that nothing else has changed there. */
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pinlease_save(lease, fd), 0);
	close(fd);
	ut_restore(lease);
	assert_int_equal(ut_info(lease).dirty_bytes, 0);
	assert_file(2000, PIECES);
	ut_restore(lease);

	refused();
	flushed(lease);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_file(3000, PIECES);
	ut_drop(lease, file);
}

static int setup(void **state)
{
	int r = rec_disk_make(&disk, REC_FUSE, 64);

	(void)state;
	if (r == -ENOENT || r == -ENODEV)
		kt_skip("no FUSE here: %s", strerror(-r));
	if (r || kt_mkfs("ext4", disk.device) || kt_fs_mount(&fs, "ext4", disk.device, NULL) ||
	    kt_break_time(BREAK_TIME_S))
		return -1;
	source = memfd_create("source", MFD_CLOEXEC);
	ut_start(&u, 8, 8);
	return source < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	rec_fuse_slow(&disk, 0);
	ut_stop(&u);
	kt_fs_drop(&fs);
	return rec_disk_end(&disk, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lost_in_ranges),
	};

	ut_begin();
	return cmocka_run_group_tests(tests, setup, teardown);
}
