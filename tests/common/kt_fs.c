/* SPDX-License-Identifier: BSD-3-Clause */
/* Scratch file systems: a memfd, a loop device, mkfs, mount, and a look at what really got mounted. */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kt_private.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

extern char **environ;

/* min_mib is what the mkfs of Debian 12 asks for at least. */
static const struct fs_kind {
	const char *type;
	long magic;
	unsigned int min_mib;
	const char *mkfs[8]; /* the device is appended; none for file systems without one */
} kinds[] = {
	{ "tmpfs", TMPFS_MAGIC, 1, { NULL } },
	{ "hugetlbfs", HUGETLBFS_MAGIC, 2, { NULL } },
	{ "ext4", EXT4_SUPER_MAGIC, 8, { "mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard" } },
	{ "xfs", XFS_SUPER_MAGIC, 320, { "mkfs.xfs", "-q", "-f", "-K" } },
	{ "btrfs", BTRFS_SUPER_MAGIC, 256, { "mkfs.btrfs", "-q", "-f", "-K" } },
};

static int run_mkfs(const struct fs_kind *kind, const char *device)
{
	posix_spawn_file_actions_t actions;
	char *argv[10];
	int n = 0, status, ret;
	pid_t pid;

	while (kind->mkfs[n]) {
		argv[n] = strdup(kind->mkfs[n]);
		n++;
	}
	argv[n++] = strdup(device);
	argv[n] = NULL;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	ret = -posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	while (n)
		free(argv[--n]);
	if (ret)
		return ret;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -EIO;
}

/* LO_FLAGS_AUTOCLEAR: the device is free again as soon as nothing has it open, so nothing can be leaked. */
static int loop_open(int image, char device[32])
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), ret = -EBUSY, fd, number;
	struct loop_config config = { .fd = (uint32_t)image, .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };

	if (control < 0)
		return -errno;
	/* Another test may be handed the same free number: only LOOP_CONFIGURE decides. */
	for (int try = 0; try < 50 && ret == -EBUSY; try++) {
		number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0) {
			ret = -errno;
			break;
		}
		snprintf(device, 32, "/dev/loop%d", number);
		fd = open(device, O_RDWR | O_CLOEXEC);
		ret = fd < 0 ? -errno : ioctl(fd, LOOP_CONFIGURE, &config) ? -errno : fd;
		if (ret < 0 && fd >= 0) {
			close(fd);
			kt_sleep_ms(10);
		}
	}
	close(control);
	return ret;
}

static int mount_image(const struct fs_kind *kind, const char *dir, unsigned int mib)
{
	/* mkfs.btrfs believes that two loop devices over files of one name are one: dir is the memfd's name.
	 */
	int image = memfd_create(dir, MFD_CLOEXEC), loop = -1, ret = 0;
	char device[32];

	if (image < 0 || ftruncate(image, (off_t)mib << 20))
		ret = -errno;
	else if ((loop = loop_open(image, device)) < 0)
		ret = loop;
	if (!ret)
		ret = run_mkfs(kind, device);
	if (!ret && mount(device, dir, kind->type, 0, NULL))
		ret = -errno;
	if (loop >= 0)
		close(loop);
	if (image >= 0)
		close(image);
	return ret;
}

static int mount_checked(const struct fs_kind *kind, const char *dir, unsigned int mib)
{
	struct statfs sfs;
	char options[32];
	int ret = 0;

	if (mib < kind->min_mib)
		mib = kind->min_mib;
	snprintf(options, sizeof(options), "size=%uM", mib);
	if (kind->mkfs[0])
		ret = mount_image(kind, dir, mib);
	else if (mount("kt", dir, kind->type, 0, options))
		ret = -errno;
	if (ret)
		return ret;
	/* A mount that failed silently would leave us testing whatever /tmp is. */
	if (statfs(dir, &sfs) || (long)sfs.f_type != kind->magic)
		return -ENODEV;
	return 0;
}

static int mount_point(char dir[KT_PATH_MAX])
{
	int n = 0;

	if (!kt_room->base[0]) {
		char base[KT_PATH_MAX] = "/tmp/kt-XXXXXX";

		/* Tests that give up their privileges must still reach their files. */
		if (!mkdtemp(base) || chmod(base, 0755))
			return -errno;
		memcpy(kt_room->base, base, sizeof(base));
	}
	while (n < KT_MOUNTS && kt_room->mounts[n][0])
		n++;
	if (n == KT_MOUNTS)
		return -ENOSPC;
	snprintf(dir, KT_PATH_MAX, "%.32s/%d", kt_room->base, n);
	if (mkdir(dir, 0755))
		return -errno;
	memcpy(kt_room->mounts[n], dir, KT_PATH_MAX);
	return 0;
}

int kt_fs_make(struct kt_fs *fs, const char *type, unsigned int mib)
{
	const struct fs_kind *kind = NULL;
	int ret;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].type, type))
			kind = &kinds[i];
	if (!kind)
		return -EINVAL;
	if (geteuid())
		return -EPERM;
	ret = mount_point(fs->dir);
	if (ret)
		return ret;
	ret = mount_checked(kind, fs->dir, mib);
	if (ret) {
		fprintf(stderr, "kt_fs_make: %s on %s: %s\n", type, fs->dir, strerror(-ret));
		kt_fs_drop(fs);
	}
	return ret;
}

void kt_fs_drop(struct kt_fs *fs)
{
	if (umount2(fs->dir, 0) && errno == EBUSY)
		umount2(fs->dir, MNT_DETACH);
	rmdir(fs->dir);
	for (int i = 0; i < KT_MOUNTS; i++)
		if (!strcmp(kt_room->mounts[i], fs->dir))
			kt_room->mounts[i][0] = 0;
}

int kt_file(char path[KT_PATH_MAX], const char *dir, const char *name, size_t size)
{
	char block[4096];
	int fd, ret = 0;

	snprintf(path, KT_PATH_MAX, "%.64s/%.28s", dir, name);
	memset(block, 'k', sizeof(block));
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	for (size_t done = 0; done < size && !ret;) {
		size_t want = size - done < sizeof(block) ? size - done : sizeof(block);
		ssize_t n = write(fd, block, want);

		if (n < 0)
			ret = -errno;
		else
			done += (size_t)n;
	}
	if (!ret && fsync(fd))
		ret = -errno;
	close(fd);
	return ret;
}

int kt_break_time(unsigned int seconds)
{
	static const char path[] = "/proc/sys/fs/lease-break-time";
	int old = -1;
	FILE *f;

	if (kt_room->break_time < 0) {
		f = fopen(path, "re");
		if (!f)
			return -errno;
		if (fscanf(f, "%d", &old) != 1)
			old = -1;
		fclose(f);
		if (old < 0)
			return -EIO;
		kt_room->break_time = old;
	}
	return kt_write_number(path, seconds);
}
