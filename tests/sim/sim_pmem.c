/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Persistent memory behind pmem.h. A test's files are real and lie in a page cache; what a
 * power cut would leave of one is kept beside it, by the cache line: it takes over what is
 * persisted or copied, and all of the file at an msync or fdatasync. So a byte that was
 * written and never persisted differs, and sim_durable says so.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pmem.h"
#include "sim_private.h"

#define LINE 64u

struct pmem_map {
	struct pl_pmem pmem;
	struct sim_inode *inode;
	uint64_t off; /* in the file */
};

void sim_dax(enum sim_dax dax)
{
	sim_lock();
	sim.dax = dax;
	sim_unlock();
}

/* Locked. What is durable now of from..end of the file; made anew, all of it is. */
static void image_update(struct sim_inode *inode, uint64_t from, uint64_t end)
{
	size_t size = sim_file_size(inode->path);
	FILE *f;

	if (!inode->durable || inode->durable_size != size) {
		inode->durable = realloc(inode->durable, size + 1);
		from = inode->durable_size < from ? inode->durable_size : from;
		end = inode->durable_size < size ? size : end;
		inode->durable_size = size;
	}
	end = pl_min_u64(end, size);
	f = fopen(inode->path, "r");
	if (!f || (from < end && (fseek(f, (long)from, SEEK_SET) ||
				  fread(inode->durable + from, 1, end - from, f) != end - from)))
		sim_die("%s: %s", inode->path, strerror(errno));
	fclose(f);
}

void sim_pmem_synced(struct sim_inode *inode)
{
	if (inode->durable)
		image_update(inode, 0, UINT64_MAX);
}

bool sim_durable(const char *path, uint64_t off, size_t len)
{
	struct sim_inode *inode;
	char *data = malloc(len + 1);
	FILE *f = fopen(path, "r");
	bool same;

	sim_lock();
	inode = sim_inode_of(path);
	if (!inode->durable)
		sim_die("%s is not on persistent memory", path);
	same = f && off + len <= inode->durable_size && !fseek(f, (long)off, SEEK_SET) &&
	       fread(data, 1, len, f) == len && !memcmp(data, inode->durable + off, len);
	sim_unlock();
	if (f)
		fclose(f);
	free(data);
	return same;
}

int sim_enter_file(const char *call, unsigned int classes, int refused)
{
	int r = sim_enter(call, classes);

	return !r && sim.dax == SIM_DAX_DEVICE ? refused : r;
}

static void datasync_watched(int fd, bool done, int r)
{
	sim_lock();
	if (sim_ofd_of(fd) && sim.watcher && sim.watcher->synced)
		sim.watcher->synced(sim_ofd_of(fd)->inode, done, r);
	sim_unlock();
}

int pl_sys_datasync(int fd)
{
	int r;

	/* What is written while it runs it need not have seen. */
	datasync_watched(fd, false, 0);
	r = sim_enter_file("datasync", SIM_BLOCKING | SIM_STEP, -EINVAL);
	sim_disk_wait(true);
	datasync_watched(fd, true, r);
	if (r)
		return r;
	sim_lock();
	if (sim_ofd_of(fd))
		sim_pmem_synced(sim_ofd_of(fd)->inode);
	sim_unlock();
	return fdatasync(fd) ? -errno : 0;
}

int pl_sys_map_sync(void *addr, size_t len, int prot, int fd, uint64_t off)
{
	int r = sim_enter("map_sync", SIM_MEMORY | SIM_STEP);
	void *at;

	if (!r && sim.dax != SIM_DAX_FILES && sim.dax != SIM_DAX_DEVICE)
		r = -EOPNOTSUPP;
	return r ? r : pl_sys_map(addr, len, prot, fd, off, &at);
}

/* pmem.h */

int pl_pmem_device(int fd, uint64_t *size, uint64_t *alignment)
{
	int r = sim_enter("pmem_device", SIM_FAST);
	struct stat st;

	if (r)
		return r;
	if (fstat(fd, &st))
		return -errno;
	if (sim.dax != SIM_DAX_DEVICE)
		return -EINVAL;
	*size = (uint64_t)st.st_size;
	*alignment = SIM_DAX_ALIGN;
	return 0;
}

int pl_pmem_map(int fd, uint64_t off, uint64_t len, bool writable, struct pl_pmem **out)
{
	int r = sim_enter("pmem_map", SIM_MEMORY | SIM_STEP);
	struct pmem_map *map;

	if (r)
		return r;
	map = pl_sys_alloc(sizeof(*map));
	if (!map)
		return -ENOMEM;
	r = pl_sys_map(NULL, len, PROT_READ | (writable ? PROT_WRITE : 0), fd, off, &map->pmem.addr);
	if (r) {
		pl_sys_free(map);
		return r;
	}
	sim_lock();
	if (sim.dax == SIM_DAX_DEVICE && (off % SIM_DAX_ALIGN || len % SIM_DAX_ALIGN))
		sim_violate("seam", "maps %#lx + %#lx of a device", (long)off, (long)len);
	map->pmem.len = len;
	map->pmem.by_page = sim.dax == SIM_DAX_PAGES;
	map->inode = sim_ofd_of(fd)->inode;
	map->off = off;
	if (!map->inode->durable)
		image_update(map->inode, 0, UINT64_MAX);
	sim_unlock();
	*out = &map->pmem;
	return 0;
}

void pl_pmem_unmap(struct pl_pmem *pmem)
{
	pl_sys_unmap(pmem->addr, pmem->len);
	pl_sys_free(pmem);
}

static void persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	const struct pmem_map *map = pl_container(pmem, struct pmem_map, pmem);
	uint64_t from = (map->off + off) / LINE * LINE;

	sim_lock();
	if (pmem->by_page)
		sim_violate("seam", "persists what is durable by pages only");
	if (off + len > pmem->len)
		sim_violate("seam", "persists beyond the mapping");
	image_update(map->inode, from, pl_round_up(map->off + off + len, LINE));
	sim_unlock();
}

void pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	sim_enter("pmem_persist", SIM_STEP);
	persist(pmem, off, len);
}

void pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len)
{
	struct sim_map *m;

	sim_lock();
	m = sim_map_at((uintptr_t)pmem->addr);
	if (m && m->ofd)
		sim_judge_write(m->ofd, "pmem_copy");
	sim_unlock();
	sim_enter("pmem_copy", SIM_STEP);
	memcpy((char *)pmem->addr + off, from, len);
	persist(pmem, off, len);
}

int pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	int r = sim_enter("pmem_deep_flush", SIM_STEP);

	(void)pmem;
	(void)off;
	(void)len;
	return r;
}
