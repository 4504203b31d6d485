/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "eio_side.h"

enum { ALL, TOLD, OTHER, PAGED, SIDES };

static struct side side[SIDES] = {
	[ALL] = { .name = "all", .path = "two" },
	[TOLD] = { .name = "told", .path = "two", .off = SIDE_LEN, .told = true },
	[OTHER] = { .name = "other", .path = "one" },
	[PAGED] = { .name = "odp", .path = "two", .off = 2 * SIDE_LEN, .odp = true },
};

/* fdatasync of a thread that set this waits here, so that others can fail meanwhile. */
static _Thread_local bool gated;
static _Atomic int gate_waits, gate_open;

/* Found before the C library's, by libpinlease too. */
__attribute__((visibility("default"))) int fdatasync(int fd)
{
	uint64_t until = kt_now() + SIDE_WAIT_MS * 1000000ull;

	if (gated) {
		atomic_store(&gate_waits, 1);
		while (!atomic_load(&gate_open) && kt_now() < until)
			usleep(1000);
	}
	return (int)syscall(SYS_fdatasync, fd);
}

/* Alone: told each time that it was tried in vain, and all is there in the end. */
static void alone(struct side *s)
{
	side_write(s);
	expect_sync(s, 0);
	expect_on_disk(s, "a sync on a good disk");
	side_write(s);
	disk_set(true);
	expect_sync(s, -EIO);
	rt_assert(side_dirty(s) == SIDE_LEN, "%s: %llu bytes are dirty", s->name,
		  (unsigned long long)side_dirty(s));
	expect_not_on_disk(s);
	expect_sync(s, -EIO);
	expect_saved(s);
	disk_set(false);
	expect_sync(s, 0);
	expect_on_disk(s, "the retry");
	expect_sync(s, 0);
	printf("%s, %s alone: told twice in two tries, saved, and there after the third\n", eio.type,
	       s->name);
}

static void *gated_main(void *arg)
{
	gated = true;
	return (void *)(intptr_t)side_sync(arg);
}

static void *free_main(void *arg)
{
	return (void *)(intptr_t)side_sync(arg);
}

/*
 * Both have their data in the page cache when one fdatasync fails. The kernel tells an open
 * file once; both must be told.
 */
static void together(struct side *first, struct side *second)
{
	uint64_t until = kt_now() + SIDE_WAIT_MS * 1000000ull;
	pthread_t thread[2];
	void *ret[2];

	atomic_store(&gate_waits, 0);
	atomic_store(&gate_open, 0);
	side_write(first);
	side_write(second);
	disk_set(true);
	rt_assert(!pthread_create(&thread[0], NULL, gated_main, first), "pthread_create");
	while (!atomic_load(&gate_waits)) {
		rt_assert(kt_now() < until, "%s: no fdatasync", first->name);
		usleep(1000);
	}
	/* Long enough for it to have written to the page cache, and to fail or wait for the first. */
	rt_assert(!pthread_create(&thread[1], NULL, free_main, second), "pthread_create");
	kt_sleep_ms(300);
	atomic_store(&gate_open, 1);
	pthread_join(thread[0], &ret[0]);
	pthread_join(thread[1], &ret[1]);
	rt_assert((intptr_t)ret[0] == -EIO, "%s was not told: %s", first->name,
		  strerror((int)-(intptr_t)ret[0]));
	rt_assert((intptr_t)ret[1] == -EIO, "%s was not told: %s", second->name,
		  strerror((int)-(intptr_t)ret[1]));
	rt_assert(side_dirty(first) == SIDE_LEN && side_dirty(second) == SIDE_LEN,
		  "%llu and %llu bytes are dirty",
		  (unsigned long long)side_dirty(first), (unsigned long long)side_dirty(second));
	expect_saved(first);
	expect_saved(second);
	disk_set(false);
	expect_sync(first, 0);
	expect_sync(second, 0);
	expect_on_disk(first, "the retry");
	expect_on_disk(second, "the retry");
	printf("%s, %s and %s: both told of one failure, and both there after a retry\n", eio.type,
	       first->name, second->name);
}

/* Another file of the same disk. On btrfs its data goes to the same bad place. */
static void elsewhere(struct side *bad, struct side *good)
{
	bool shared = !strcmp(eio.type, "btrfs");

	side_write(bad);
	side_write(good);
	disk_set(true);
	expect_sync(bad, -EIO);
	expect_sync(good, shared ? -EIO : 0);
	disk_set(false);
	expect_sync(bad, 0);
	expect_sync(good, 0);
	expect_on_disk(bad, "the retry");
	expect_on_disk(good, "the retry");
	printf("%s, two files: %s\n", eio.type,
	       shared ? "each told of its own" : "only the one told whose blocks are bad");
}

/* The opener: what it reads is judged by the test; then it has the kernel write. */
static int open_and_fsync(const void *arg)
{
	int fd = open(arg, O_RDWR | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = fsync(fd) ? -errno : 0;
	close(fd);
	return r;
}

/*
 * A break while the disk is bad: the data goes to the page cache, which is the file to
 * the opener, and is lost behind everybody's back. The next sync says so.
 */
static void broken(struct side *s, struct side *beside)
{
	char path[KT_PATH_MAX + 8];
	struct pinlease_event ev;
	struct kt_call *call;
	int r;

	side_write(s);
	disk_set(true);
	side_path(s, eio.fs.dir, path);
	call = kt_call_start(open_and_fsync, path, sizeof(path));
	rt_assert(call && kt_call_done(call, SIDE_WAIT_MS), "the opener");
	rt_assert(side_break_ended(s, &ev) == PINLEASE_EV_REVOKED, "%s: not REVOKED", s->name);
	rt_assert(call->ret == -EIO, "the opener's fsync: %s", strerror(-call->ret));
	kt_call_end(call);
	disk_set(false);
	side_restore(s);
	side_restore(beside);
	r = side_sync(s);
	rt_assert(r == -EIO, "%s: lost after a break, and the next sync says: %s", s->name, strerror(-r));
	side_write(s);
	expect_sync(s, 0);
	expect_on_disk(s, "the retry");
	printf("%s, %s: what was lost after a break was told by the next sync\n", eio.type, s->name);
}

static void lost_told(struct side *s, const struct pinlease_event *ev, const char *path)
{
	int r, fd;

	expect_lost(s, ev, -EIO);
	disk_set(false);
	fd = open(path, O_RDWR | O_CLOEXEC);
	rt_assert(fd >= 0, "open: %s", strerror(errno));
	r = pinlease_save(s->lease, fd);
	rt_assert(!r, "%s: save to the file itself: %s", s->name, strerror(-r));
	close(fd);
}

/*
 * A break that meets the error itself, since every write is synchronous: LOST, and nothing
 * is gone. But the kernel tells an open file once, so of two leases one may hear nothing
 * of it there: then the next sync has to say so.
 */
static void lost(struct side *s, struct side *beside)
{
	char path[KT_PATH_MAX + 8];
	struct pinlease_event ev;
	struct kt_call *call;
	uint32_t how;
	int r;

	rt_assert(!mount(NULL, eio.fs.dir, NULL, MS_REMOUNT | MS_SYNCHRONOUS, NULL), "remount: %s",
		  strerror(errno));
	side_write(s);
	side_path(s, eio.fs.dir, path);
	disk_set(true);
	call = kt_open(path, O_RDONLY);
	rt_assert(call && kt_call_done(call, SIDE_WAIT_MS) && call->ret >= 0, "the opener");
	how = side_break_ended(s, &ev);
	kt_call_end(call);
	if (how == PINLEASE_EV_LOST)
		lost_told(s, &ev, path);
	else
		rt_assert(how == PINLEASE_EV_REVOKED, "event %u", how);
	disk_set(false);
	side_restore(s);
	side_restore(beside);
	rt_assert(!mount(NULL, eio.fs.dir, NULL, MS_REMOUNT, NULL), "remount: %s", strerror(errno));
	r = side_sync(s);
	rt_assert(r == -EIO || (!r && how == PINLEASE_EV_LOST), "%s: neither LOST nor told: sync says %s",
		  s->name, strerror(-r));
	if (r)
		side_write(s);
	expect_sync(s, 0);
	expect_on_disk(s, "a break");
	printf("%s, %s: %s\n", eio.type, s->name,
	       how == PINLEASE_EV_LOST
		       ? "a break that could not write was LOST, and all of it saved"
		       : "the other lease met the error of a break, and the next sync told it");
}

/* The device reaches the file's own pages, which the kernel calls clean when it could not write them. */
static void paged(struct side *s, struct side *beside)
{
	int r;

	side_write(s);
	expect_sync(s, 0);
	expect_on_disk(s, "a sync on a good disk");
	side_write(s);
	disk_set(true);
	expect_sync(s, -EIO);
	expect_not_on_disk(s);
	expect_sync(s, -EIO);
	r = pinlease_save(s->lease, -1);
	rt_assert(r == -ENODATA, "%s: save: %s", s->name, strerror(-r));
	disk_set(false);
	expect_sync(s, 0);
	expect_on_disk(s, "the retry");
	expect_sync(s, 0);
	/* What another's sync met may be its loss. */
	side_write(s);
	side_write(beside);
	disk_set(true);
	expect_sync(beside, -EIO);
	expect_sync(s, -EIO);
	disk_set(false);
	expect_sync(s, 0);
	expect_sync(beside, 0);
	expect_on_disk(s, "the retry");
	expect_on_disk(beside, "the retry");
	printf("%s, %s: told each time, also of what %s met, and there after a retry\n", eio.type, s->name,
	       beside->name);
}

static void prepare(enum rec_kind kind)
{
	char path[KT_PATH_MAX];
	int r;

	eio_disk_make(kind);
	r = kt_fs_mount(&eio.fs, eio.type, eio.disk.rec.device, NULL);
	rt_assert(!r, "mount: %s", strerror(-r));
	rt_assert(!kt_file(path, eio.fs.dir, side[OTHER].path, SIDE_LEN), "no file");
	rt_assert(!kt_file(path, eio.fs.dir, side[ALL].path, 3 * SIDE_LEN), "no file");
	sync();
	r = bad_disk_file(&eio.disk, eio.type, path);
	rt_assert(!r, "where its blocks are cannot be told: %s", strerror(-r));
}

void eio_run(const char *fs_type, enum rec_kind kind, const struct eio_device *device)
{
	int i;

	eio.type = fs_type;
	eio.device = device;
	if (!copies_can_be_looked_at())
		kt_note("what a disk holds under a mounted btrfs");
	prepare(kind);
	rt_assert(!pinlease_ctx_new(NULL, &eio.ctx), "ctx_new");
	side_open(&side[ALL], NULL);
	side_open(&side[TOLD], side[ALL].file);
	side_open(&side[OTHER], NULL);
	alone(&side[ALL]);
	alone(&side[TOLD]);
	together(&side[ALL], &side[TOLD]);
	together(&side[TOLD], &side[ALL]);
	elsewhere(&side[ALL], &side[OTHER]);
	broken(&side[ALL], &side[TOLD]);
	broken(&side[TOLD], &side[ALL]);
	lost(&side[ALL], &side[TOLD]);
	lost(&side[TOLD], &side[ALL]);
	if (device->odp) {
		side_open(&side[PAGED], side[ALL].file);
		paged(&side[PAGED], &side[ALL]);
	} else {
		kt_note("on-demand paging");
	}
	for (i = 0; i < SIDES; i++)
		if (side[i].lease)
			rt_assert(!pinlease_release(side[i].lease), "%s: release", side[i].name);
	rt_assert(!pinlease_file_close(side[ALL].file) && !pinlease_file_close(side[OTHER].file),
		  "file_close");
	rt_assert(!pinlease_ctx_free(eio.ctx), "ctx_free");
	eio_disk_end();
}
