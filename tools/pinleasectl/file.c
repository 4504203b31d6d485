/* SPDX-License-Identifier: BSD-3-Clause */
/* What can be said of a file without opening it in the sense of leases: through O_PATH. */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
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

void ctl_file_look(const char *path, struct ctl_file *file)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	struct utsname uts;
	struct statx st;

	*file = (struct ctl_file){ .path = path, .fs = "unknown", .kernel = "unknown" };
	if (!uname(&uts))
		snprintf(file->kernel, sizeof(file->kernel), "%.64s", uts.release);
	if (fd < 0)
		return;
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &st)) {
		file->owner = st.stx_uid;
		file->size = st.stx_size;
		file->dax = st.stx_attributes & STATX_ATTR_DAX;
		if (!(st.stx_mask & STATX_MNT_ID) ||
		    !file_mount_type(st.stx_mnt_id, file->fs, sizeof(file->fs)))
			file_magic_type(fd, file->fs, sizeof(file->fs));
	}
	close(fd);
}
