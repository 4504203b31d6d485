/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Persistent memory: an emulated one becomes a character device, a device-dax, by ndctl; and
 * what a mapping of it is made of.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kt_private.h"

#define DAX_DEVICES  "/sys/bus/dax/devices"
#define DAX_SOON_MS  30000u

static int read_line(const char *path, char *line, int size)
{
	FILE *f = fopen(path, "re");
	int ret = f && fgets(line, size, f) ? 0 : -EIO;

	if (f)
		fclose(f);
	if (!ret)
		line[strcspn(line, "\n")] = 0;
	return ret;
}

/* The first device-dax with a node in /dev: a seed device has neither size nor node. */
static int dax_find(char path[KT_PATH_MAX], uint64_t *size)
{
	char at[512], line[32];
	struct dirent *entry;
	struct stat st;
	int ret = -ENODEV;
	DIR *dir = opendir(DAX_DEVICES);

	while (ret && dir && (entry = readdir(dir))) {
		snprintf(at, sizeof(at), DAX_DEVICES "/%s/size", entry->d_name);
		snprintf(path, KT_PATH_MAX, "/dev/%.64s", entry->d_name);
		if (entry->d_name[0] == '.' || read_line(at, line, sizeof(line)) ||
		    sscanf(line, "%" SCNu64, size) != 1 || !*size)
			continue;
		if (!stat(path, &st) && S_ISCHR(st.st_mode))
			ret = 0;
	}
	if (dir)
		closedir(dir);
	return ret;
}

/* The name of the namespace behind /dev/pmem1: "namespace1.0". */
static int pmem_namespace(char name[KT_PATH_MAX])
{
	char target[512], *slash;
	ssize_t len = readlink("/sys/block/pmem1/device", target, sizeof(target) - 1);

	if (len < 0)
		return -ENODEV;
	target[len] = 0;
	slash = strrchr(target, '/');
	snprintf(name, KT_PATH_MAX, "%.64s", slash ? slash + 1 : target);
	return 0;
}

int kt_devdax(char path[KT_PATH_MAX], uint64_t *size)
{
	static const char *const make[] = { "ndctl", "create-namespace", "-f", "-m", "devdax", "-e", NULL };
	char name[KT_PATH_MAX];
	int ret = dax_find(path, size);

	if (!ret)
		return 0;
	ret = pmem_namespace(name);
	if (!ret)
		ret = kt_run(make, name);
	for (unsigned int ms = 0; !ret && dax_find(path, size); ms += 10) {
		if (ms > DAX_SOON_MS)
			return -ETIMEDOUT;
		kt_sleep_ms(10);
	}
	return ret;
}

/* As in linux/fs.h from 6.7 on. */
struct region {
	uint64_t start, end, categories;
};

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, any_of, returned;
};

#define SCAN	_IOWR('f', 16, struct scan)
#define IS_HUGE (1u << 6)

int kt_huge_at(const void *at)
{
	struct region region;
	struct scan scan = { .size = sizeof(scan), .start = (uintptr_t)at, .end = (uintptr_t)at + KT_HUGE,
			     .vec = (uintptr_t)&region, .vec_len = 1, .mask = IS_HUGE, .returned = IS_HUGE };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), n;

	if (fd < 0)
		return -errno;
	n = ioctl(fd, SCAN, &scan);
	n = n < 0 ? -errno : n;
	close(fd);
	return n;
}
