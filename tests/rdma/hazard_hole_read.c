/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 2016: a hole against allocation.
 *
 * A device reads a hole through a registration: it sees the page of zeros that the page
 * cache made up. Somebody else writes there with O_DIRECT: blocks are allocated, and the
 * page, which is pinned, cannot be taken out of the way. From then on the file says one
 * thing and the device another. (A read registration of kernels before 6.5 fills the hole,
 * and has the same end.)
 *
 * With the library a read lease over a hole is refused (-ENODATA); with PINLEASE_L_HOLE_FILL
 * it is filled first; and under both a writer's open is waited for, so that what the
 * device reads afterwards is what the writer wrote.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hazard.h"

#define PAGES 16u

#define ON_ALL	 { HAZARD_SHOWS, HAZARD_SHOWS, HAZARD_SHOWS }
#define ANYTHING { HAZARD_TOLD, HAZARD_TOLD, HAZARD_TOLD }

static const struct hazard_place places[] = {
	{ .fs = "ext4", .bare = ON_ALL },
	{ .fs = "xfs", .bare = ON_ALL },
	{ .fs = "btrfs", .bare = ANYTHING },
};

struct writer {
	char path[KT_PATH_MAX];
	uint32_t tag;
};

static int write_direct(const void *arg)
{
	const struct writer *w = arg;
	size_t len = (size_t)PAGES * HAZARD_PAGE;
	uint64_t *words = aligned_alloc(HAZARD_PAGE, len);
	int fd = open(w->path, O_WRONLY | O_DIRECT | O_CLOEXEC), r = 0;

	if (fd < 0 || !words)
		return -errno;
	hazard_fill(words, 0, PAGES, w->tag);
	if (pwrite(fd, words, len, 0) != (ssize_t)len)
		r = -errno;
	close(fd);
	free(words);
	return r;
}

static void hole_make(const struct hazard *h, struct writer *w)
{
	hazard_file_new(h, w->path, 0);
	rt_assert(!truncate(w->path, (off_t)PAGES * HAZARD_PAGE), "truncate: %s", strerror(errno));
}

/* Another process writes; how many pages the device reads otherwise than any reader of the file. */
static unsigned int write_and_read(struct hazard_file *f, struct writer *w)
{
	unsigned int wrong = 0;
	size_t i;
	int r;

	rt_assert(!hazard_read(f, 0), "the page was not read");
	w->tag = hazard_tag();
	r = hazard_other(write_direct, w, sizeof(*w));
	rt_assert(!r, "O_DIRECT: %s", strerror(-r));
	for (i = 0; i < PAGES; i++) {
		rt_assert(!hazard_read(f, i), "page %zu was not read", i);
		wrong += !hazard_page_is(f->h->buf, i, w->tag);
	}
	rt_assert(!hazard_path_wrong(w->path, 0, 0, PAGES, w->tag), "the write is not in the file");
	f->h->of += PAGES;
	return wrong;
}

static void run_bare(struct hazard *h, struct writer *w)
{
	struct hazard_file f;

	if (hazard_reach(h, &f, w->path, HAZARD_READ))
		return;
	h->wrong = write_and_read(&f, w);
	hazard_leave(&f);
}

static void run_with(struct hazard *h, struct writer *w)
{
	static const struct hazard_ask fill = { .file = PINLEASE_WRITE, .lease = PINLEASE_READ,
						.flags = PINLEASE_L_HOLE_FILL };
	struct hazard_file f;
	int r;

	r = hazard_reach(h, &f, w->path, HAZARD_READ);
	h->of = 1;
	h->wrong = r != -ENODATA || f.why.reason != PINLEASE_WHY_HOLE;
	rt_assert(r, "a read lease over a hole");

	r = hazard_reach(h, &f, w->path, fill);
	rt_assert(!r, "acquire, HOLE_FILL: %s", pinlease_reason_str(f.why.reason));
	h->wrong += write_and_read(&f, w);
	hazard_leave(&f);

	r = hazard_reach(h, &f, w->path, HAZARD_READ);
	rt_assert(!r, "acquire, no hole: %s", pinlease_reason_str(f.why.reason));
	h->wrong += write_and_read(&f, w);
	hazard_leave(&f);
}

static void run(struct hazard *h)
{
	struct writer w = { .tag = 0 };

	hole_make(h, &w);
	if (h->with)
		run_with(h, &w);
	else
		run_bare(h, &w);
	unlink(w.path);
}

int main(void)
{
	return hazard_main("hazard_hole_read", "answers and pages", HAZARD_PLACES(places), run);
}
