/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 2016, on DAX: a hole is read through a 2 MiB mapping of the huge zero page, and then
 * blocks are allocated there, by a write or by somebody's store. Everything that maps it
 * has to let go of the zeros, or readers disagree for ever.
 *
 * No kernel lets a device pin fs-dax (EOPNOTSUPP), which is how this was settled. What
 * can be had bare is on-demand paging, on 7.2: there the notifier takes the translation
 * away, and the device agrees with the readers, so the hazard shows on no kernel here; it
 * is looked whether the mapping was a huge one, before anything is said. With the library
 * it is staged memory that the device reads, filled again after each break.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hazard.h"

#define HUGE  KT_HUGE
#define PAGES 16u			/* looked at in each huge page */
#define SECOND (HUGE / HAZARD_PAGE)	/* the first page of the second one */

#define ODP { HAZARD_NOT_MADE, HAZARD_NOT_MADE, HAZARD_TOLD }

static const struct hazard_place places[] = {
	{ .fs = "ext4_dax", .bare = ODP },
	{ .fs = "xfs_dax", .bare = ODP },
};

struct other {
	char path[KT_PATH_MAX];
	uint32_t tag;
};

/* Blocks come to the first huge page by write(2), to the second by stores. */
static int allocate(const void *arg)
{
	const struct other *o = arg;
	size_t len = (size_t)PAGES * HAZARD_PAGE;
	uint64_t *words = aligned_alloc(HAZARD_PAGE, len);
	int fd = open(o->path, O_RDWR | O_CLOEXEC);
	void *map;

	if (fd < 0 || !words)
		return -errno;
	hazard_fill(words, 0, PAGES, o->tag);
	if (pwrite(fd, words, len, 0) != (ssize_t)len)
		return -errno;
	map = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, HUGE);
	if (map == MAP_FAILED)
		return -errno;
	hazard_fill(map, SECOND, PAGES, o->tag);
	munmap(map, HUGE);
	close(fd);
	return 0;
}

/* Pages that a mapping of the file, its first byte at map, does not show as they were written. */
static unsigned int map_wrong(const void *map, uint32_t tag)
{
	const uint64_t *words = map;
	unsigned int wrong = 0;
	size_t i, page;

	for (i = 0; i < 2 * PAGES; i++) {
		page = i < PAGES ? i : SECOND + i - PAGES;
		wrong += !hazard_page_is(words + page * HAZARD_PAGE / sizeof(*words), page, tag);
	}
	return wrong;
}

static int look(const void *arg)
{
	const struct other *o = arg;
	int fd = open(o->path, O_RDONLY | O_CLOEXEC), wrong;
	void *map;

	if (fd < 0)
		return -errno;
	map = mmap(NULL, 2 * HUGE, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	wrong = (int)map_wrong(map, o->tag);
	munmap(map, 2 * HUGE);
	close(fd);
	return wrong;
}

/* Pages that the device reads otherwise, or did not read. */
static unsigned int device_wrong(struct hazard_file *f, uint32_t tag)
{
	unsigned int wrong = 0;
	size_t i, page;

	for (i = 0; i < 2 * PAGES; i++) {
		page = i < PAGES ? i : SECOND + i - PAGES;
		wrong += hazard_read(f, page) || !hazard_page_is(f->h->buf, page, tag);
	}
	return wrong;
}

/* The device has read it, somebody allocates: who sees something else then? */
static void scene(struct hazard_file *f, struct other *o)
{
	unsigned int by_device, by_map, by_others;
	struct hazard *h = f->h;
	int r;

	rt_assert(!hazard_read(f, 0) && !hazard_read(f, SECOND), "the pages were not read");
	o->tag = hazard_tag();
	r = hazard_other(allocate, o, sizeof(*o));
	rt_assert(!r, "allocating: %s", strerror(-r));
	by_device = device_wrong(f, o->tag);
	by_map = map_wrong(f->map, o->tag);
	r = hazard_other(look, o, sizeof(*o));
	rt_assert(r >= 0, "looking: %s", strerror(-r));
	by_others = (unsigned int)r;
	h->of += 3 * 2 * PAGES;
	h->wrong += by_device + by_map + by_others;
	snprintf(h->note, sizeof(h->note), "the last time %u by the device, %u by its owner, %u by others",
		 by_device, by_map, by_others);
}

static void run_bare(struct hazard *h, struct other *o)
{
	struct hazard_ask ask = HAZARD_READ;
	const volatile char *map;
	struct hazard_file f;
	int first, second;

	ask.odp = true;
	if (hazard_reach(h, &f, o->path, ask))
		return;
	map = f.map;
	rt_assert(!map[0] && !map[HUGE], "there is no hole");
	first = kt_huge_at(f.map);
	second = kt_huge_at((const char *)f.map + HUGE);
	rt_assert(first > 0 && second > 0, "no mapping of 2 MiB: %d, %d", first, second);
	scene(&f, o);
	hazard_leave(&f);
}

/* Over the hole, where that is not refused; over what is filled first; and without any. */
static void run_with(struct hazard *h, struct other *o)
{
	static const struct hazard_ask fill = { .file = PINLEASE_WRITE, .lease = PINLEASE_READ,
						.flags = PINLEASE_L_HOLE_FILL };
	struct hazard_file f;
	int r;

	r = hazard_reach(h, &f, o->path, HAZARD_READ);
	h->of++;
	h->wrong += r && (r != -ENODATA || f.why.reason != PINLEASE_WHY_HOLE);
	if (!r) {
		scene(&f, o);
		hazard_leave(&f);
	}

	r = hazard_reach(h, &f, o->path, fill);
	rt_assert(!r, "acquire, HOLE_FILL: %s", pinlease_reason_str(f.why.reason));
	scene(&f, o);
	hazard_leave(&f);

	r = hazard_reach(h, &f, o->path, HAZARD_READ);
	rt_assert(!r, "acquire, no hole: %s", pinlease_reason_str(f.why.reason));
	scene(&f, o);
	hazard_leave(&f);
}

static void run(struct hazard *h)
{
	struct other o = { .tag = 0 };

	hazard_file_new(h, o.path, 0);
	rt_assert(!truncate(o.path, 2 * HUGE), "truncate: %s", strerror(errno));
	if (h->with)
		run_with(h, &o);
	else
		run_bare(h, &o);
	unlink(o.path);
}

int main(void)
{
	return hazard_main("hazard_hole_dax", "pages seen", HAZARD_PLACES(places), run);
}
