/* SPDX-License-Identifier: BSD-3-Clause */
/* The recorded disk, and its dm-log-writes half. */
#include "recdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

static int dm_run(const char *command)
{
	int status = system(command);

	return status == -1 || !WIFEXITED(status) || WEXITSTATUS(status) ? -ENODEV : 0;
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
	char on[KT_DEVICE_MAX], log_on[KT_DEVICE_MAX], command[256];
	int image = -1, r;

	if (access("/dev/mapper/control", R_OK | W_OK) && dm_run("modprobe -q dm-mod"))
		return -ENODEV;
	dm_run(DMSETUP " remove --retry " DM_NAME " 2>/dev/null"); /* a test that was killed left it */
	disk->loop = dm_loop(disk->size, "recorded", &image, on);
	close_fd(&image);
	disk->log_loop = dm_loop(LOG_BYTES, "record", &disk->log, log_on);
	if (disk->loop < 0 || disk->log_loop < 0)
		return disk->loop < 0 ? disk->loop : disk->log_loop;
	snprintf(command, sizeof(command), DMSETUP " create " DM_NAME " --table \"0 %llu log-writes %s %s\"",
		 (unsigned long long)disk->size / DL_SECTOR, on, log_on);
	r = dm_run(command);
	if (!r)
		snprintf(disk->device, sizeof(disk->device), "/dev/mapper/" DM_NAME);
	return r;
}

/* As "dmsetup message ... mark" does it, without the process. */
int rec_dm_mark(struct rec_disk *disk, uint32_t number)
{
	_Alignas(8) char order[sizeof(struct dm_ioctl) + sizeof(struct dm_target_msg) + 32] = { 0 };
	struct dm_ioctl *head = (struct dm_ioctl *)order;
	int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC), r;

	(void)disk;
	if (control < 0)
		return -errno;
	*head = (struct dm_ioctl){ .version = { DM_VERSION_MAJOR }, .name = DM_NAME };
	head->data_size = sizeof(order);
	head->data_start = sizeof(*head);
	/* The sector of the message, 0, finds the target: there is one. */
	snprintf(order + sizeof(*head) + sizeof(struct dm_target_msg), 32, "mark %u", number);
	r = ioctl(control, DM_TARGET_MSG, order) ? -errno : 0;
	close(control);
	return r;
}

/* Removing the target writes down what is still in its queues. */
int rec_dm_end(struct rec_disk *disk)
{
	return disk->device[0] ? dm_run(DMSETUP " remove --retry " DM_NAME) : 0;
}
