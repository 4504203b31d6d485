/* SPDX-License-Identifier: BSD-3-Clause */
/* The part of sys.h that asks /proc and its like: who has what open, what is mapped, what is allowed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/btrfs.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "sys.h"

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027	/* Linux 6.10 */
#endif

static ssize_t sys_ret_size(ssize_t r)
{
	return r < 0 ? -errno : r;
}

ssize_t pl_sys_read_text(const char *path, char *buf, size_t cap)
{
	int fd = pl_sys_open(path, O_RDONLY);
	size_t used = 0;
	ssize_t n = 1;

	if (fd < 0)
		return fd;
	while (n > 0 && used < cap - 1) {
		n = sys_ret_size(read(fd, buf + used, cap - 1 - used));
		if (n > 0)
			used += (size_t)n;
	}
	close(fd);
	if (n < 0)
		return n;
	buf[used] = '\0';
	return (ssize_t)used;
}

int pl_sys_each_number(const char *path, int (*fn)(void *arg, int number), void *arg)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	long number;
	char *end;
	int r = 0;

	if (!dir)
		return -errno;
	while (!r && (entry = readdir(dir))) {
		number = strtol(entry->d_name, &end, 10);
		if (end != entry->d_name && !*end && number >= 0 && number <= INT_MAX)
			r = fn(arg, (int)number);
	}
	closedir(dir);
	return r;
}

/* What a network file system remembers is enough: it is never asked, which could hang. */
int pl_sys_stat_path(const char *path, struct pl_sys_stat *st)
{
	struct statx stx;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &stx))
		return -errno;
	*st = (struct pl_sys_stat){
		.dev = makedev(stx.stx_dev_major, stx.stx_dev_minor),
		.ino = stx.stx_ino,
		.mode = stx.stx_mode,
	};
	return 0;
}

/* "start-end rwxp off major:minor ino path"; false: not such a line. */
static bool mapping_parse(char *line, struct pl_sys_mapping *m)
{
	unsigned int major_no;
	char *p = line;

	m->start = strtoull(p, &p, 16);
	if (*p++ != '-')
		return false;
	m->end = strtoull(p, &p, 16);
	if (*p++ != ' ' || strnlen(p, 5) < 5)
		return false;
	m->prot = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0);
	m->prot |= p[2] == 'x' ? PROT_EXEC : 0;
	m->shared = p[3] == 's';
	m->off = strtoull(p + 4, &p, 16);
	major_no = (unsigned int)strtoul(p, &p, 16);
	if (*p++ != ':')
		return false;
	m->dev = makedev(major_no, (unsigned int)strtoul(p, &p, 16));
	m->ino = strtoull(p, &p, 10);
	return true;
}

/* "1: LEASE  ACTIVE    READ  123 08:01:131 0 EOF", the waiting ones with an arrow before the kind. */
static bool lease_parse(const char *line, struct pl_sys_lease *lease)
{
	unsigned int major_no, minor_no;
	unsigned long long ino;
	char kind[8], state[12], type[8];
	int pid;

	if (sscanf(line, "%*u: %7s %11s %7s %d %x:%x:%llu", kind, state, type, &pid, &major_no, &minor_no,
		   &ino) != 7)
		return false;
	if (strcmp(kind, "LEASE") && strcmp(kind, "DELEG"))
		return false;
	*lease = (struct pl_sys_lease){
		.dev = makedev(major_no, minor_no),
		.ino = ino,
		.pid = pid,
		.reads = !strcmp(state, "ACTIVE") && !strcmp(type, "READ"),
	};
	return true;
}

struct each {
	int (*mapping)(void *arg, const struct pl_sys_mapping *m);
	int (*lease)(void *arg, const struct pl_sys_lease *lease);
	void *arg;
};

static int each_line(const struct each *each, char *line)
{
	struct pl_sys_mapping m;
	struct pl_sys_lease lease;

	if (each->mapping)
		return mapping_parse(line, &m) ? each->mapping(each->arg, &m) : 0;
	return lease_parse(line, &lease) ? each->lease(each->arg, &lease) : 0;
}

/* Reads may end anywhere in a line, and paths may be long: only the head of each line is kept. */
static int each_of(const char *path, const struct each *each)
{
	int fd = pl_sys_open(path, O_RDONLY), r = 0;
	char buf[4096], line[128];
	size_t used = 0;
	ssize_t n = 1, i;

	if (fd < 0)
		return fd;
	while (!r && (n = read(fd, buf, sizeof(buf))) > 0) {
		for (i = 0; i < n && !r; i++) {
			if (buf[i] != '\n') {
				if (used < sizeof(line) - 1)
					line[used++] = buf[i];
				continue;
			}
			line[used] = '\0';
			used = 0;
			r = each_line(each, line);
		}
	}
	if (n < 0)
		r = -errno;
	close(fd);
	return r;
}

int pl_sys_each_mapping(int (*fn)(void *arg, const struct pl_sys_mapping *m), void *arg)
{
	const struct each each = { .mapping = fn, .arg = arg };

	return each_of("/proc/self/maps", &each);
}

int pl_sys_each_lease(int (*fn)(void *arg, const struct pl_sys_lease *lease), void *arg)
{
	const struct each each = { .lease = fn, .arg = arg };

	return each_of("/proc/locks", &each);
}

int pl_sys_same_description(int fd, pid_t pid, int other)
{
	long r = -1;

	if (pid == getpid())
		r = fcntl(fd, F_DUPFD_QUERY, other);
	if (r < 0) {
		r = syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, fd, other);
		if (r < 0)
			return -errno;
		r = r == 0;
	}
	return (int)r;
}

/* Answered in kind: disks have a major number, memory files seals, and btrfs an ioctl of its own. */
bool pl_sys_fs_is(int fd, const struct pl_sys_stat *st)
{
	struct btrfs_ioctl_fs_info_args info;

	switch (st->fs_magic) {
	case TMPFS_MAGIC:
	case HUGETLBFS_MAGIC:
		return fcntl(fd, F_GET_SEALS) >= 0 || errno != EINVAL;
	case BTRFS_SUPER_MAGIC:
		return !ioctl(fd, BTRFS_IOC_FS_INFO, &info) || errno != ENOTTY;
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
		return major(st->dev) != 0;
	default:
		return true;
	}
}

pid_t pl_sys_pid(void)
{
	return getpid();
}

static bool sys_can_lock_all(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	memset(data, 0, sizeof(data));
	if (syscall(SYS_capget, &head, data))
		return false;
	return data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
}

uint64_t pl_sys_memlock_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY || sys_can_lock_all())
		return UINT64_MAX;
	return limit.rlim_cur;
}
