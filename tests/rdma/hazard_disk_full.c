/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The disk is full, or the owner of the file has no quota left.
 *
 * Over a hole. Bare, the registration fails with EFAULT, which says nothing, and a store
 * through the mapping is SIGBUS. With the library acquire says ENOSPC or EDQUOT, the
 * reason is NO_SPACE, and nothing has changed.
 *
 * In writing back, when it comes to a break. btrfs writes to new blocks always; bare, where
 * page cache can be pinned, fsync answers 0, the data is not on the disk, and a good part of it
 * never will be. With the library the lease is LOST and says so, and the data can be
 * saved. xfs has to copy what is shared with another file, ext4 does not even that; there
 * acquire made sure that writing back needs no new block.
 *
 * In a sync, on btrfs. With the library it is an error, the data stays dirty, can be saved,
 * and is on the disk after another sync once there is room.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hazard.h"

#define PAGES	 64u
#define LEN	 (PAGES * (size_t)HAZARD_PAGE)
#define LONG_MS	 20000

#define ALWAYS	 { HAZARD_SHOWS, HAZARD_SHOWS, HAZARD_SHOWS }
#define WHEN_PIN { HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE }
#define SAFE	 { HAZARD_TOLD, HAZARD_NOT_MADE, HAZARD_NOT_MADE }

enum scene { HOLE, QUOTA, BREAK, SYNC };

static const struct hazard_place places[] = {
	{ "tmpfs", "a hole", HOLE, ALWAYS },	{ "ext4", "a hole", HOLE, ALWAYS },
	{ "ext4", "a quota", QUOTA, ALWAYS },	{ "ext4", "a break", BREAK, SAFE },
	{ "xfs", "a hole", HOLE, ALWAYS },	{ "xfs", "a break", BREAK, SAFE },
	{ "btrfs", "a hole", HOLE, ALWAYS },	{ "btrfs", "a break", BREAK, WHEN_PIN },
	{ "btrfs", "a sync", SYNC, WHEN_PIN },
};

static void fill_up(const struct hazard *h)
{
	int r = kt_fill_up(h->fs.dir);

	rt_assert(!r, "the file system cannot be filled up: %s", strerror(-r));
}

static void make_room(const struct hazard *h)
{
	char path[KT_PATH_MAX + 8];
	int fd = open(h->fs.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	snprintf(path, sizeof(path), "%s/filler", h->fs.dir);
	rt_assert(fd >= 0 && !unlink(path), "unlink: %s", strerror(errno));
	/* The first one may tell of what could not be written before. */
	syncfs(fd);
	rt_assert(!syncfs(fd), "syncfs: %s", strerror(errno));
	close(fd);
}

/* What a failed acquire must leave as it was. */
struct trace {
	struct stat st;
	struct statfs sfs;
	unsigned int fds;
};

static struct trace look(const char *path)
{
	struct trace t = { .fds = 0 };
	int fd;

	for (fd = 0; fd < 1024; fd++)
		t.fds += fcntl(fd, F_GETFD) >= 0;
	rt_assert(!stat(path, &t.st) && !statfs(path, &t.sfs), "stat: %s", strerror(errno));
	return t;
}

static bool same(const struct trace *a, const struct trace *b)
{
	return a->fds == b->fds && a->st.st_blocks == b->st.st_blocks && a->st.st_size == b->st.st_size &&
	       a->sfs.f_bfree == b->sfs.f_bfree;
}

static int store_main(const void *arg)
{
	int fd = open(arg, O_RDWR | O_CLOEXEC);
	volatile char *map;
	size_t i;

	if (fd < 0)
		return -errno;
	map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (i = 0; i < LEN; i += HAZARD_PAGE)
		map[i] = 1;
	return 0;
}

static bool store_is_sigbus(const char *path)
{
	struct kt_call *call = kt_call_start(store_main, path, KT_PATH_MAX);
	bool killed;

	rt_assert(call, "no process");
	killed = kt_call_exited(call, LONG_MS) == 1 && WIFSIGNALED(call->status) &&
		 WTERMSIG(call->status) == SIGBUS;
	kt_call_end(call);
	return killed;
}

/* Nothing can be allocated for path. Bare: is the owner told by a signal? With: by acquire, and well? */
static void no_room(struct hazard *h, const char *path, int error)
{
	struct trace before = look(path), after;
	struct hazard_file f;
	int r;

	r = hazard_reach(h, &f, path, HAZARD_WRITE);
	rt_assert(r, "a hole on a full disk was registered");
	h->refused = 0;
	snprintf(h->note, sizeof(h->note), "%s", strerror(-r));
	if (!h->with) {
		h->wrong = r != error && store_is_sigbus(path) ? PAGES : 0;
		return;
	}
	after = look(path);
	h->wrong = r != error || f.why.reason != PINLEASE_WHY_NO_SPACE || !same(&before, &after) ? PAGES : 0;
}

/* With room again acquire works, and so does all else. */
static void room_again(struct hazard *h, const char *path)
{
	uint32_t tag = hazard_tag();
	struct hazard_file f;

	if (!h->with)
		return;
	rt_assert(!hazard_reach(h, &f, path, HAZARD_WRITE), "acquire: %s", pinlease_reason_str(f.why.reason));
	hazard_write_all(&f, 0, PAGES, tag);
	hazard_leave(&f);
	h->wrong += hazard_path_wrong(path, 0, 0, PAGES, tag);
}

static void sparse_file(const char *dir, char path[KT_PATH_MAX])
{
	rt_assert(!kt_file(path, dir, "sparse", 0) && !truncate(path, LEN), "no file");
}

static void scene_hole(struct hazard *h)
{
	char path[KT_PATH_MAX];

	sparse_file(h->fs.dir, path);
	fill_up(h);
	no_room(h, path, -ENOSPC);
	make_room(h);
	room_again(h, path);
}

static void set_quota(const char *device, bool limit)
{
	int r = kt_quota_limit("ext4", device, NULL, limit);

	rt_assert(!r, "quotactl: %s", strerror(-r));
}

static void scene_quota(struct hazard *h)
{
	int image = memfd_create("quota", MFD_CLOEXEC), loop;
	char device[KT_DEVICE_MAX], path[KT_PATH_MAX];
	const char *options;
	struct kt_fs fs;

	rt_assert(image >= 0 && !ftruncate(image, 16 << 20), "memfd: %s", strerror(errno));
	loop = kt_loop(image, device);
	rt_assert(loop >= 0 && !kt_mkfs("ext4", device), "no ext4");
	rt_assert(!kt_quota_make("ext4", device, &options), "no quota");
	rt_assert(!kt_fs_mount(&fs, "ext4", device, options), "ext4 with a quota cannot be mounted");
	set_quota(device, true);
	sparse_file(fs.dir, path);
	rt_assert(!chown(path, KT_QUOTA_USER, KT_QUOTA_USER), "chown: %s", strerror(errno));
	no_room(h, path, -EDQUOT);
	set_quota(device, false);
	room_again(h, path);
	kt_fs_drop(&fs);
	close(loop);
	close(image);
}

/* What a break would have to copy, were it not for acquire. */
static void share_extents(const struct hazard *h, const char *path)
{
	char clone[KT_PATH_MAX];
	int from = open(path, O_RDONLY | O_CLOEXEC), to;

	rt_assert(!kt_file(clone, h->fs.dir, h->with ? "clone-with" : "clone-bare", 0), "no file");
	to = open(clone, O_WRONLY | O_CLOEXEC);
	rt_assert(!ioctl(to, FICLONE, from) && !fsync(to), "FICLONE: %s", strerror(errno));
	close(from);
	close(to);
}

static struct pinlease_lease_info info_of(const struct hazard_file *f)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	rt_assert(!pinlease_lease_info(f->lease, &info), "no info");
	return info;
}

/* Pages of tag that pinlease_save does not give. */
static unsigned int unsaved(const struct hazard_file *f, uint32_t tag)
{
	int fd = memfd_create("saved", MFD_CLOEXEC), r = pinlease_save(f->lease, fd);
	unsigned int wrong;

	rt_assert(!r, "save: %s", strerror(-r));
	wrong = hazard_fd_wrong(fd, 0, PAGES, tag);
	close(fd);
	return wrong;
}

/* The lease is LOST. It has to say so, of all that is not in the file, and to give it away. */
static unsigned int lost(struct hazard_file *f, uint32_t tag)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(f->h->ctx), .events = POLLIN };
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (ev.type != PINLEASE_EV_LOST && poll(&pfd, 1, LONG_MS) == 1)
		pinlease_ctx_next_event(f->h->ctx, &ev);
	if (ev.type != PINLEASE_EV_LOST || ev.err != -ENOSPC || ev.lost_bytes != LEN)
		return PAGES;
	return unsaved(f, tag);
}

static int reader_main(const void *arg)
{
	int fd = open(arg, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/* Bare: without the registration, which marks its pages dirty as it goes. */
static void break_bare(struct hazard *h, struct hazard_file *f, uint32_t tag)
{
	int r, again;

	rt_assert(!ibv_dereg_mr(f->mr), "dereg");
	f->mr = NULL;
	r = fsync(f->fd) ? -errno : 0;
	rt_assert(!hazard_other(reader_main, f->path, KT_PATH_MAX), "the reader");
	h->wrong = hazard_disk_wrong(h, 0, PAGES, tag);
	make_room(h);
	again = fsync(f->fd) ? -errno : 0;
	snprintf(h->note, sizeof(h->note), "fsync: %s; with room: %s, %u pages wrong", r ? strerror(-r) : "0",
		 again ? strerror(-again) : "0", hazard_disk_wrong(h, 0, PAGES, tag));
}

static void break_with(struct hazard *h, struct hazard_file *f, uint32_t tag)
{
	rt_assert(!hazard_other(reader_main, f->path, KT_PATH_MAX), "the reader");
	rt_assert(info_of(f).breaks == 1, "no break");
	h->wrong = hazard_fd_wrong(f->fd, 0, PAGES, tag);
	if (!strcmp(h->place->fs, "btrfs")) {
		snprintf(h->note, sizeof(h->note), "LOST, %u pages to save", h->wrong);
		rt_assert(info_of(f).state == PINLEASE_LOST, "btrfs did not need new blocks");
		h->wrong = lost(f, tag);
	}
	make_room(h);
	rt_assert(!pinlease_restore(f->lease, NULL), "restore");
	hazard_write_all(f, 0, PAGES, tag);
	rt_assert(!hazard_sync(f), "sync");
	h->wrong += hazard_disk_wrong(h, 0, PAGES, tag);
}

static void sync_bare(struct hazard *h, struct hazard_file *f, uint32_t tag)
{
	int r = hazard_sync(f);

	h->wrong = hazard_disk_wrong(h, 0, PAGES, tag);
	snprintf(h->note, sizeof(h->note), "fsync: %s", r ? strerror(-r) : "0");
	make_room(h);
}

static void sync_with(struct hazard *h, struct hazard_file *f, uint32_t tag)
{
	int r = hazard_sync(f);

	snprintf(h->note, sizeof(h->note), "sync: %s", strerror(-r));
	h->wrong = r != -ENOSPC || info_of(f).state != PINLEASE_ACTIVE || info_of(f).dirty_bytes != LEN ?
			   PAGES : unsaved(f, tag);
	make_room(h);
	rt_assert(!hazard_sync(f), "another sync");
	h->wrong += hazard_disk_wrong(h, 0, PAGES, tag);
}

/* The file is there, and with every block that acquire could see to, before the disk is full. */
static void scene_writeback(struct hazard *h)
{
	uint32_t first = hazard_tag(), tag = hazard_tag();
	char path[KT_PATH_MAX];
	struct hazard_file f;

	rt_assert(!kt_file(path, h->fs.dir, h->with ? "with" : "bare", LEN), "no file");
	if (strcmp(h->place->fs, "ext4"))
		share_extents(h, path);
	if (hazard_reach(h, &f, path, HAZARD_WRITE)) {
		rt_assert(!h->with, "acquire: %s", pinlease_reason_str(f.why.reason));
		return;
	}
	if (!h->with) {
		hazard_write_all(&f, 0, PAGES, first);
		rt_assert(!hazard_sync(&f), "the first sync failed");
	}
	fill_up(h);
	hazard_write_all(&f, 0, PAGES, tag);
	if (h->place->arg == BREAK)
		(h->with ? break_with : break_bare)(h, &f, tag);
	else
		(h->with ? sync_with : sync_bare)(h, &f, tag);
	hazard_leave(&f);
}

static void run(struct hazard *h)
{
	h->of = PAGES;
	if (h->place->arg == HOLE)
		scene_hole(h);
	else if (h->place->arg == QUOTA)
		scene_quota(h);
	else
		scene_writeback(h);
}

int main(void)
{
	rt_assert(!kt_quota_obey(), "capset: %s", strerror(errno));
	return hazard_main("hazard_disk_full", "pages", places, sizeof(places) / sizeof(*places), run);
}
