/* SPDX-License-Identifier: BSD-3-Clause */
/* Files, descriptors, and what is read and written: real, but known to the simulation. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim_private.h"

static char file_dir[64];

static int ret_of(int r)
{
	return r < 0 ? -errno : r;
}

/* Inodes and descriptions */

struct sim_inode *sim_inode_get(uint64_t dev, uint64_t ino)
{
	struct sim_inode *inode;
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.inodes) {
		inode = pl_container(pos, struct sim_inode, link);
		if (inode->dev == dev && inode->ino == ino)
			return inode;
	}
	inode = calloc(1, sizeof(*inode));
	if (!inode)
		sim_die("out of memory");
	inode->dev = dev;
	inode->ino = ino;
	pl_list_init(&inode->ofds);
	pl_list_init(&inode->openers);
	pl_list_add_tail(&sim.inodes, &inode->link);
	return inode;
}

struct sim_inode *sim_inode_of(const char *path)
{
	struct sim_inode *inode;
	struct stat st;

	if (stat(path, &st))
		sim_die("%s: %s", path, strerror(errno));
	inode = sim_inode_get(st.st_dev, st.st_ino);
	if (path != inode->path)
		snprintf(inode->path, sizeof(inode->path), "%s", path);
	return inode;
}

struct sim_ofd *sim_ofd_new(struct sim_inode *inode, int flags)
{
	struct sim_ofd *ofd = calloc(1, sizeof(*ofd));

	if (!ofd)
		sim_die("out of memory");
	ofd->inode = inode;
	ofd->flags = flags;
	ofd->refs = 1;
	ofd->lease = F_UNLCK;
	ofd->told_fd = -1;
	pl_list_add_tail(&inode->ofds, &ofd->link);
	sim.counts.ofds++;
	return ofd;
}

void sim_ofd_put(struct sim_ofd *ofd)
{
	struct sim_inode *inode = ofd->inode;

	if (--ofd->refs)
		return;
	if (ofd->lease != F_UNLCK) {
		sim_judge_let_go(ofd);
		sim_ofd_drop_lease(ofd);
	}
	pl_list_del(&ofd->link);
	free(ofd);
	sim.counts.ofds--;
	sim_inode_wake(inode);
}

struct sim_ofd *sim_ofd_of(int fd)
{
	return fd >= 0 && fd < SIM_FDS && sim.fd_kind[fd] == SIM_FD_FILE ? sim.fd_ofd[fd] : NULL;
}

void sim_fd_set(int fd, enum sim_fd_kind kind, struct sim_ofd *ofd)
{
	if (fd >= SIM_FDS)
		sim_die("descriptor %d", fd);
	sim.counts.fds += (kind != SIM_FD_FREE) - (sim.fd_kind[fd] != SIM_FD_FREE);
	sim.fd_kind[fd] = kind;
	sim.fd_ofd[fd] = ofd;
}

/* Test files */

/* By that name it is known from now on; what was durable of it before is of no interest. */
static const char *file_known(const char *path)
{
	struct sim_inode *inode;

	sim_lock();
	inode = sim_inode_of(path);
	free(inode->durable);
	inode->durable = NULL;
	inode->durable_size = 0;
	sim_unlock();
	return inode->path;
}

const char *sim_file(const char *name, size_t size)
{
	char path[PATH_MAX], *data = malloc(size + 1);
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", file_dir, name);
	f = fopen(path, "w");
	sim_fill(data, size, 1);
	if (!f || fwrite(data, 1, size, f) != size || fclose(f))
		sim_die("%s: %s", path, strerror(errno));
	free(data);
	return file_known(path);
}

const char *sim_memfd(size_t size, int *fd)
{
	char path[32];

	*fd = memfd_create("sim", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0 || ftruncate(*fd, (off_t)size))
		sim_die("memfd: %s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
	return file_known(path);
}

void sim_fill(void *buf, size_t len, unsigned int seed)
{
	unsigned char *p = buf;
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = (unsigned char)(seed * 67 + i * 5 + (i >> 8) * 11 + (i >> 12) * 3 + 1);
}

bool sim_filled(const void *buf, size_t len, unsigned int seed)
{
	unsigned char *want = malloc(len + 1);
	bool same;

	sim_fill(want, len, seed);
	same = !memcmp(want, buf, len);
	free(want);
	return same;
}

bool sim_file_is(const char *path, uint64_t off, size_t len, unsigned int seed)
{
	char *data = malloc(len + 1);
	FILE *f = fopen(path, "r");
	bool same;

	same = f && !fseek(f, (long)off, SEEK_SET) && fread(data, 1, len, f) == len &&
	       sim_filled(data, len, seed);
	if (f)
		fclose(f);
	free(data);
	return same;
}

uint64_t sim_file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : (uint64_t)st.st_size;
}

void sim_file_system(uint32_t magic)
{
	sim_lock();
	sim.fs_magic = magic;
	sim_unlock();
}

void sim_hole(bool hole)
{
	sim_lock();
	sim.hole = hole;
	sim_unlock();
}

void sim_file_reset(void)
{
	struct pl_list *pos, *tmp;
	struct sim_inode *inode;

	if (!file_dir[0]) {
		strcpy(file_dir, access("/dev/shm", W_OK) ? "/tmp/sim-XXXXXX" : "/dev/shm/sim-XXXXXX");
		pl_list_init(&sim.inodes);
		pl_list_init(&sim.maps);
	}
	pl_list_for_each_safe (pos, tmp, &sim.inodes) {
		inode = pl_container(pos, struct sim_inode, link);
		if (!pl_list_empty(&inode->ofds))
			continue;
		if (inode->path[0])
			unlink(inode->path);
		pl_list_del(pos);
		free(inode->durable);
		free(inode);
	}
	if (strstr(file_dir, "XXXXXX")) {
		if (!mkdtemp(file_dir))
			sim_die("%s: %s", file_dir, strerror(errno));
	} else if (rmdir(file_dir) || mkdir(file_dir, 0700)) {
		sim_die("%s: %s", file_dir, strerror(errno));
	}
	sim.fs_magic = SIM_TMPFS;
	sim.dax = SIM_DAX_NONE;
	sim.hole = false;
	sim.disk_rate = sim.disk_dirty = sim.disk_busy = sim.written = 0;
	sim.memlock = UINT64_MAX;
}

void sim_dir(char *buf, size_t cap)
{
	snprintf(buf, cap, "%s", file_dir);
}

__attribute__((destructor)) static void file_dir_remove(void)
{
	if (file_dir[0])
		rmdir(file_dir);
}

/* sys.h */

int pl_sys_open(const char *path, int flags)
{
	int r = sim_enter("open", SIM_MEMORY | SIM_STEP), fd;
	struct stat st;

	if (r)
		return r;
	fd = ret_of(open(path, flags | O_CLOEXEC));
	if (fd < 0)
		return fd;
	if (fstat(fd, &st))
		sim_die("fstat: %s", strerror(errno));
	sim_lock();
	/* O_PATH is no opener: no lease knows of it. */
	if (flags & O_PATH)
		sim_fd_set(fd, SIM_FD_EVENT, NULL);
	else
		sim_fd_set(fd, SIM_FD_FILE, sim_ofd_new(sim_inode_get(st.st_dev, st.st_ino), flags));
	sim_unlock();
	return fd;
}

/* A file of its own, which no judge looks for. */
int pl_sys_scratch(uint64_t len, uint64_t huge)
{
	int r = sim_enter("scratch", SIM_MEMORY | SIM_STEP), fd;
	struct stat st;

	(void)huge;
	if (r)
		return r;
	fd = ret_of(memfd_create("scratch", MFD_CLOEXEC));
	if (fd < 0 || ftruncate(fd, (off_t)len) || fstat(fd, &st))
		sim_die("scratch: %s", strerror(errno));
	sim_lock();
	sim_fd_set(fd, SIM_FD_FILE, sim_ofd_new(sim_inode_get(st.st_dev, st.st_ino), O_RDWR));
	sim_unlock();
	return fd;
}

int pl_sys_dup(int fd)
{
	int r = sim_enter("dup", SIM_MEMORY | SIM_STEP), new;

	if (r)
		return r;
	new = ret_of(fcntl(fd, F_DUPFD_CLOEXEC, 0));
	if (new < 0)
		return new;
	sim_lock();
	if (sim_ofd_of(fd))
		sim_ofd_of(fd)->refs++;
	sim_fd_set(new, sim.fd_kind[fd], sim_ofd_of(fd));
	sim_unlock();
	return new;
}

int pl_sys_dup_over(int from, int to)
{
	if (!sim.forked)
		sim_die("only a forked child does this");
	return ret_of(dup3(from, to, O_CLOEXEC));
}

int pl_sys_close(int fd)
{
	struct sim_ofd *ofd = NULL;

	sim_enter("close", SIM_FAST);
	sim_lock();
	if (fd < 0 || fd >= SIM_FDS || sim.fd_kind[fd] == SIM_FD_FREE) {
		sim_violate("seam", "closes descriptor %d, which is not open", fd);
		sim_unlock();
		return -EBADF;
	}
	ofd = sim.fd_ofd[fd];
	sim_fd_set(fd, SIM_FD_FREE, NULL);
	/* Before the number can be given away again. */
	if (ofd)
		sim_ofd_put(ofd);
	close(fd);
	sim_unlock();
	return 0;
}

int pl_sys_get_flags(int fd)
{
	int r = sim_enter("get_flags", SIM_FAST);

	return r ? r : ret_of(fcntl(fd, F_GETFL));
}

int pl_sys_stat_id(int fd, struct pl_sys_stat *st)
{
	int r = sim_enter("stat_id", SIM_FAST);
	struct stat s;

	if (r)
		return r;
	if (fstat(fd, &s))
		return -errno;
	*st = (struct pl_sys_stat){
		.dev = s.st_dev,
		.ino = s.st_ino,
		.size = (uint64_t)s.st_size,
		.mode = s.st_mode,
		.links = s.st_nlink,
	};
	return 0;
}

int pl_sys_stat(int fd, struct pl_sys_stat *st)
{
	int r = sim_enter("stat", SIM_FAST);
	struct stat s;

	if (r)
		return r;
	if (fstat(fd, &s))
		return -errno;
	sim_lock();
	*st = (struct pl_sys_stat){ .dev = s.st_dev,
				    .ino = s.st_ino,
				    .size = (uint64_t)s.st_size,
				    .mode = s.st_mode,
				    .links = s.st_nlink,
				    .fs_magic = sim.fs_magic,
				    .block = SIM_PAGE,
				    .avail = 1ull << 30 };
	st->dax = sim.dax == SIM_DAX_FILES || sim.dax == SIM_DAX_PAGES;
	if (sim.dax == SIM_DAX_DEVICE) {
		st->mode = S_IFCHR;
		st->size = 0;
	}
	sim_unlock();
	return 0;
}

ssize_t pl_sys_pread(int fd, void *buf, size_t len, uint64_t off)
{
	int r = sim_enter_file("pread", SIM_BLOCKING | SIM_STEP, -EINVAL);
	ssize_t n;

	if (r < 0)
		return r;
	n = pread(fd, buf, r ? pl_min_u64(len, (uint64_t)r) : len, (off_t)off);
	return n < 0 ? -errno : n;
}

void sim_judge_fd(int fd, const char *what)
{
	sim_lock();
	if (sim_ofd_of(fd))
		sim_judge_write(sim_ofd_of(fd), what);
	sim_unlock();
}

/* A change of the layout is the application's own, and needs no guard; but no region may be over it. */
static void judge_change(int fd, uint64_t from, uint64_t end)
{
	struct sim_ofd *ofd;

	sim_lock();
	ofd = sim_ofd_of(fd);
	/* Open for reading: the kernel will refuse. */
	if (ofd && (ofd->flags & O_ACCMODE) != O_RDONLY)
		sim_judge_layout(ofd, from, end);
	sim_unlock();
}

int pl_sys_truncate(int fd, uint64_t len)
{
	int r = sim_enter_file("truncate", SIM_BLOCKING | SIM_STEP, -EINVAL);

	if (r)
		return r;
	judge_change(fd, len, UINT64_MAX);
	return ret_of(ftruncate(fd, (off_t)len));
}

int pl_sys_allocate(int fd, int mode, uint64_t off, uint64_t len)
{
	int r = sim_enter_file("allocate", SIM_MEMORY | SIM_BLOCKING | SIM_STEP, -ENODEV);

	if (r)
		return r;
	if (mode & ~FALLOC_FL_KEEP_SIZE)
		judge_change(fd, off, off + len);
	else
		sim_judge_fd(fd, "fallocate");
	return ret_of(fallocate(fd, mode, (off_t)off, (off_t)len));
}

int pl_sys_has_hole(int fd, uint64_t off, uint64_t len)
{
	int r = sim_enter("has_hole", SIM_STEP);

	(void)fd;
	(void)off;
	(void)len;
	return r ? r : sim.hole;
}

bool pl_sys_fs_is(int fd, const struct pl_sys_stat *st)
{
	(void)fd;
	(void)st;
	return true;
}

int pl_sys_get_seals(int fd)
{
	int r = sim_enter("get_seals", SIM_FAST);

	return r ? r : ret_of(fcntl(fd, F_GET_SEALS));
}

int pl_sys_add_seals(int fd, int seals)
{
	int r = sim_enter("add_seals", SIM_FAST);

	return r ? r : ret_of(fcntl(fd, F_ADD_SEALS, seals));
}

int pl_sys_event_new(void)
{
	int r = sim_enter("event_new", SIM_MEMORY | SIM_STEP), fd;

	if (r)
		return r;
	fd = ret_of(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (fd < 0)
		sim_die("eventfd: %d", fd);
	sim_lock();
	sim_fd_set(fd, SIM_FD_EVENT, NULL);
	sim_unlock();
	return fd;
}

void pl_sys_event_set(int fd)
{
	eventfd_write(fd, 1);
	sim_lock();
	sim_wake(&sim.fd_kind[fd], true);
	sim_unlock();
}

void pl_sys_event_clear(int fd)
{
	eventfd_t n;

	eventfd_read(fd, &n);
}
