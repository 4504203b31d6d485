/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flakey ext4: a disk that comes and goes, by dm-flakey, which answers each read and write with EIO
 * for some seconds, and works for as long, again and again. Nobody tells the owner when.
 *
 * Sync is told of each write that has met a bad time, the data is dirty still, and a sync
 * that says 0 has put it on the disk. A break is answered in a bad time as in a good one, and what
 * did not get to the disk then is told by a sync later. A lease of a file that cannot be read is
 * refused, and had when the disk is back. Without a commit of the journal in a bad time (the mount
 * option), since after that ext4 would be read-only for good.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "eio_side.h"
#include "rounds.h"

#define UP_S	   1u
#define DOWN_S	   1u
#define TURN_MS	   30000u /* by then a time must have come, good or bad */
#define RETRY_MS   50u
#define OPENER_MS  20000u
#define COLD_BYTES (4u << 20)

static struct side side[] = {
	{ .name = "all", .path = "file" },
	{ .name = "told", .path = "file", .off = SIDE_LEN, .told = true },
};
#define SIDES (sizeof(side) / sizeof(side[0]))

static void flaky(bool on)
{
	int r = bad_disk_flaky(&eio.disk, UP_S, on ? DOWN_S : 0);

	rt_assert(!r, "no dm-flakey: %s", strerror(-r));
}

/* New data each time, until the time is as wanted; how many answers were others. */
static unsigned int sync_until(struct side *s, bool write, int want)
{
	uint64_t until = kt_now() + TURN_MS * 1000000ull;
	unsigned int others = 0;
	int r;

	for (;;) {
		if (write)
			side_write(s);
		r = side_sync(s);
		if (r == want)
			return others;
		rt_assert(!r || r == -EIO, "%s: sync: %s", s->name, strerror(-r));
		rt_assert(kt_now() < until, "%s: sync goes on to answer %s", s->name, strerror(-r));
		others++;
		kt_sleep_ms(RETRY_MS);
	}
}

static void in_syncs(struct side *s)
{
	unsigned int good, bad;

	good = sync_until(s, true, -EIO);
	rt_assert(side_dirty(s) == SIDE_LEN, "%s: %llu bytes are dirty", s->name,
		  (unsigned long long)side_dirty(s));
	expect_saved(s);
	bad = sync_until(s, false, 0);
	expect_on_disk(s, "the retry");
	printf("%s: %u syncs, then EIO, saved; there after %u more\n", s->name, good, bad + 1);
}

/* Nobody waits for the disk in a break; but who syncs afterwards is told until it is there. */
static void in_a_break(struct side *s, const char *path)
{
	struct pinlease_event ev;
	struct kt_call *call;
	unsigned int bad;

	sync_until(s, true, -EIO);
	side_write(s);
	call = kt_open(path, O_RDONLY);
	rt_assert(call && kt_call_done(call, OPENER_MS) && call->ret >= 0, "the opener");
	kt_call_end(call);
	rt_assert(side_break_ended(s, &ev) == PINLEASE_EV_REVOKED, "%s: event %u, %s", s->name, ev.type,
		  strerror(-ev.err));
	side_restore(s);
	bad = sync_until(s, false, 0);
	expect_on_disk(s, "the break");
	printf("%s: a break in a bad time; on the disk after %u syncs\n", s->name, bad + 1);
}

/* Its pages are dropped first, so that it has to be read. */
static int acquire_cold(const char *path, struct pinlease_why *why)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .mode = PINLEASE_MODE_STAGED };
	struct pinlease_file *file;
	struct pinlease *lease = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;

	rt_assert(fd >= 0 && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), "fadvise");
	close(fd);
	eio.device->opts(&lo);
	r = pinlease_file_open(eio.ctx, path, NULL, why, &file);
	rt_assert(!r, "open %s: %s", path, strerror(-r));
	r = pinlease_acquire(file, 0, COLD_BYTES, &lo, why, &lease);
	rt_assert(!r == !!lease, "acquire: %s, and a lease", strerror(-r));
	if (lease)
		rt_assert(!pinlease_release(lease), "release");
	rt_assert(!pinlease_file_close(file), "file_close");
	return r;
}

static unsigned int open_fds(void)
{
	unsigned int n = 0;
	int fd;

	for (fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void in_acquires(const char *cold)
{
	uint64_t until = kt_now() + TURN_MS * 1000000ull;
	unsigned int fds = open_fds(), good = 0, bad = 0;
	long pinned = kt_pinned_kib();
	struct pinlease_why why = { 0 };
	int r;

	/* A good one before a bad one, or behind it. */
	while (!good || !bad) {
		r = acquire_cold(cold, &why);
		rt_assert(!r || (r == -EIO && why.reason == PINLEASE_WHY_IO), "acquire: %s, %s", strerror(-r),
			  pinlease_reason_str(why.reason));
		good += !r;
		bad += r == -EIO;
		rt_assert(kt_now() < until, "%u good acquires, %u bad ones", good, bad);
		rt_assert(open_fds() == fds && kt_pinned_kib() == pinned, "something is left of an acquire");
	}
	printf("acquire: %u refused with EIO, %u good; nothing left\n", bad, good);
}

static void scene(const char *path, const char *cold)
{
	size_t i, rounds = pl_rounds(PL_R_flakey_rounds);

	for (i = 0; i < SIDES; i++) {
		side_open(&side[i], i ? side[0].file : NULL);
		side_write(&side[i]);
		expect_sync(&side[i], 0);
		expect_on_disk(&side[i], "a sync on a good disk");
	}
	flaky(true);
	for (i = 0; i < rounds; i++)
		in_syncs(&side[i % SIDES]);
	in_a_break(&side[0], path);
	in_acquires(cold);
	flaky(false);
	for (i = 0; i < SIDES; i++) {
		side_restore(&side[i]);
		side_write(&side[i]);
		expect_sync(&side[i], 0);
		expect_on_disk(&side[i], "a sync on a disk that is good again");
		rt_assert(!pinlease_release(side[i].lease), "%s: release", side[i].name);
	}
	rt_assert(!pinlease_file_close(side[0].file), "file_close");
}

int main(int argc, char **argv)
{
	char path[KT_PATH_MAX], cold[KT_PATH_MAX];
	int r;

	/* The mount options are its own. */
	rt_assert(argc == 2 && !strcmp(argv[1], "ext4"), "usage: flakey ext4");
	kt_init();
	rt_require();
	eio.type = argv[1];
	eio.device = eio_rdma_open();
	eio_disk_make(REC_DM);
	r = kt_fs_mount(&eio.fs, eio.type, eio.disk.rec.device, "commit=300,noinit_itable");
	rt_assert(!r, "mount: %s", strerror(-r));
	rt_assert(!kt_file(path, eio.fs.dir, "file", SIDES * SIDE_LEN), "no file");
	rt_assert(!kt_file(cold, eio.fs.dir, "cold", COLD_BYTES), "no file");
	sync();
	rt_assert(!pinlease_ctx_new(NULL, &eio.ctx), "ctx_new");
	scene(path, cold);
	rt_assert(!pinlease_ctx_free(eio.ctx), "ctx_free");
	eio_disk_end();
	eio_rdma_close();
	return 0;
}
