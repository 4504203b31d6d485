/* SPDX-License-Identifier: BSD-3-Clause */
#include "eio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rt.h"

#define SLOTS	16u
#define LEN	(SLOTS * (uint64_t)RT_SLOT)
#define WAIT_MS 20000u

struct side { /* a lease and what was written to it */
	const char *name;
	struct pinlease_file *file;
	struct pinlease *lease;
	uint64_t off; /* in the file */
	bool told;
	struct rt_peer *books;
	const char *path; /* below the mount */
};

enum { ALL, TOLD, OTHER, SIDES };

static const struct eio_device *device;
static const char *type;
static struct bad_disk disk;
static struct kt_fs fs;
static struct pinlease_ctx *ctx;
static struct side side[SIDES] = {
	[ALL] = { .name = "all", .path = "two" },
	[TOLD] = { .name = "told", .path = "two", .off = LEN, .told = true },
	[OTHER] = { .name = "other", .path = "one" },
};

/* fdatasync of a thread that set this waits here, so that others can fail meanwhile. */
static _Thread_local bool gated;
static _Atomic int gate_waits, gate_open;

/* Found before the C library's, by libpinlease too. */
__attribute__((visibility("default"))) int fdatasync(int fd)
{
	uint64_t until = kt_now() + WAIT_MS * 1000000ull;

	if (gated) {
		atomic_store(&gate_waits, 1);
		while (!atomic_load(&gate_open) && kt_now() < until)
			usleep(1000);
	}
	return (int)syscall(SYS_fdatasync, fd);
}

static void side_path(const struct side *s, const char *dir, char path[KT_PATH_MAX + 8])
{
	snprintf(path, KT_PATH_MAX + 8, "%s/%s", dir, s->path);
}

static void side_open(struct side *s, struct pinlease_file *file)
{
	struct pinlease_opts lo = { .size = sizeof(lo),
				    .mode = PINLEASE_MODE_STAGED,
				    .flags = PINLEASE_L_MANUAL | (s->told ? PINLEASE_L_DIRTY_TOLD : 0) };
	char path[KT_PATH_MAX + 8];
	struct pinlease_why why = { 0 };
	int r = 0;

	side_path(s, fs.dir, path);
	s->file = file;
	s->books = calloc(1, sizeof(*s->books));
	rt_assert(s->books, "out of memory");
	if (!file)
		r = pinlease_file_open(ctx, path, NULL, &why, &s->file);
	rt_assert(!r, "open %s: %s, %s", path, strerror(-r), pinlease_reason_str(why.reason));
	device->opts(&lo);
	r = pinlease_acquire(s->file, s->off, LEN, &lo, &why, &s->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
}

/* A new write to each slot. */
static void side_write(struct side *s)
{
	static _Alignas(RT_SLOT) uint64_t words[RT_SLOT / sizeof(uint64_t)];
	uint32_t slot, seq;
	size_t i;
	int r;

	for (slot = 0; slot < SLOTS; slot++) {
		seq = atomic_load(&s->books->slot[slot].posted) + 1;
		for (i = 0; i < RT_SLOT / sizeof(*words); i++)
			words[i] = rt_word(slot, seq);
		atomic_store(&s->books->slot[slot].posted, seq);
		r = device->write(s->lease, s->told, slot * (uint64_t)RT_SLOT, words);
		rt_assert(!r, "%s: write: %s", s->name, strerror(-r));
		atomic_store(&s->books->slot[slot].acked, seq);
	}
}

static int side_sync(struct side *s)
{
	return pinlease_sync(s->lease, 0, 0, 0);
}

#define expect_sync(s, want)                                                           \
	do {                                                                           \
		int got_ = side_sync(s);                                               \
		rt_assert(got_ == (want), "%s: sync: %s", (s)->name, strerror(-got_)); \
	} while (0)

static uint64_t dirty_bytes(struct side *s)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	rt_assert(!pinlease_lease_info(s->lease, &info), "lease_info");
	return info.dirty_bytes;
}

static void disk_set(bool bad)
{
	int r = bad_disk_set(&disk, bad);

	rt_assert(!r, "the disk cannot be made %s: %s", bad ? "bad" : "good", strerror(-r));
}

/* How many of the last writes a file does not hold at off. */
static unsigned int missing_in(struct side *s, int fd)
{
	static unsigned char image[LEN];
	unsigned int held, missing;
	ssize_t n = pread(fd, image, LEN, (off_t)s->off);

	missing = rt_missing(s->books, image, n < 0 ? 0 : (size_t)n, RT_ALL, 0, &held);
	rt_assert(missing || held == SLOTS, "%u slots are judged", held);
	return missing;
}

/* As another machine would find it that gets this disk now. */
static unsigned int missing_on_disk(struct side *s)
{
	char on[KT_DEVICE_MAX], path[KT_PATH_MAX + 8];
	int image = bad_disk_copy(&disk), loop, fd, r;
	unsigned int missing;
	struct kt_fs copy;

	rt_assert(image >= 0, "no copy of the disk: %s", strerror(-image));
	loop = kt_loop(image, on);
	rt_assert(loop >= 0, "no loop device: %s", strerror(-loop));
	r = kt_fs_mount_copy(&copy, type, on);
	rt_assert(!r, "the copy cannot be mounted: %s", strerror(-r));
	side_path(s, copy.dir, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	rt_assert(fd >= 0, "%s: %s", path, strerror(errno));
	missing = missing_in(s, fd);
	close(fd);
	kt_fs_drop(&copy);
	kt_fs_forget(type, on);
	close(loop);
	close(image);
	return missing;
}

/* Before 6.7 a btrfs and its copy cannot be mounted side by side. */
static bool copies_can_be_looked_at(void)
{
	return strcmp(type, "btrfs") || kt_kernel_from(6, 7);
}

static void expect_on_disk(struct side *s, const char *after)
{
	rt_assert(!copies_can_be_looked_at() || !missing_on_disk(s), "%s: data is missing after %s", s->name,
		  after);
}

static void expect_not_on_disk(struct side *s)
{
	s->books->quiet = true;
	rt_assert(!copies_can_be_looked_at() || missing_on_disk(s), "%s: the disk did not fail", s->name);
	s->books->quiet = false;
}

static void expect_saved(struct side *s)
{
	int fd = memfd_create("saved", MFD_CLOEXEC), r;

	rt_assert(fd >= 0, "memfd: %s", strerror(errno));
	r = pinlease_save(s->lease, fd);
	rt_assert(!r, "%s: save: %s", s->name, strerror(-r));
	rt_assert(!missing_in(s, fd), "%s: what was saved is not what was written", s->name);
	close(fd);
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
	rt_assert(dirty_bytes(s) == LEN, "%s: %llu bytes are dirty", s->name,
		  (unsigned long long)dirty_bytes(s));
	expect_not_on_disk(s);
	expect_sync(s, -EIO);
	expect_saved(s);
	disk_set(false);
	expect_sync(s, 0);
	expect_on_disk(s, "the retry");
	expect_sync(s, 0);
	printf("%s, %s alone: told twice in two tries, saved, and there after the third\n", type, s->name);
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
	uint64_t until = kt_now() + WAIT_MS * 1000000ull;
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
	rt_assert(dirty_bytes(first) == LEN && dirty_bytes(second) == LEN, "%llu and %llu bytes are dirty",
		  (unsigned long long)dirty_bytes(first), (unsigned long long)dirty_bytes(second));
	expect_saved(first);
	expect_saved(second);
	disk_set(false);
	expect_sync(first, 0);
	expect_sync(second, 0);
	expect_on_disk(first, "the retry");
	expect_on_disk(second, "the retry");
	printf("%s, %s and %s: both told of one failure, and both there after a retry\n", type, first->name,
	       second->name);
}

/* Another file of the same disk. On btrfs its data goes to the same bad place. */
static void elsewhere(struct side *bad, struct side *good)
{
	bool shared = !strcmp(type, "btrfs");

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
	printf("%s, two files: %s\n", type,
	       shared ? "each told of its own" : "only the one told whose blocks are bad");
}

/* How the break ended for it: REVOKED, or LOST and *lost. */
static uint32_t break_ended(struct side *s, struct pinlease_event *lost)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(ctx), .events = POLLIN };
	uint64_t until = kt_now() + WAIT_MS * 1000000ull;

	while (kt_now() < until) {
		*lost = (struct pinlease_event){ .size = sizeof(*lost) };
		while (pinlease_ctx_next_event(ctx, lost) == 1)
			if (lost->lease == s->lease && lost->type != PINLEASE_EV_BREAK)
				return lost->type;
		poll(&pfd, 1, 10);
	}
	rt_die(__FILE__, __LINE__, "%s: the break does not end", s->name);
}

/* And no event of it, or of before, is left. */
static void restore(struct side *s)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	uint64_t until = kt_now() + WAIT_MS * 1000000ull;
	struct pinlease_why why = { 0 };
	int r;

	while ((r = pinlease_restore(s->lease, &why)) == -EAGAIN && kt_now() < until)
		kt_sleep_ms(5);
	rt_assert(!r, "%s: restore: %s, %s", s->name, strerror(-r), pinlease_reason_str(why.reason));
	while (pinlease_ctx_next_event(ctx, &ev) == 1)
		;
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
	side_path(s, fs.dir, path);
	call = kt_call_start(open_and_fsync, path, sizeof(path));
	rt_assert(call && kt_call_done(call, WAIT_MS), "the opener");
	rt_assert(break_ended(s, &ev) == PINLEASE_EV_REVOKED, "%s: not REVOKED", s->name);
	rt_assert(call->ret == -EIO, "the opener's fsync: %s", strerror(-call->ret));
	kt_call_end(call);
	disk_set(false);
	restore(s);
	restore(beside);
	r = side_sync(s);
	rt_assert(r == -EIO, "%s: lost after a break, and the next sync says: %s", s->name, strerror(-r));
	side_write(s);
	expect_sync(s, 0);
	expect_on_disk(s, "the retry");
	printf("%s, %s: what was lost after a break was told by the next sync\n", type, s->name);
}

static void lost_told(struct side *s, const struct pinlease_event *ev, const char *path)
{
	uint32_t gen;
	int r, fd;

	rt_assert(ev->err == -EIO && ev->lost_bytes == LEN, "%s: LOST: %s, %llu bytes", s->name,
		  strerror(-ev->err), (unsigned long long)ev->lost_bytes);
	r = pinlease_dma_begin(s->lease, 1, &gen);
	rt_assert(r == -ESTALE, "dma_begin in LOST: %d", r);
	expect_saved(s);
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

	rt_assert(!mount(NULL, fs.dir, NULL, MS_REMOUNT | MS_SYNCHRONOUS, NULL), "remount: %s",
		  strerror(errno));
	side_write(s);
	side_path(s, fs.dir, path);
	disk_set(true);
	call = kt_open(path, O_RDONLY);
	rt_assert(call && kt_call_done(call, WAIT_MS) && call->ret >= 0, "the opener");
	how = break_ended(s, &ev);
	kt_call_end(call);
	if (how == PINLEASE_EV_LOST)
		lost_told(s, &ev, path);
	else
		rt_assert(how == PINLEASE_EV_REVOKED, "event %u", how);
	disk_set(false);
	restore(s);
	restore(beside);
	rt_assert(!mount(NULL, fs.dir, NULL, MS_REMOUNT, NULL), "remount: %s", strerror(errno));
	r = side_sync(s);
	rt_assert(r == -EIO || (!r && how == PINLEASE_EV_LOST), "%s: neither LOST nor told: sync says %s",
		  s->name, strerror(-r));
	if (r)
		side_write(s);
	expect_sync(s, 0);
	expect_on_disk(s, "a break");
	printf("%s, %s: %s\n", type, s->name,
	       how == PINLEASE_EV_LOST
		       ? "a break that could not write was LOST, and all of it saved"
		       : "the other lease met the error of a break, and the next sync told it");
}

static void prepare(enum rec_kind kind)
{
	unsigned int mib = kt_fs_least_mib(type);
	char path[KT_PATH_MAX];
	int r;

	rt_assert(mib, "no such file system: %s", type);
	r = bad_disk_make(&disk, kind, mib < 32 ? 32 : mib);
	if (r == -ENOENT || r == -ENODEV)
		kt_skip("no disk that can be made to fail here: %s", strerror(-r));
	rt_assert(!r, "no disk: %s", strerror(-r));
	rt_assert(!kt_mkfs(type, disk.rec.device), "mkfs.%s", type);
	r = kt_fs_mount(&fs, type, disk.rec.device, NULL);
	rt_assert(!r, "mount: %s", strerror(-r));
	rt_assert(!kt_file(path, fs.dir, side[OTHER].path, LEN), "no file");
	rt_assert(!kt_file(path, fs.dir, side[ALL].path, 2 * LEN), "no file");
	sync();
	r = bad_disk_file(&disk, type, path);
	rt_assert(!r, "where its blocks are cannot be told: %s", strerror(-r));
}

void eio_run(const char *fs_type, enum rec_kind kind, const struct eio_device *dev)
{
	int i;

	type = fs_type;
	device = dev;
	if (!copies_can_be_looked_at())
		kt_note("what a disk holds under a mounted btrfs");
	prepare(kind);
	rt_assert(!pinlease_ctx_new(NULL, &ctx), "ctx_new");
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
	for (i = 0; i < SIDES; i++)
		rt_assert(!pinlease_release(side[i].lease), "%s: release", side[i].name);
	rt_assert(!pinlease_file_close(side[ALL].file) && !pinlease_file_close(side[OTHER].file),
		  "file_close");
	rt_assert(!pinlease_ctx_free(ctx), "ctx_free");
	kt_fs_drop(&fs);
	kt_fs_forget(type, disk.rec.device);
	bad_disk_end(&disk);
}
