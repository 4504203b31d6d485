/* SPDX-License-Identifier: BSD-3-Clause */
/* Mappings, and what the library asks /proc. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim_private.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

struct sim_map *sim_map_at(uintptr_t addr)
{
	struct pl_list *pos;
	struct sim_map *m;

	pl_list_for_each (pos, &sim.maps) {
		m = pl_container(pos, struct sim_map, link);
		if (addr >= m->start && addr < m->end)
			return m;
	}
	return NULL;
}

static void map_add(uintptr_t start, uintptr_t end, uint64_t off, int prot, struct sim_ofd *ofd)
{
	struct sim_map *m = calloc(1, sizeof(*m));
	struct pl_list *pos;

	if (!m)
		sim_die("out of memory");
	m->start = start;
	m->end = end;
	m->off = off;
	m->prot = prot;
	m->ofd = ofd;
	if (ofd)
		ofd->refs++;
	for (pos = sim.maps.next; pos != &sim.maps; pos = pos->next)
		if (pl_container(pos, struct sim_map, link)->start > start)
			break;
	pl_list_add_tail(pos, &m->link);
	sim.counts.maps++;
	sim.counts.mapped += (long)(end - start);
}

/* Takes start..end out of what is mapped; what sticks out on either side stays. */
static void map_cut(uintptr_t start, uintptr_t end)
{
	struct pl_list *pos, *tmp;
	struct sim_map *m;

	pl_list_for_each_safe (pos, tmp, &sim.maps) {
		m = pl_container(pos, struct sim_map, link);
		if (m->end <= start || m->start >= end)
			continue;
		pl_list_del(&m->link);
		sim.counts.maps--;
		sim.counts.mapped -= (long)(m->end - m->start);
		if (m->start < start)
			map_add(m->start, start, m->off, m->prot, m->ofd);
		if (m->end > end)
			map_add(end, m->end, m->off + (end - m->start), m->prot, m->ofd);
		if (m->ofd)
			sim_ofd_put(m->ofd);
		free(m);
	}
}

int pl_sys_map(void *addr, size_t len, int prot, int fd, uint64_t off, void **out)
{
	int flags = (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | (addr ? MAP_FIXED : 0);
	int r = sim_enter("map", SIM_MEMORY | SIM_STEP);
	uintptr_t start = (uintptr_t)addr, end;
	void *p;

	if (r)
		return r;
	sim_lock();
	if (addr)
		sim_judge_unmap(start, start + len);
	p = mmap(addr, len, prot, flags, fd, (off_t)off);
	if (p == MAP_FAILED) {
		r = -errno;
	} else {
		start = (uintptr_t)p;
		end = start + len;
		map_cut(start, end);
		map_add(start, end, off, prot, fd < 0 ? NULL : sim_ofd_of(fd));
		*out = p;
	}
	sim_unlock();
	return r;
}

int pl_sys_unmap(void *addr, size_t len)
{
	int r = sim_enter("unmap", SIM_STEP);
	uintptr_t start = (uintptr_t)addr;

	if (r)
		return r;
	sim_lock();
	if (!sim_map_at(start))
		sim_violate("seam", "unmaps %p, which is not mapped", addr);
	sim_judge_unmap(start, start + len);
	map_cut(start, start + len);
	r = munmap(addr, len) ? -errno : 0;
	sim_unlock();
	return r;
}

int pl_sys_advise(void *addr, size_t len, int advice)
{
	unsigned int blocks =
		advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE ? SIM_BLOCKING : 0;
	int r = sim_enter("advise", SIM_MEMORY | SIM_STEP | blocks);
	struct sim_map *m;

	if (r)
		return r;
	sim_lock();
	m = sim_map_at((uintptr_t)addr);
	if (advice == MADV_POPULATE_WRITE && m && m->ofd) {
		sim_judge_write(m->ofd, "MADV_POPULATE_WRITE");
		sim_wrote(m->ofd->inode, m->off + ((uintptr_t)addr - m->start), len);
	}
	sim_unlock();
	return madvise(addr, len, advice) ? -errno : 0;
}

int pl_sys_msync(void *addr, size_t len)
{
	int r = sim_enter("msync", SIM_STEP);

	struct sim_map *m;

	if (r)
		return r;
	sim_lock();
	m = sim_map_at((uintptr_t)addr);
	if (m && m->ofd)
		sim_pmem_synced(m->ofd->inode);
	sim_unlock();
	return msync(addr, len, MS_SYNC) ? -errno : 0;
}

/* One at a time, found by its address, since fn is called unlocked. */
int pl_sys_each_mapping(int (*fn)(void *arg, const struct pl_sys_mapping *m), void *arg)
{
	struct pl_sys_mapping out = { .end = 0 };
	struct pl_list *pos;
	struct sim_map *m;
	bool found = true;
	int r = sim_enter("each_mapping", SIM_FAST);

	while (!r && found) {
		found = false;
		sim_lock();
		pl_list_for_each (pos, &sim.maps) {
			m = pl_container(pos, struct sim_map, link);
			if (m->start < out.end || found)
				continue;
			found = true;
			out = (struct pl_sys_mapping){ .start = m->start,
						       .end = m->end,
						       .off = m->off,
						       .prot = m->prot,
						       .shared = m->ofd != NULL };
			if (m->ofd) {
				out.dev = m->ofd->inode->dev;
				out.ino = m->ofd->inode->ino;
			}
		}
		sim_unlock();
		if (found)
			r = fn(arg, &out);
	}
	return r;
}

/* /proc */

ssize_t pl_sys_read_text(const char *path, char *buf, size_t cap)
{
	int r = sim_enter("read_text", SIM_FAST), pid, fd, n = -ENOENT;

	if (r)
		return r;
	sim_lock();
	if (!strcmp(path, "/proc/sys/fs/lease-break-time"))
		n = snprintf(buf, cap, "%u\n", sim.break_time_s);
	else if (sscanf(path, "/proc/%d/fdinfo/%d", &pid, &fd) == 2 && sim_opener_fd_flags(pid) >= 0)
		n = snprintf(buf, cap, "pos:\t0\nflags:\t0%o\n", (unsigned int)sim_opener_fd_flags(pid));
	sim_unlock();
	return n;
}

static int own_fds(int (*fn)(void *arg, int number), void *arg)
{
	int fd, r = 0;
	bool open;

	for (fd = 0; fd < SIM_FDS && !r; fd++) {
		sim_lock();
		open = sim.fd_kind[fd] == SIM_FD_FILE;
		sim_unlock();
		if (open)
			r = fn(arg, fd);
	}
	return r;
}

int pl_sys_each_number(const char *path, int (*fn)(void *arg, int number), void *arg)
{
	int r = sim_enter("each_number", SIM_FAST), pid;

	if (r)
		return r;
	if (!strcmp(path, "/proc/self/fd"))
		return own_fds(fn, arg);
	if (!strcmp(path, "/proc"))
		return sim_opener_each(fn, arg);
	if (sscanf(path, "/proc/%d/fd", &pid) == 1)
		return fn(arg, 3);
	return -ENOENT;
}

int pl_sys_stat_path(const char *path, struct pl_sys_stat *st)
{
	int r = sim_enter("stat_path", SIM_FAST), pid, fd;
	struct sim_ofd *ofd = NULL;

	if (r)
		return r;
	sim_lock();
	if (sscanf(path, "/proc/%d/fd/%d", &pid, &fd) == 2)
		ofd = sim_opener_ofd(pid);
	if (ofd)
		*st = (struct pl_sys_stat){ .dev = ofd->inode->dev, .ino = ofd->inode->ino, .mode = S_IFREG };
	sim_unlock();
	return ofd ? 0 : -ENOENT;
}

int pl_sys_same_description(int fd, pid_t pid, int other)
{
	int r = sim_enter("same_description", SIM_FAST);

	if (r)
		return r;
	if (pid != getpid())
		return 0;
	sim_lock();
	r = sim_ofd_of(fd) && sim_ofd_of(fd) == sim_ofd_of(other);
	sim_unlock();
	return r;
}

pid_t pl_sys_pid(void)
{
	return getpid();
}

/* Asked only where stat_id says that all is allocated, which it never says here. */
int pl_sys_cached(int fd, uint64_t off, uint64_t len, uint64_t *pages)
{
	(void)fd;
	(void)off;
	(void)len;
	(void)pages;
	return -ENOSYS;
}
