/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "durable.h"
#include "pmem.h"
#include "util.h"

#include <pinlease.h>

bool pl_durable_is_flushed(const struct pl_map *map)
{
	return map->pmem && !map->pmem->by_page;
}

int pl_durable_open(struct pl_map *map, int fd, const struct pl_fileid *id, uint64_t off, uint64_t len,
		    uint32_t access)
{
	bool device = id->fs == PL_FS_DEVDAX;
	int r;

	/* What nobody writes is filled by read(2), which a device does not do. */
	if (!device && !(id->dax && access == PINLEASE_WRITE))
		return 0;
	r = pl_pmem_map(fd, off, pl_round_up(len, id->page), access == PINLEASE_WRITE, &map->pmem);
	if (r || device || !map->pmem->by_page)
		return r;
	/* The page cache's way, then, which needs no mapping. */
	pl_pmem_unmap(map->pmem);
	map->pmem = NULL;
	return 0;
}

int pl_durable_write(const struct pl_map *map, int fd, const struct pl_fileid *id, const struct pl_staged *s,
		     uint64_t off, uint64_t len)
{
	uint64_t size;
	int r;

	if (!pl_durable_is_flushed(map))
		return pl_staged_write(s, fd, off, len);
	r = pl_fileid_size(fd, id, &size);
	if (r)
		return r;
	if (s->file_off + off + len > size)
		return -ENODATA;
	pl_pmem_copy(map->pmem, off, (const char *)s->addr + off, len);
	return 0;
}

int pl_durable_fill(const struct pl_map *map, int fd, const struct pl_fileid *id, struct pl_staged *s,
		    bool (*stop)(void *arg), void *arg, struct pl_fill_error *at)
{
	if (id->fs == PL_FS_DEVDAX)
		return pl_staged_fill_from(s, map->pmem->addr, stop, arg, at);
	return pl_staged_fill(s, fd, stop, arg, at);
}

/* Pages of memory: off need not be one's start. */
static int flush_pages(const struct pl_map *map, uint64_t off, uint64_t end)
{
	uint64_t first = off / pl_sys_page_size() * pl_sys_page_size();
	int r;

	do {
		r = pl_sys_msync((char *)map->addr + first, end - first);
	} while (r == -EINTR);
	return r;
}

int pl_durable_flush(const struct pl_map *map, const struct pl_fileid *id, uint64_t off, uint64_t end,
		     bool copied)
{
	if (!pl_durable_is_flushed(map))
		return copied ? 0 : flush_pages(map, off, end);
	if (!copied)
		pl_pmem_persist(map->pmem, off, end - off);
	return id->fs == PL_FS_DEVDAX ? pl_pmem_deep_flush(map->pmem, off, end - off) : 0;
}
