/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sync_quota FS: a quota that is used up under staged leases, while what a device wrote is
 * on its way into the file. acquire has seen to it that writing back needs no new block, so
 * it takes the application's own doing, through the descriptor that carries the lease, of
 * which no guard tells: it has punched its file (ext4), or made a snapshot of it (xfs). On
 * btrfs each write takes new blocks.
 *
 * Each sync of each lease says EDQUOT, also when both run at a time; the data is dirty
 * still, and can be saved elsewhere; a break makes both LOST, and says so; with the quota
 * raised a sync writes it all, and a further one says nothing more.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "eio_side.h"

enum { ALL, TOLD, SIDES };

static struct side side[SIDES] = {
	[ALL] = { .name = "all" },
	[TOLD] = { .name = "told", .off = SIDE_LEN, .told = true },
};

static int own; /* the application's descriptor of the leased file */

static void limit(bool on)
{
	int r = kt_quota_limit(eio.type, eio.disk.rec.device, eio.fs.dir, on);

	rt_assert(!r, "the quota cannot be %s: %s", on ? "used up" : "raised", strerror(-r));
}

static void file_make(char path[KT_PATH_MAX])
{
	const char *options;
	int r, i;

	for (i = 0; i < SIDES; i++)
		side[i].path = strcmp(eio.type, "btrfs") ? "file" : KT_QUOTA_SUB "/file";

	eio_disk_make(REC_DM);
	rt_assert(!kt_quota_make(eio.type, eio.disk.rec.device, &options), "no quota");
	r = kt_fs_mount(&eio.fs, eio.type, eio.disk.rec.device, options);
	rt_assert(!r, "mount: %s", strerror(-r));
	rt_assert(!kt_quota_on(eio.type, eio.fs.dir), "no quota");
	rt_assert(!kt_file(path, eio.fs.dir, side[ALL].path, SIDES * SIDE_LEN), "no file");
	rt_assert(!chown(path, KT_QUOTA_USER, KT_QUOTA_USER), "chown: %s", strerror(errno));
	sync();
}

static void leases_take(const char *path)
{
	struct pinlease_file *file;
	struct pinlease_why why = { 0 };
	int r;

	own = open(path, O_RDWR | O_CLOEXEC);
	rt_assert(own >= 0, "open: %s", strerror(errno));
	r = pinlease_file_attach(eio.ctx, own, NULL, &why, &file);
	rt_assert(!r, "attach: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	side_open(&side[ALL], file);
	side_open(&side[TOLD], file);
}

/* From now on writing to the file takes blocks that it has not. */
static void need_blocks(void)
{
	char path[KT_PATH_MAX];
	int snapshot;

	if (!strcmp(eio.type, "ext4")) {
		rt_assert(!fallocate(own, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIDES * SIDE_LEN),
			  "punch: %s", strerror(errno));
	} else if (!strcmp(eio.type, "xfs")) {
		rt_assert(!kt_file(path, eio.fs.dir, "snapshot", 0), "no file");
		snapshot = open(path, O_WRONLY | O_CLOEXEC);
		rt_assert(snapshot >= 0 && !ioctl(snapshot, FICLONE, own), "FICLONE: %s", strerror(errno));
		close(snapshot);
	}
}

static void *sync_main(void *arg)
{
	return (void *)(intptr_t)side_sync(arg);
}

static void used_up(struct side *s)
{
	expect_sync(s, -EDQUOT);
	rt_assert(side_dirty(s) == SIDE_LEN, "%s: %llu bytes are dirty", s->name,
		  (unsigned long long)side_dirty(s));
	expect_not_on_disk(s);
	expect_saved(s);
}

static void together(void)
{
	pthread_t thread[SIDES];
	void *ret[SIDES];
	int i;

	for (i = 0; i < SIDES; i++)
		rt_assert(!pthread_create(&thread[i], NULL, sync_main, &side[i]), "pthread_create");
	for (i = 0; i < SIDES; i++)
		pthread_join(thread[i], &ret[i]);
	for (i = 0; i < SIDES; i++)
		rt_assert((intptr_t)ret[i] == -EDQUOT, "%s: sync beside the other: %s", side[i].name,
			  strerror((int)-(intptr_t)ret[i]));
}

static void raised(void)
{
	int i;

	limit(false);
	for (i = 0; i < SIDES; i++)
		expect_sync(&side[i], 0);
	for (i = 0; i < SIDES; i++) {
		expect_on_disk(&side[i], "the retry");
		rt_assert(!side[i].told || !side_dirty(&side[i]), "%s: dirty still", side[i].name);
		expect_sync(&side[i], 0);
	}
}

static void in_a_sync(void)
{
	int i;

	need_blocks();
	limit(true);
	for (i = 0; i < SIDES; i++)
		side_write(&side[i]);
	used_up(&side[ALL]);
	used_up(&side[TOLD]);
	together();
	expect_saved(&side[ALL]);
	expect_saved(&side[TOLD]);
	raised();
	printf("%s: each sync told, alone and beside the other; saved, and there after a retry\n", eio.type);
}

static void both_lost(struct pinlease_event lost[SIDES])
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(eio.ctx), .events = POLLIN };
	uint64_t until = kt_now() + SIDE_WAIT_MS * 1000000ull;
	struct pinlease_event ev = { .size = sizeof(ev) };
	unsigned int told = 0;
	int i;

	while (told < SIDES && kt_now() < until) {
		while (pinlease_ctx_next_event(eio.ctx, &ev) == 1)
			for (i = 0; i < SIDES; i++)
				if (ev.type == PINLEASE_EV_LOST && ev.lease == side[i].lease) {
					lost[i] = ev;
					told++;
				}
		poll(&pfd, 1, 10);
	}
	rt_assert(told == SIDES, "%u leases are LOST", told);
}

static void in_a_break(const char *path)
{
	struct pinlease_event ev[SIDES];
	struct kt_call *call;
	int i;

	need_blocks();
	limit(true);
	for (i = 0; i < SIDES; i++)
		side_write(&side[i]);
	call = kt_open(path, O_RDONLY);
	rt_assert(call && kt_call_done(call, SIDE_WAIT_MS) && call->ret >= 0, "the opener");
	kt_call_end(call);
	both_lost(ev);
	for (i = 0; i < SIDES; i++)
		expect_lost(&side[i], &ev[i], -EDQUOT);
	limit(false);
	for (i = 0; i < SIDES; i++)
		rt_assert(!pinlease_save(side[i].lease, own), "save to the file itself");
	for (i = 0; i < SIDES; i++)
		side_restore(&side[i]);
	for (i = 0; i < SIDES; i++)
		expect_sync(&side[i], 0);
	for (i = 0; i < SIDES; i++)
		expect_on_disk(&side[i], "the break");
	printf("%s: a break that could not write was LOST, for both, and all of it saved\n", eio.type);
}

int main(int argc, char **argv)
{
	char path[KT_PATH_MAX];
	int i;

	rt_assert(argc == 2, "usage: sync_quota FILESYSTEM");
	rt_assert(!kt_quota_obey(), "capset: %s", strerror(errno));
	kt_init();
	rt_require();
	eio.type = argv[1];
	eio.device = eio_rdma_open();
	if (!copies_can_be_looked_at())
		kt_note("what a disk holds under a mounted btrfs");
	file_make(path);
	rt_assert(!pinlease_ctx_new(NULL, &eio.ctx), "ctx_new");
	leases_take(path);
	in_a_sync();
	in_a_break(path);
	for (i = 0; i < SIDES; i++)
		rt_assert(!pinlease_release(side[i].lease), "%s: release", side[i].name);
	rt_assert(!pinlease_file_close(side[ALL].file), "file_close");
	close(own);
	rt_assert(!pinlease_ctx_free(eio.ctx), "ctx_free");
	eio_disk_end();
	eio_rdma_close();
	return 0;
}
