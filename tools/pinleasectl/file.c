/* SPDX-License-Identifier: BSD-3-Clause */
/* What can be said of a file without opening it in the sense of leases: through O_PATH. */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "ctl.h"

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000u
#endif

bool ctl_read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	bool read = f && fgets(buf, (int)size, f);

	if (f)
		fclose(f);
	if (read)
		buf[strcspn(buf, "\n")] = '\0';
	return read;
}

bool ctl_kernel_from(const char *release, unsigned int major, unsigned int minor)
{
	unsigned int is_major = 0, is_minor = 0;

	sscanf(release, "%u.%u", &is_major, &is_minor);
	return is_major > major || (is_major == major && is_minor >= minor);
}

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": the type behind the dash, by mount id. */
static bool file_mount_type(unsigned long long id, char *fs, size_t size)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	unsigned long long line_id;
	char line[4096], *dash;
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		dash = strstr(line, " - ");
		found = sscanf(line, "%llu", &line_id) == 1 && line_id == id && dash;
		if (found)
			snprintf(fs, size, "%.*s", (int)strcspn(dash + 3, " "), dash + 3);
	}
	if (f)
		fclose(f);
	return found;
}

/* Mounts of the kernel's own, where memfds live, are in no list. */
static void file_magic_type(int fd, char *fs, size_t size)
{
	struct statfs st;

	if (!fstatfs(fd, &st) && st.f_type == TMPFS_MAGIC)
		snprintf(fs, size, "tmpfs");
	else if (!fstatfs(fd, &st) && st.f_type == HUGETLBFS_MAGIC)
		snprintf(fs, size, "hugetlbfs");
	else
		snprintf(fs, size, "unknown");
}

/* A device-dax: its size is not the inode's. */
static uint64_t file_device_size(const struct statx *st)
{
	char path[64], line[32];

	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/size", st->stx_rdev_major, st->stx_rdev_minor);
	return ctl_read_line(path, line, sizeof(line)) ? strtoull(line, NULL, 10) : 0;
}

/* What a FUSE file system calls itself is its own choice. */
static void file_type(int fd, const struct statx *st, struct ctl_file *file)
{
	char fs[sizeof(file->fs)];

	if (!(st->stx_mask & STATX_MNT_ID) || !file_mount_type(st->stx_mnt_id, fs, sizeof(fs)))
		file_magic_type(fd, fs, sizeof(fs));
	ctl_shown(fs, file->fs, sizeof(file->fs));
}

void ctl_file_look(const char *path, struct ctl_file *file)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	struct utsname uts;
	struct statx st;

	*file = (struct ctl_file){ .path = path, .fs = "unknown", .kernel = "unknown" };
	ctl_shown(path, file->shown, sizeof(file->shown));
	if (!uname(&uts))
		snprintf(file->kernel, sizeof(file->kernel), "%.64s", uts.release);
	if (fd < 0)
		return;
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &st)) {
		file->owner = st.stx_uid;
		file->size = S_ISCHR(st.stx_mode) ? file_device_size(&st) : st.stx_size;
		file->dax = st.stx_attributes & STATX_ATTR_DAX;
		file_type(fd, &st, file);
	}
	close(fd);
}
