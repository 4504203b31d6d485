/* SPDX-License-Identifier: BSD-3-Clause */
/* Scratch file systems: a memfd, a loop device, mkfs, mount, and a look at what really got mounted. */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
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

#define MKFS_EXT4 "mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard"
#define HUGE_EXT4 "mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard,stride=512,stripe_width=512"

/*
 * min_mib is what the mkfs of Debian 12 asks for at least; --unsupported lets mkfs.xfs
 * take the 256 MiB that a guest's /dev/pmem0 has. Persistent memory gets its blocks in
 * multiples of 2 MiB where a file is large enough. device NULL: a loop device, if mkfs is set.
 */
static const struct fs_kind {
	const char *name, *type;
	long magic;
	unsigned int min_mib;
	const char *mkfs[10]; /* the device is appended; none for file systems without one */
	const char *device, *options;
} kinds[] = {
	{ "tmpfs", "tmpfs", TMPFS_MAGIC, 1, { NULL }, NULL, NULL },
	{ "hugetlbfs", "hugetlbfs", HUGETLBFS_MAGIC, 2, { NULL }, NULL, NULL },
	{ "ext4", "ext4", EXT4_SUPER_MAGIC, 8, { MKFS_EXT4 }, NULL, NULL },
	{ "ext4_inline", "ext4", EXT4_SUPER_MAGIC, 8, { MKFS_EXT4, "-O", "inline_data" }, NULL, NULL },
	{ "xfs", "xfs", XFS_SUPER_MAGIC, 320, { "mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=1" },
	  NULL, NULL },
	{ "xfs_noreflink", "xfs", XFS_SUPER_MAGIC, 320, { "mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=0" },
	  NULL, NULL },
	{ "btrfs", "btrfs", BTRFS_SUPER_MAGIC, 256, { "mkfs.btrfs", "-q", "-f", "-K" }, NULL, NULL },
	{ "nfs4", "nfs4", NFS_SUPER_MAGIC, 0, { NULL }, NULL, NULL },
	{ "ext4_dax", "ext4", EXT4_SUPER_MAGIC, 0, { HUGE_EXT4 }, "/dev/pmem0", "dax=always" },
	{ "xfs_dax", "xfs", XFS_SUPER_MAGIC, 0,
	  { "mkfs.xfs", "-q", "-f", "-K", "--unsupported", "-m", "reflink=0", "-dsu=2m,sw=1" },
	  "/dev/pmem0", "dax=always" },
};

int kt_run(const char *const *args, const char *last)
{
	posix_spawn_file_actions_t actions;
	char *argv[16];
	int n = 0, status, ret;
	pid_t pid;

	while (args[n] && n < 14) {
		argv[n] = strdup(args[n]);
		n++;
	}
	if (last)
		argv[n++] = strdup(last);
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

/* LO_FLAGS_AUTOCLEAR: nothing can be leaked. */
int kt_loop(int image, char device[KT_DEVICE_MAX])
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
		snprintf(device, KT_DEVICE_MAX, "/dev/loop%d", number);
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

static int mount_image(const struct fs_kind *kind, const char *dir, unsigned int mib, int *keep)
{
	/* mkfs.btrfs believes that two loop devices over files of one name are one: dir is the memfd's name.
	 */
	int image = memfd_create(dir, MFD_CLOEXEC), loop = -1, ret = 0;
	char device[KT_DEVICE_MAX];

	if (image < 0 || ftruncate(image, (off_t)mib << 20))
		ret = -errno;
	else if ((loop = kt_loop(image, device)) < 0)
		ret = loop;
	if (!ret)
		ret = kt_run(kind->mkfs, device);
	if (!ret && mount(device, dir, kind->type, 0, NULL))
		ret = -errno;
	if (loop >= 0)
		close(loop);
	if (!ret)
		*keep = image;
	else if (image >= 0)
		close(image);
	return ret;
}

/* Whatever was on the device is gone. */
static int mount_device(const struct fs_kind *kind, const char *dir)
{
	int ret;

	if (access(kind->device, F_OK))
		return -ENODEV;
	ret = kt_run(kind->mkfs, kind->device);
	if (!ret && mount(kind->device, dir, kind->type, 0, kind->options))
		ret = -errno;
	return ret;
}

/* A mount that failed silently would leave us testing whatever /tmp is. */
static int check_mount(const struct fs_kind *kind, const char *dir)
{
	struct statfs sfs;

	return statfs(dir, &sfs) || (long)sfs.f_type != kind->magic ? -ENODEV : 0;
}

static int mount_checked(const struct fs_kind *kind, const char *dir, unsigned int mib, int *image)
{
	char options[32];
	int ret = 0;

	if (mib < kind->min_mib)
		mib = kind->min_mib;
	snprintf(options, sizeof(options), "size=%uM", mib);
	if (kind->device)
		ret = mount_device(kind, dir);
	else if (kind->mkfs[0])
		ret = mount_image(kind, dir, mib, image);
	else if (mount("kt", dir, kind->type, 0, options))
		ret = -errno;
	return ret ? ret : check_mount(kind, dir);
}

static int mount_point(struct kt_fs *fs)
{
	int n = 0;

	fs->image = -1;
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
	snprintf(fs->dir, KT_PATH_MAX, "%.32s/%d", kt_room->base, n);
	if (mkdir(fs->dir, 0755))
		return -errno;
	memcpy(kt_room->mounts[n], fs->dir, KT_PATH_MAX);
	return 0;
}

static const struct fs_kind *kind_of(const char *type)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, type))
			return &kinds[i];
	return NULL;
}

unsigned int kt_fs_least_mib(const char *type)
{
	const struct fs_kind *kind = kind_of(type);

	return kind ? kind->min_mib : 0;
}

int kt_mkfs(const char *type, const char *device)
{
	const struct fs_kind *kind = kind_of(type);

	return kind && kind->mkfs[0] ? kt_run(kind->mkfs, device) : -EINVAL;
}

int kt_fs_mount(struct kt_fs *fs, const char *type, const char *device, const char *options)
{
	const struct fs_kind *kind = kind_of(type);
	int ret = kind ? mount_point(fs) : -EINVAL;

	if (ret)
		return ret;
	ret = mount(device, fs->dir, kind->type, 0, options) ? -errno : check_mount(kind, fs->dir);
	if (ret)
		kt_fs_drop(fs);
	return ret;
}

/* xfs refuses the UUID of one that is mounted. */
int kt_fs_mount_copy(struct kt_fs *fs, const char *type, const char *device)
{
	const char *options = !strcmp(type, "btrfs") ? "nodiscard" : !strcmp(type, "xfs") ? "nouuid" : NULL;

	return kt_fs_mount(fs, type, device, options);
}

void kt_fs_forget(const char *type, const char *device)
{
	struct btrfs_ioctl_vol_args args = { 0 };
	int fd = strcmp(type, "btrfs") ? -1 : open("/dev/btrfs-control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	snprintf(args.name, sizeof(args.name), "%s", device);
	ioctl(fd, BTRFS_IOC_FORGET_DEV, &args);
	close(fd);
}

int kt_extents(const char *path, struct kt_extent *extent, uint32_t max)
{
	_Alignas(8) char raw[sizeof(struct fiemap) + KT_EXTENTS * sizeof(struct fiemap_extent)] = { 0 };
	struct fiemap *map = (struct fiemap *)raw;
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	map->fm_length = UINT64_MAX;
	map->fm_flags = FIEMAP_FLAG_SYNC;
	map->fm_extent_count = max < KT_EXTENTS ? max : KT_EXTENTS;
	ret = ioctl(fd, FS_IOC_FIEMAP, map) ? -errno : (int)map->fm_mapped_extents;
	close(fd);
	for (int i = 0; i < ret; i++)
		extent[i] = (struct kt_extent){ map->fm_extents[i].fe_logical, map->fm_extents[i].fe_physical,
						map->fm_extents[i].fe_length };
	return ret;
}

int kt_fs_make(struct kt_fs *fs, const char *type, unsigned int mib)
{
	const struct fs_kind *kind = kind_of(type);
	int ret;

	if (!kind)
		return -EINVAL;
	if (geteuid())
		return -EPERM;
	ret = mount_point(fs);
	if (ret)
		return ret;
	ret = mount_checked(kind, fs->dir, mib, &fs->image);
	if (ret) {
		fprintf(stderr, "kt_fs_make: %s on %s: %s\n", type, fs->dir, strerror(-ret));
		kt_fs_drop(fs);
	}
	return ret;
}

int kt_fs_overlay(struct kt_fs *fs, const struct kt_fs *below)
{
	static const char *const part[] = { "lower", "upper", "work" };
	char path[3][KT_PATH_MAX], options[3 * KT_PATH_MAX + 64];
	struct statfs sfs;
	int ret = mount_point(fs);

	for (int i = 0; !ret && i < 3; i++) {
		snprintf(path[i], sizeof(path[i]), "%.64s/%s", below->dir, part[i]);
		if (mkdir(path[i], 0755))
			ret = -errno;
	}
	if (ret)
		return ret;
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", path[0], path[1], path[2]);
	if (mount("kt", fs->dir, "overlay", 0, options))
		ret = -errno;
	else if (statfs(fs->dir, &sfs) || sfs.f_type != OVERLAYFS_SUPER_MAGIC)
		ret = -ENODEV;
	if (ret)
		kt_fs_drop(fs);
	return ret;
}

void kt_fs_drop(struct kt_fs *fs)
{
	if (umount2(fs->dir, 0) && errno == EBUSY)
		umount2(fs->dir, MNT_DETACH);
	rmdir(fs->dir);
	if (fs->image >= 0)
		close(fs->image);
	fs->image = -1;
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

/* By fallocate as far as that goes, since writing is slow in an emulated machine. */
int kt_fill_up(const char *dir)
{
	static char block[4096];
	char path[KT_PATH_MAX];
	int fd, ret = kt_file(path, dir, "filler", 0);
	off_t at = 0;

	if (ret)
		return ret;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (off_t size = 64 << 20; size >= (off_t)sizeof(block); size /= 2)
		while (!fallocate(fd, 0, at, size))
			at += size;
	while (pwrite(fd, block, sizeof(block), at) > 0)
		at += (off_t)sizeof(block);
	ret = errno == ENOSPC ? 0 : -errno;
	fsync(fd);
	close(fd);
	return ret;
}

/* Sets a sysctl, and keeps what it was before the first time in *before, for the undertaker. */
static int set_sysctl(const char *path, long long number, int *before)
{
	int old = -1;
	FILE *f;

	if (*before < 0) {
		f = fopen(path, "re");
		if (!f)
			return -errno;
		if (fscanf(f, "%d", &old) != 1)
			old = -1;
		fclose(f);
		if (old < 0)
			return -EIO;
		*before = old;
	}
	return kt_write_number(path, number);
}

int kt_break_time(unsigned int seconds)
{
	return set_sysctl(KT_BREAK_TIME, seconds, &kt_room->break_time);
}

int kt_hugepages(unsigned int pages)
{
	unsigned int have = 0;
	int ret = set_sysctl(KT_HUGEPAGES, pages, &kt_room->hugepages);
	FILE *f;

	if (ret)
		return ret;
	f = fopen(KT_HUGEPAGES, "re");
	if (!f)
		return -errno;
	if (fscanf(f, "%u", &have) != 1)
		have = 0;
	fclose(f);
	return have < pages ? -ENOMEM : 0;
}
