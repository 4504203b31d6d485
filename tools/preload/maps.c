/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of mapped files, and a duplicate of each descriptor, since programs close theirs
 * right after mapping. A mapping holds the open file description, and there is no way back
 * from it to a descriptor. Mappings of one description share a duplicate (kcmp(2) tells), so
 * a program that maps one file in a thousand pieces does not run out of descriptors.
 *
 * Programs close all descriptors above 2, and put others in their place. So before a
 * duplicate is used or closed its identity is checked; and duplicates have high numbers,
 * which nobody gets by accident.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "preload.h"

#define MAPS_ROOM (128u << 10) /* ranges and descriptors; vm.max_map_count is 65,530 */
#define BUCKETS	  1024u
#define HIGH_FD	  512

struct pre_table pre_maps_table;
_Thread_local struct pre_gap pre_maps_gap = PRE_NO_GAP;

static struct {
	pthread_mutex_t lock;
	sigset_t saved;		/* the signal mask of who holds it */
	struct pre_fd *pool, *free, *bucket[BUCKETS];
	size_t pooled, page;
	int high;
} maps = { .lock = PTHREAD_MUTEX_INITIALIZER };

bool pre_maps_init(void)
{
	struct pre_range *ranges = pre_reserve(MAPS_ROOM * sizeof(*ranges));
	struct rlimit limit;

	maps.pool = pre_reserve(MAPS_ROOM * sizeof(*maps.pool));
	if (!ranges || !maps.pool)
		return false;
	pre_table_init(&pre_maps_table, ranges, MAPS_ROOM);
	maps.page = (size_t)sysconf(_SC_PAGESIZE);
	maps.high = HIGH_FD;
	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < 2ul * HIGH_FD)
		maps.high = (int)(limit.rlim_cur / 2);
	return true;
}

void pre_maps_lock(void)
{
	sigset_t all, saved;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	pthread_mutex_lock(&maps.lock);
	maps.saved = saved;
}

static uintptr_t page_end(const void *addr, size_t len)
{
	return ((uintptr_t)addr + len + maps.page - 1) / maps.page * maps.page;
}

bool pre_fd_ours(const struct pre_fd *fd)
{
	int flags = fcntl(fd->fd, F_GETFD);
	struct stat st;

	return flags >= 0 && (flags & FD_CLOEXEC) && !fstat(fd->fd, &st) && st.st_dev == fd->dev &&
	       st.st_ino == fd->ino;
}

/* Locked. Gives back those that nobody uses any more. */
static void fds_sweep(void)
{
	struct pre_fd *fd, **at;

	while (pre_maps_table.dead) {
		fd = pre_maps_table.dead;
		pre_maps_table.dead = fd->next;
		for (at = &maps.bucket[fd->ino % BUCKETS]; *at != fd;)
			at = &(*at)->chain;
		*at = fd->chain;
		if (pre_fd_ours(fd))
			close(fd->fd);
		fd->next = maps.free;
		maps.free = fd;
	}
}

void pre_maps_unlock(void)
{
	sigset_t saved;

	fds_sweep();
	saved = maps.saved;
	pthread_mutex_unlock(&maps.lock);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

static struct pre_fd *fds_take(void)
{
	struct pre_fd *fd = maps.free;

	if (fd)
		maps.free = fd->next;
	else if (maps.pooled < MAPS_ROOM)
		fd = &maps.pool[maps.pooled++];
	return fd;
}

/* Without kcmp(2) each mapping has its duplicate, and only one of a description can be leased. */
static bool fds_same(int one, int other)
{
	pid_t self = getpid();

	return !syscall(SYS_kcmp, self, self, KCMP_FILE, one, other);
}

static uint32_t fds_page(int fd)
{
	struct statfs fs;

	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC)
		return (uint32_t)fs.f_bsize;
	return (uint32_t)maps.page;
}

static struct pre_fd *fds_new(int fd, const struct stat *st)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, maps.high), flags = fcntl(fd, F_GETFL);
	struct pre_fd *new;

	if (own < 0)
		own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	new = own < 0 ? NULL : fds_take();
	if (!new) {
		pre_say("a mapped file has no descriptor left for it: memory regions over it get no lease");
		if (own >= 0)
			close(own);
		return NULL;
	}
	*new = (struct pre_fd){ .dev = st->st_dev, .ino = st->st_ino, .fd = own };
	new->page = fds_page(own);
	new->writable = (flags & O_ACCMODE) == O_RDWR;
	new->chain = maps.bucket[new->ino % BUCKETS];
	maps.bucket[new->ino % BUCKETS] = new;
	return new;
}

/* Locked. With a reference; NULL for what is no regular file: nothing else has a layout that changes. */
static struct pre_fd *fds_get(int fd)
{
	struct pre_fd *known;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode))
		return NULL;
	for (known = maps.bucket[st.st_ino % BUCKETS]; known; known = known->chain)
		if (known->dev == st.st_dev && known->ino == st.st_ino && pre_fd_ours(known) &&
		    fds_same(known->fd, fd))
			break;
	if (!known)
		known = fds_new(fd, &st);
	if (known)
		known->refs++;
	return known;
}

void pre_fd_get(struct pre_fd *fd)
{
	pre_maps_lock();
	fd->refs++;
	pre_maps_unlock();
}

void pre_fd_put(struct pre_fd *fd)
{
	pre_maps_lock();
	pre_table_drop(&pre_maps_table, fd);
	pre_maps_unlock();
}

void pre_fd_name(const struct pre_fd *fd, char *buf, size_t size)
{
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd->fd);
	n = readlink(link, buf, size - 1);
	if (n < 0)
		n = snprintf(buf, size, "inode %llu", (unsigned long long)fd->ino);
	buf[(size_t)n < size ? (size_t)n : size - 1] = '\0';
}

/*
 * The system call has been made: nobody else knows of this range yet, or, where it replaced
 * another mapping, may use that. errno is the caller's.
 */
void pre_maps_set(void *addr, size_t len, int fd, off_t off)
{
	uintptr_t start = (uintptr_t)addr, end = page_end(addr, len);
	struct pre_fd *file;
	int saved = errno;

	pre_maps_lock();
	file = fds_get(fd);
	if (file) {
		pre_table_insert(&pre_maps_table, start, end, (uint64_t)off, file);
		pre_table_drop(&pre_maps_table, file);
	} else if (pre_maps_near(addr, len)) {
		pre_table_remove(&pre_maps_table, start, end);
	}
	pre_maps_unlock();
	errno = saved;
}

/*
 * Under the lock: once the range is free, another thread's mmap may be given it, and that
 * must not be forgotten here. It is entered after us.
 */
int pre_maps_unmap(void *addr, size_t len)
{
	int r, saved;

	pre_maps_lock();
	r = pre_next.munmap(addr, len);
	saved = errno;
	if (!r)
		pre_table_remove(&pre_maps_table, (uintptr_t)addr, page_end(addr, len));
	pre_maps_unlock();
	errno = saved;
	return r;
}

void *pre_maps_remap(void *old, size_t old_len, size_t new_len, int flags, void *new)
{
	uintptr_t from = (uintptr_t)old;
	void *to;
	int saved;

	pre_maps_lock();
	to = pre_next.mremap(old, old_len, new_len, flags, new);
	saved = errno;
	if (to != MAP_FAILED)
		pre_table_move(&pre_maps_table, from, page_end(old, old_len) - from, (uintptr_t)to,
			       page_end(to, new_len) - (uintptr_t)to, flags & MREMAP_DONTUNMAP);
	pre_maps_unlock();
	errno = saved;
	return to;
}

int pre_maps_find(const void *addr, size_t len, struct pre_part *parts, int max)
{
	uintptr_t at = (uintptr_t)addr, end = at + len;
	struct pre_part part;
	int n = 0, i;

	pre_maps_lock();
	while (n >= 0 && pre_table_next(&pre_maps_table, at, end, &part)) {
		at = part.end;
		if (n < max)
			parts[n] = part;
		n = n < max ? n + 1 : -1;
	}
	for (i = 0; i < n; i++)
		parts[i].fd->refs++;
	pre_maps_unlock();
	return n;
}

/*
 * The leased parts of the mappings are not there in the child, and what is leased must not
 * outlive the parent: its duplicates go. What was not leased the child may lease itself.
 */
void pre_maps_child(void)
{
	uintptr_t at = 0;
	struct pre_part part;

	while (pre_table_next(&pre_maps_table, at, UINTPTR_MAX, &part)) {
		at = part.end;
		if (part.fd->file)
			pre_table_remove(&pre_maps_table, part.start, part.end);
	}
}
