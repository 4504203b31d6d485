/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Another process reflinks onto the file, or writes to it with O_DIRECT. Neither changes
 * its size. Both drop its pages from the page cache, whole folios at a time, and the
 * registration keeps them: pages that belong to no file any more. A peer that reads goes
 * on reading the old data, and where there are large folios, also of pages that were not
 * touched then and are written in the ordinary way later. A peer that writes has its
 * writes acknowledged, and they are in no file. Nothing is an error.
 *
 * With the library the other process's open breaks the lease. The registration is gone
 * when that open returns, and there is a new one when the file has been closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hazard.h"

#define PAGES  64u
#define LEN    (PAGES * (size_t)HAZARD_PAGE)
#define HALF   (PAGES / 2)
#define VICTIM 16u	/* the page that is written with O_DIRECT, in the first half */

#define ON_ALL	 { HAZARD_SHOWS, HAZARD_SHOWS, HAZARD_SHOWS }
#define WHEN_PIN { HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE }

enum scene { READS_DIRECT, READS_REFLINK, WRITES_DIRECT, WRITES_REFLINK };

static const struct hazard_place places[] = {
	{ "ext4", "peer reads, O_DIRECT write of a page", READS_DIRECT, ON_ALL },
	{ "ext4", "peer writes, O_DIRECT write of a page", WRITES_DIRECT, WHEN_PIN },
	{ "xfs", "peer reads, O_DIRECT write of a page", READS_DIRECT, ON_ALL },
	{ "xfs", "peer reads, reflink", READS_REFLINK, ON_ALL },
	{ "xfs", "peer writes, O_DIRECT write of a page", WRITES_DIRECT, WHEN_PIN },
	{ "xfs", "peer writes, reflink", WRITES_REFLINK, WHEN_PIN },
	/* Later ones write data that has checksums through the page cache. */
	{ "btrfs", "peer reads, O_DIRECT write of a page", READS_DIRECT,
	  { HAZARD_SHOWS, HAZARD_TOLD, HAZARD_TOLD } },
	{ "btrfs", "peer reads, reflink", READS_REFLINK, ON_ALL },
	{ "btrfs", "peer writes, O_DIRECT write of a page", WRITES_DIRECT, WHEN_PIN },
	{ "btrfs", "peer writes, reflink", WRITES_REFLINK, WHEN_PIN },
};

struct order {			/* to the other process */
	char path[KT_PATH_MAX], source[KT_PATH_MAX];
	uint32_t tag;
};

static int write_tag(int fd, size_t page, size_t n, uint32_t tag)
{
	uint64_t *words = aligned_alloc(HAZARD_PAGE, n * HAZARD_PAGE);
	ssize_t done;

	hazard_fill(words, page, n, tag);
	done = pwrite(fd, words, n * HAZARD_PAGE, (off_t)(page * HAZARD_PAGE));
	free(words);
	return done == (ssize_t)(n * HAZARD_PAGE) ? 0 : -EIO;
}

static int open_and_write(const struct order *o, int flags, size_t page, size_t n)
{
	int fd = open(o->path, O_WRONLY | O_CLOEXEC | flags), r;

	if (fd < 0)
		return -errno;
	r = write_tag(fd, page, n, o->tag);
	close(fd);
	return r;
}

static int direct_main(const void *arg)
{
	return open_and_write(arg, O_DIRECT, VICTIM, 1);
}

/* In the ordinary way, which shows in a device's pages as long as they are the file's. */
static int rewrite_main(const void *arg)
{
	return open_and_write(arg, 0, 0, PAGES);
}

static int reflink_main(const void *arg)
{
	const struct order *o = arg;
	int source = open(o->source, O_RDONLY | O_CLOEXEC), fd = open(o->path, O_WRONLY | O_CLOEXEC), r = 0;
	struct file_clone_range range = { .src_fd = source };

	if (source < 0 || fd < 0 || ioctl(fd, FICLONERANGE, &range))
		r = -errno;
	close(fd);
	close(source);
	return r;
}

/* By one write: that is what makes large folios. */
static uint32_t make_file(const struct hazard *h, const char *name, char path[KT_PATH_MAX])
{
	uint32_t tag = hazard_tag();
	int fd;

	rt_assert(!kt_file(path, h->fs.dir, name, 0), "no file");
	fd = open(path, O_WRONLY | O_CLOEXEC);
	rt_assert(fd >= 0 && !write_tag(fd, 0, PAGES, tag) && !fsync(fd), "no file: %s", strerror(errno));
	close(fd);
	return tag;
}

static void by_another(int (*fn)(const void *), const struct order *o)
{
	int r = hazard_other(fn, o, sizeof(*o));

	rt_assert(!r, "the other process: %s", strerror(-r));
}

/* Pages that the peer reads and that are not what the file holds: noted in stale[]. */
static unsigned int reads_stale(struct hazard_file *f, size_t page, size_t n, uint32_t tag, bool stale[])
{
	unsigned int wrong = 0;
	size_t i;

	rt_assert(!hazard_fd_wrong(f->fd, page, n, tag), "the file itself is not what it should be");
	for (i = page; i < page + n; i++) {
		rt_assert(!hazard_read(f, i), "an RDMA read failed");
		if (hazard_page_is(f->h->buf, i, tag))
			continue;
		stale[i] = true;
		wrong++;
	}
	return wrong;
}

/* Right after the change, and when all of the file has been written in the ordinary way. */
static void scene_reads(struct hazard_file *f, bool reflink, uint32_t first, uint32_t source, struct order *o)
{
	unsigned int at_once, later, i;
	bool stale[PAGES] = { false };
	struct hazard *h = f->h;

	rt_assert(!reads_stale(f, 0, PAGES, first, stale), "the peer does not read the file");
	by_another(reflink ? reflink_main : direct_main, o);
	if (reflink)
		at_once = reads_stale(f, 0, PAGES, source, stale);
	else
		at_once = reads_stale(f, 0, VICTIM, first, stale) + reads_stale(f, VICTIM, 1, o->tag, stale);
	o->tag = hazard_tag();
	by_another(rewrite_main, o);
	later = reads_stale(f, 0, PAGES, o->tag, stale);
	for (i = 0; i < PAGES; i++)
		h->wrong += stale[i];
	snprintf(h->note, sizeof(h->note), "%u at once, %u when all was rewritten", at_once, later);
}

/*
 * What the file does not hold of what the peer wrote before the change, of the change, and
 * of what the peer wrote after it: the first half, so that nothing else may have touched the second.
 */
static void scene_writes(struct hazard_file *f, bool reflink, uint32_t source, struct order *o)
{
	uint32_t before = hazard_tag(), after = hazard_tag();
	struct hazard *h = f->h;

	hazard_write_all(f, 0, PAGES, before);
	by_another(reflink ? reflink_main : direct_main, o);
	if (reflink)
		rt_assert(!hazard_fd_wrong(f->fd, 0, PAGES, source), "the reflink was not made");
	else
		h->wrong = hazard_fd_wrong(f->fd, 0, VICTIM, before) +
			   hazard_fd_wrong(f->fd, VICTIM, 1, o->tag);
	hazard_write_all(f, 0, HALF, after);
	rt_assert(!hazard_sync(f), "sync failed");
	h->wrong += hazard_fd_wrong(f->fd, 0, HALF, after) +
		    hazard_fd_wrong(f->fd, HALF, PAGES - HALF, reflink ? source : before);
}

/* Of ext4 on the newest kernels, and of xfs on all but the oldest. */
static bool large_folios(const struct hazard *h)
{
	if (!strcmp(h->place->fs, "xfs"))
		return h->kernel >= HAZARD_REFUSES;
	return !strcmp(h->place->fs, "ext4") && h->kernel == HAZARD_ODP;
}

static void run(struct hazard *h)
{
	bool reflink = h->place->arg == READS_REFLINK || h->place->arg == WRITES_REFLINK;
	bool writes = h->place->arg == WRITES_DIRECT || h->place->arg == WRITES_REFLINK;
	struct order o = { .tag = hazard_tag() };
	uint32_t first = make_file(h, "reached", o.path), source = make_file(h, "source", o.source);
	struct hazard_file f;

	if (hazard_reach(h, &f, o.path, writes ? HAZARD_WRITE : HAZARD_READ)) {
		rt_assert(!h->with, "acquire: %s", pinlease_reason_str(f.why.reason));
		return;
	}
	h->of = PAGES;
	if (writes)
		scene_writes(&f, reflink, source, &o);
	else
		scene_reads(&f, reflink, first, source, &o);
	if (!h->with && large_folios(h) && h->place->arg == READS_DIRECT)
		rt_assert(h->wrong > 1, "no other page went with the one that was written");
	hazard_leave(&f);
}

int main(void)
{
	return hazard_main("hazard_other_writer", "pages", places, sizeof(places) / sizeof(*places), run);
}
