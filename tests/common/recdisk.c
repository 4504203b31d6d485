/* SPDX-License-Identifier: BSD-3-Clause */
/* The recorded disk, and its dm-log-writes half. */
#include "recdisk.h"

#include "dm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DM_NAME	  "pl-recorded"
#define DMSETUP	  "DM_DISABLE_UDEV=1 dmsetup" /* makes the device node itself */
#define LOG_BYTES (2ull << 30)		      /* a hole, until it is written */

int rec_disk_make(struct rec_disk *disk, enum rec_kind kind, unsigned int mib)
{
	int r;

	*disk = (struct rec_disk){ .kind = kind, .size = (uint64_t)mib << 20 };
	disk->loop = disk->log_loop = disk->log = -1;
	r = kind == REC_DM ? rec_dm_make(disk) : rec_fuse_make(disk);
	if (r)
		rec_disk_end(disk, NULL);
	return r;
}

int rec_disk_mark(struct rec_disk *disk, uint32_t number)
{
	return disk->kind == REC_DM ? rec_dm_mark(disk, number) : rec_fuse_mark(disk, number);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int rec_disk_end(struct rec_disk *disk, struct dl_log *log)
{
	int r;

	close_fd(&disk->loop);
	r = disk->kind == REC_DM ? rec_dm_end(disk) : rec_fuse_end(disk);
	close_fd(&disk->log_loop);
	if (!r && log)
		r = dl_read(log, disk->log);
	close_fd(&disk->log);
	return r;
}

static int dm_loop(uint64_t size, const char *name, int *image, char device[KT_DEVICE_MAX])
{
	*image = memfd_create(name, MFD_CLOEXEC);
	if (*image < 0 || ftruncate(*image, (off_t)size))
		return -errno;
	return kt_loop(*image, device);
}

int rec_dm_make(struct rec_disk *disk)
{
	struct dm_piece all = { .sectors = disk->size / DL_SECTOR, .type = "log-writes" };
	char on[KT_DEVICE_MAX], log_on[KT_DEVICE_MAX];
	int image = -1;

	disk->loop = dm_loop(disk->size, "recorded", &image, on);
	close_fd(&image);
	disk->log_loop = dm_loop(LOG_BYTES, "record", &disk->log, log_on);
	if (disk->loop < 0 || disk->log_loop < 0)
		return disk->loop < 0 ? disk->loop : disk->log_loop;
	snprintf(all.params, sizeof(all.params), "%s %s", on, log_on);
	return dm_make(DM_NAME, &all, 1, disk->device, sizeof(disk->device));
}

int rec_dm_mark(struct rec_disk *disk, uint32_t number)
{
	char text[32];

	(void)disk;
	snprintf(text, sizeof(text), "mark %u", number);
	return dm_tell(DM_NAME, text);
}

/* Removing the target writes down what is still in its queues. */
int rec_dm_end(struct rec_disk *disk)
{
	return disk->device[0] ? dm_drop(DM_NAME) : 0;
}
