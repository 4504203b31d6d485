/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 2015: truncate and hole punch against a registration.
 *
 * A pin keeps pages, not the file's hold on them. Another process takes them out of the
 * file; the registration goes on to reach them, each write is acknowledged, and not one
 * byte of it is in the file. Nobody is told. Page cache could be pinned for writing until
 * 6.5, tmpfs can be on every kernel.
 *
 * The first writes after the change are a deaf peer's, with the keys it had before: with
 * the library they are refused, and what is refused is not lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hazard.h"

#define PAGES 32u
#define DEAF  4u	/* of them are written by a peer that was not told */
#define SIZE  ((off_t)PAGES * HAZARD_PAGE)

enum change { TRUNCATE, PUNCH };

#define ON_ALL	{ HAZARD_SHOWS, HAZARD_SHOWS, HAZARD_SHOWS }
#define ON_6_1	{ HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE }

static const struct hazard_place places[] = {
	{ "tmpfs", "truncate", TRUNCATE, ON_ALL }, { "tmpfs", "punch", PUNCH, ON_ALL },
	{ "ext4", "truncate", TRUNCATE, ON_6_1 },  { "ext4", "punch", PUNCH, ON_6_1 },
	{ "xfs", "truncate", TRUNCATE, ON_6_1 },   { "xfs", "punch", PUNCH, ON_6_1 },
	{ "btrfs", "truncate", TRUNCATE, ON_6_1 }, { "btrfs", "punch", PUNCH, ON_6_1 },
};

static int truncate_and_grow(const void *path)
{
	return truncate(path, 0) || truncate(path, SIZE) ? -errno : 0;
}

static int punch(const void *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE) ? -errno : 0;
	close(fd);
	return r;
}

/* Pages of a deaf peer that were acknowledged and are not in the file. */
static unsigned int deaf_writes(struct hazard_file *f)
{
	uint32_t tag = hazard_tag();
	unsigned int acked[DEAF] = { 0 }, lost = 0, refused = 0;
	size_t i;

	for (i = 0; i < DEAF; i++) {
		acked[i] = !hazard_write_deaf(f, i, tag);
		refused += !acked[i];
	}
	for (i = 0; i < DEAF; i++)
		lost += acked[i] && hazard_path_wrong(f->path, 0, i, 1, tag);
	snprintf(f->h->note, sizeof(f->h->note), "%u of a deaf peer's %u refused", refused, DEAF);
	return lost;
}

static void run(struct hazard *h)
{
	uint32_t before = hazard_tag(), after = hazard_tag();
	char path[KT_PATH_MAX];
	struct hazard_file f;
	int r;

	hazard_file_new(h, path, PAGES);
	if (hazard_reach(h, &f, path, HAZARD_WRITE)) {
		rt_assert(!h->with, "acquire: %s", pinlease_reason_str(f.why.reason));
		return;
	}
	hazard_write_all(&f, 0, PAGES, before);
	rt_assert(!hazard_path_wrong(path, 0, 0, PAGES, before), "the writes before it are not in the file");
	hazard_write_all(&f, 0, 1, before);	/* the lease is back, and the peer has its keys */

	r = hazard_other(h->place->arg == PUNCH ? punch : truncate_and_grow, path, sizeof(path));
	rt_assert(!r, "%s: %s", h->place->what, strerror(-r));
	h->of = PAGES;
	h->wrong = deaf_writes(&f);
	hazard_write_all(&f, DEAF, PAGES - DEAF, after);
	h->wrong += hazard_path_wrong(path, 0, DEAF, PAGES - DEAF, after);
	rt_assert(!f.lost, "the lease was lost");
	hazard_leave(&f);
}

int main(void)
{
	return hazard_main("hazard_truncate", "writes", HAZARD_PLACES(places), run);
}
