/* SPDX-License-Identifier: BSD-3-Clause */
#include "dm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kt.h"

#define CONTROL "/dev/mapper/control"
#define BODY	4096u
#define DROP_MS 5000u

struct order {
	struct dm_ioctl head;
	char body[BODY];
};

static int dm_call(unsigned long request, const char *name, uint32_t flags, struct order *o)
{
	int fd = open(CONTROL, O_RDWR | O_CLOEXEC), r;

	if (fd < 0)
		return -ENODEV;
	o->head.version[0] = DM_VERSION_MAJOR;
	o->head.data_size = sizeof(*o);
	o->head.data_start = offsetof(struct order, body);
	o->head.flags = flags;
	snprintf(o->head.name, sizeof(o->head.name), "%s", name);
	r = ioctl(fd, request, o) ? -errno : 0;
	close(fd);
	return r;
}

static int dm_load(const char *name, const struct dm_piece *piece, size_t pieces)
{
	struct order o = { .head = { .target_count = (uint32_t)pieces } };
	struct dm_target_spec *spec;
	size_t i, at = 0, len;

	for (i = 0; i < pieces; i++, at += len) {
		len = (sizeof(*spec) + strlen(piece[i].params) + 8) / 8 * 8;
		if (at + len > sizeof(o.body))
			return -E2BIG;
		spec = (struct dm_target_spec *)(o.body + at);
		spec->sector_start = piece[i].sector;
		spec->length = piece[i].sectors;
		spec->next = (uint32_t)len;
		snprintf(spec->target_type, sizeof(spec->target_type), "%s", piece[i].type);
		memcpy(spec + 1, piece[i].params, strlen(piece[i].params) + 1);
	}
	return dm_call(DM_TABLE_LOAD, name, 0, &o);
}

int dm_make(const char *name, const struct dm_piece *piece, size_t pieces, char *device, size_t size)
{
	struct order o = { 0 };
	int r;

	if (access(CONTROL, R_OK | W_OK) && system("modprobe -q dm-mod"))
		return -ENODEV;
	dm_drop(name);
	r = dm_call(DM_DEV_CREATE, name, 0, &o);
	if (r)
		return r;
	snprintf(device, size, "/dev/dm-%u", minor(o.head.dev));
	r = dm_load(name, piece, pieces);
	o = (struct order){ 0 };
	if (!r)
		r = dm_call(DM_DEV_SUSPEND, name, 0, &o); /* without the flag it resumes */
	if (r)
		dm_drop(name);
	return r;
}

/* A file system that is frozen first is written out first: not this one. */
int dm_swap(const char *name, const struct dm_piece *piece, size_t pieces)
{
	struct order o = { 0 };
	int r = dm_load(name, piece, pieces);

	if (!r)
		r = dm_call(DM_DEV_SUSPEND, name, DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG, &o);
	o = (struct order){ 0 };
	return r ? r : dm_call(DM_DEV_SUSPEND, name, 0, &o);
}

int dm_tell(const char *name, const char *message)
{
	struct order o = { 0 };

	snprintf(o.body + sizeof(struct dm_target_msg), 64, "%s", message);
	return dm_call(DM_TARGET_MSG, name, 0, &o);
}

int dm_drop(const char *name)
{
	uint64_t until = kt_now() + DROP_MS * 1000000ull;
	struct order o;
	int r;

	do {
		o = (struct order){ 0 };
		r = dm_call(DM_DEV_REMOVE, name, 0, &o);
		if (r == -EBUSY)
			kt_sleep_ms(10);
	} while (r == -EBUSY && kt_now() < until);
	return r;
}
