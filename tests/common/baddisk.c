/* SPDX-License-Identifier: BSD-3-Clause */
#include "baddisk.h"

#include "dm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DM_NAME "pl-bad"
#define DMSETUP "DM_DISABLE_UDEV=1 dmsetup" /* makes the device node itself */

/* A piece of the table up to byte to, if there is anything between. */
static void add_piece(struct dm_piece *table, size_t *n, const char *on, uint64_t *at, uint64_t to, bool bad)
{
	struct dm_piece *p = &table[*n];

	if (to <= *at)
		return;
	*p = (struct dm_piece){ .sector = *at / DL_SECTOR, .sectors = (to - *at) / DL_SECTOR };
	p->type = bad ? "error" : "linear";
	if (!bad)
		snprintf(p->params, sizeof(p->params), "%s %llu", on, (unsigned long long)p->sector);
	*at = to;
	++*n;
}

static size_t make_table(const struct bad_disk *disk, struct dm_piece *table, bool bad)
{
	uint64_t at = 0;
	unsigned int i;
	size_t n = 0;

	for (i = 0; bad && i < disk->ranges; i++) {
		add_piece(table, &n, disk->on, &at, disk->range[i].from, false);
		add_piece(table, &n, disk->on, &at, disk->range[i].from + disk->range[i].len, true);
	}
	add_piece(table, &n, disk->on, &at, disk->rec.size, false);
	return n;
}

static int make_on_dm(struct bad_disk *disk)
{
	struct dm_piece table[DM_PIECES];

	disk->image = memfd_create("bad disk", MFD_CLOEXEC);
	if (disk->image < 0 || ftruncate(disk->image, (off_t)disk->rec.size))
		return -errno;
	disk->rec.loop = kt_loop(disk->image, disk->on);
	if (disk->rec.loop < 0)
		return disk->rec.loop;
	return dm_make(DM_NAME, table, make_table(disk, table, false), disk->rec.device,
		       sizeof(disk->rec.device));
}

int bad_disk_make(struct bad_disk *disk, enum rec_kind kind, unsigned int mib)
{
	int r;

	*disk = (struct bad_disk){ .image = -1 };
	if (kind == REC_FUSE) {
		r = rec_disk_make(&disk->rec, kind, mib);
		disk->image = r ? -1 : rec_fuse_image(&disk->rec);
		return r ? r : disk->image < 0 ? disk->image : 0;
	}
	disk->rec = (struct rec_disk){ .kind = REC_DM, .size = (uint64_t)mib << 20, .loop = -1 };
	r = make_on_dm(disk);
	if (r)
		bad_disk_end(disk);
	return r;
}

static int by_place(const void *a, const void *b)
{
	const struct bad_range *x = a, *y = b;

	return (x->from > y->from) - (x->from < y->from);
}

static int add_range(struct bad_disk *disk, uint64_t from, uint64_t len)
{
	if (disk->ranges == BAD_RANGES || !len || from % DL_SECTOR || len % DL_SECTOR)
		return -EINVAL;
	disk->range[disk->ranges++] = (struct bad_range){ from, len };
	qsort(disk->range, disk->ranges, sizeof(disk->range[0]), by_place);
	return 0;
}

/* Blocks that are written in place. */
static int add_extents(struct bad_disk *disk, const char *path)
{
	struct kt_extent extent[KT_EXTENTS];
	int n = kt_extents(path, extent, KT_EXTENTS), r = n < 0 ? n : n ? 0 : -ENODATA, i;

	for (i = 0; !r && i < n; i++)
		r = add_range(disk, extent[i].physical, extent[i].len);
	return r;
}

/* btrfs writes new data to a new place: somewhere in its chunks of data. */
static int add_chunks(struct bad_disk *disk)
{
	unsigned long long from, len;
	char command[256];
	int r = -ENODATA;
	FILE *f;

	snprintf(command, sizeof(command),
		 "btrfs inspect-internal dump-tree -t chunk %s | awk '/type DATA/ { n = $2 }"
		 " /stripe 0 devid/ && n { print $6, n; n = 0 }'",
		 disk->rec.device);
	f = popen(command, "re");
	while (f && fscanf(f, "%llu %llu", &from, &len) == 2)
		r = add_range(disk, from, len);
	return f && pclose(f) ? -EIO : r;
}

int bad_disk_file(struct bad_disk *disk, const char *type, const char *path)
{
	return strcmp(type, "btrfs") ? add_extents(disk, path) : add_chunks(disk);
}

int bad_disk_set(struct bad_disk *disk, bool bad)
{
	struct dm_piece table[DM_PIECES];

	if (disk->rec.kind == REC_FUSE)
		return rec_fuse_refuse(&disk->rec, disk->range, bad ? disk->ranges : 0);
	return dm_swap(DM_NAME, table, make_table(disk, table, bad));
}

int bad_disk_flaky(struct bad_disk *disk, unsigned int up_s, unsigned int down_s)
{
	struct dm_piece piece = { .sectors = disk->rec.size / DL_SECTOR,
				  .type = down_s ? "flakey" : "linear" };

	if (down_s)
		snprintf(piece.params, sizeof(piece.params), "%s 0 %u %u", disk->on, up_s, down_s);
	else
		snprintf(piece.params, sizeof(piece.params), "%s 0", disk->on);
	return dm_swap(DM_NAME, &piece, 1);
}

int bad_disk_copy(struct bad_disk *disk)
{
	int fd = memfd_create("copy", MFD_CLOEXEC), r = fd < 0 ? -errno : 0;

	if (!r)
		r = dl_copy(disk->image, fd, disk->rec.size);
	if (r && fd >= 0)
		close(fd);
	return r ? r : fd;
}

void bad_disk_end(struct bad_disk *disk)
{
	if (disk->image >= 0)
		close(disk->image);
	if (disk->rec.kind == REC_FUSE) {
		rec_disk_end(&disk->rec, NULL);
		return;
	}
	if (disk->rec.loop >= 0)
		close(disk->rec.loop);
	if (disk->rec.device[0])
		dm_drop(DM_NAME);
}
