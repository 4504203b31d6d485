/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 2015, the other half: what a truncate freed belongs to a second file now.
 *
 * This is what the argument about DAX was about: where the device reaches the blocks
 * themselves, its writes corrupt whoever was given them. No kernel here lets it: a pin of
 * page cache or tmpfs keeps the page, and the second file gets others, even in a file
 * system that is full but for the freed blocks (FIEMAP says that it has those very ones);
 * fs-dax refuses a long-term pin; under on-demand paging (7.2) the truncate takes the
 * translation away, and a write that comes later is a remote access error. So what shows
 * bare is the other side of it: acknowledged data that is in no file, the first having
 * ended before it, the second holding its own. xfs and btrfs are left out: they keep so much
 * back that no file can be made to get the very blocks that were freed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "hazard.h"

#define PAGES 16u
#define SIZE  ((off_t)PAGES * HAZARD_PAGE)

enum how { PINNED, PAGED };

#define ON_ALL	{ HAZARD_SHOWS, HAZARD_SHOWS, HAZARD_SHOWS }
#define ON_6_1	{ HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE }
#define ODP	{ HAZARD_NOT_MADE, HAZARD_NOT_MADE, HAZARD_TOLD }

static const struct hazard_place places[] = {
	{ "tmpfs", "pinned", PINNED, ON_ALL }, { "ext4", "pinned", PINNED, ON_6_1 },
	{ "ext4", "odp", PAGED, ODP },	       { "ext4_dax", "odp", PAGED, ODP },
};

/* The second file, written to the disk: everybody who asks for room gets what was freed. */
struct second {
	char path[KT_PATH_MAX];
	uint32_t tag;
};

/* Freed blocks come back with the journal's next commit. */
static ssize_t write_patiently(int fd, const void *page, off_t at)
{
	ssize_t n = -1;
	int i;

	for (i = 0; i < 500 && n < 0; i++) {
		n = pwrite(fd, page, HAZARD_PAGE, at);
		if (n < 0 && errno == ENOSPC) {
			syncfs(fd);
			kt_sleep_ms(10);
		}
	}
	return n;
}

static int write_second(const void *arg)
{
	const struct second *s = arg;
	int fd = open(s->path, O_RDWR | O_CLOEXEC);
	uint64_t page[HAZARD_PAGE / sizeof(uint64_t)];
	size_t i;
	int r = fd < 0 ? -errno : 0;

	for (i = 0; i < PAGES && !r; i++) {
		hazard_fill(page, i, 1, s->tag);
		if (write_patiently(fd, page, (off_t)(i * HAZARD_PAGE)) != HAZARD_PAGE || fsync(fd))
			r = -errno;
	}
	if (fd >= 0)
		close(fd);
	return r;
}

/* ext4 keeps blocks back for its own metadata: free, but not given to a file. */
static void reserve_nothing(const struct kt_fs *fs)
{
	char path[KT_PATH_MAX], device[KT_PATH_MAX];
	struct stat st;
	ssize_t n;
	int fd;

	rt_assert(!stat(fs->dir, &st), "%s: %s", fs->dir, strerror(errno));
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
	n = readlink(path, device, sizeof(device) - 1);
	rt_assert(n > 0, "%s: %s", path, strerror(errno));
	device[n] = 0;
	snprintf(path, sizeof(path), "/sys/fs/ext4/%.16s/reserved_clusters", strrchr(device, '/') + 1);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	rt_assert(fd >= 0 && write(fd, "0", 1) == 1, "%s: %s", path, strerror(errno));
	close(fd);
}

/* The blocks of a file, by their number on the device: how many, or 0 where FIEMAP is not known. */
static unsigned int blocks_of(int fd, uint64_t block[PAGES])
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + PAGES * sizeof(struct fiemap_extent)];
	} u = { .map = { .fm_length = (uint64_t)SIZE, .fm_flags = FIEMAP_FLAG_SYNC,
			 .fm_extent_count = PAGES } };
	unsigned int n = 0;

	if (ioctl(fd, FS_IOC_FIEMAP, &u.map))
		return 0;
	for (uint32_t i = 0; i < u.map.fm_mapped_extents; i++) {
		const struct fiemap_extent *e = &u.map.fm_extents[i];

		for (uint64_t at = 0; at < e->fe_length && n < PAGES; at += HAZARD_PAGE)
			block[n++] = (e->fe_physical + at) / HAZARD_PAGE;
	}
	return n;
}

static unsigned int reused(const uint64_t a[PAGES], unsigned int n, const uint64_t b[PAGES], unsigned int m)
{
	unsigned int same = 0;

	for (unsigned int i = 0; i < n; i++)
		for (unsigned int j = 0; j < m; j++)
			same += a[i] == b[j];
	return same;
}

/* A deaf peer's writes: what the first file, which has ended, cannot hold. */
static unsigned int late_writes(struct hazard_file *f)
{
	uint32_t tag = hazard_tag();
	unsigned int acked = 0;
	size_t i;

	for (i = 0; i < PAGES; i++)
		acked += !hazard_write_deaf(f, i, tag);
	return acked;
}

static void scene(struct hazard_file *f, struct second *s)
{
	uint64_t first[PAGES], second[PAGES];
	unsigned int n = blocks_of(f->fd, first), m, same, nowhere, touched;
	struct hazard *h = f->h;
	int fd, r;

	r = kt_truncate_now(f->path, 0, 20000);
	rt_assert(!r, "truncate: %s", strerror(-r));
	s->tag = hazard_tag();
	r = hazard_other(write_second, s, sizeof(*s));
	rt_assert(!r, "the second file: %s", strerror(-r));
	fd = open(s->path, O_RDONLY | O_CLOEXEC);
	rt_assert(fd >= 0, "%s: %s", s->path, strerror(errno));
	m = blocks_of(fd, second);
	nowhere = late_writes(f);
	touched = hazard_fd_wrong(fd, 0, PAGES, s->tag);
	/* And on the disk; tmpfs has none, and until 6.6 no O_DIRECT. */
	if (n)
		touched += hazard_path_wrong(s->path, O_DIRECT, 0, PAGES, s->tag);
	close(fd);
	same = reused(first, n, second, m);
	rt_assert(same == PAGES || (!n && !m), "%u of %u blocks were reused", same, PAGES);
	h->of = 2 * PAGES;
	h->wrong = nowhere + touched;
	snprintf(h->note, sizeof(h->note), "%u of them acknowledged and in no file, %u blocks reused",
		 nowhere, same);
}

static void run(struct hazard *h)
{
	struct hazard_ask ask = HAZARD_WRITE;
	char path[KT_PATH_MAX], filler[KT_PATH_MAX + 8];
	struct hazard_file f;
	struct second s;

	hazard_file_new(h, path, PAGES);
	rt_assert(!kt_file(s.path, h->fs.dir, "second", 0), "no second file");
	snprintf(filler, sizeof(filler), "%s/filler", h->fs.dir);
	ask.odp = h->place->arg == PAGED;
	if (hazard_reach(h, &f, path, ask)) {
		rt_assert(!h->with, "acquire: %s", pinlease_reason_str(f.why.reason));
		unlink(path);
		unlink(s.path);
		return;
	}
	hazard_write_all(&f, 0, PAGES, hazard_tag());
	rt_assert(!hazard_sync(&f), "sync failed");
	if (strcmp(h->place->fs, "tmpfs"))
		reserve_nothing(&h->fs);
	rt_assert(!kt_fill_up(h->fs.dir), "the file system cannot be filled up");
	scene(&f, &s);
	unlink(filler);
	unlink(s.path);
	hazard_leave(&f);
	unlink(path);
}

int main(void)
{
	return hazard_main("hazard_blocks_reused", "writes and pages", HAZARD_PLACES(places), run);
}
