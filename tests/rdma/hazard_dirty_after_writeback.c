/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 2009: pages that are dirtied after writeback.
 *
 * The first fsync cleans the pages and write-protects them, so that the next store by a
 * processor would tell the file system. The device's store tells nobody: the second fsync
 * finds nothing to do, answers 0, and the data is in no block of the disk. Linux 6.5 took
 * the pin away; before, everything that pins page cache for writing has it.
 *
 * The disk itself is looked at, block by block: the file behind the loop device.
 */
#include "hazard.h"

#define PAGES 64u

static const struct hazard_place places[] = {
	{ .fs = "ext4", .bare = { HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE } },
	{ .fs = "xfs", .bare = { HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE } },
	{ .fs = "btrfs", .bare = { HAZARD_SHOWS, HAZARD_NOT_MADE, HAZARD_NOT_MADE } },
};

static void run(struct hazard *h)
{
	uint32_t first = hazard_tag(), second = hazard_tag();
	char path[KT_PATH_MAX];
	struct hazard_file f;

	hazard_file_new(h, path, PAGES);
	if (hazard_reach(h, &f, path, HAZARD_WRITE)) {
		rt_assert(!h->with, "acquire: %s", pinlease_reason_str(f.why.reason));
		return;
	}
	hazard_write_all(&f, 0, PAGES, first);
	rt_assert(hazard_disk_wrong(h, 0, PAGES, first) == PAGES, "on the disk before it was synced");
	rt_assert(!hazard_sync(&f), "the first sync failed");
	rt_assert(!hazard_disk_wrong(h, 0, PAGES, first), "the first write is not on the disk");

	hazard_write_all(&f, 0, PAGES, second);
	rt_assert(!hazard_sync(&f), "the second sync failed");
	h->of = PAGES;
	h->wrong = hazard_disk_wrong(h, 0, PAGES, second);
	hazard_leave(&f);
}

int main(void)
{
	return hazard_main("hazard_dirty_after_writeback", "pages", HAZARD_PLACES(places), run);
}
