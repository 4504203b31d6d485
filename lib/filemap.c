/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "filemap.h"
#include "pmem.h"
#include "util.h"

#include <pinlease.h>

#define FILL_CHUNK (64ull << 20)

/* Children: see forkguard.h. A mapping they inherit would keep our lease alive. */
static int map_shared(int fd, uint64_t off, size_t len, int prot, void **addr)
{
	int r = pl_sys_map(NULL, len, prot, fd, off, addr);

	if (r)
		return r;
	r = pl_sys_advise(*addr, len, MADV_DONTFORK);
	if (r)
		pl_sys_unmap(*addr, len);
	return r;
}

int pl_filemap_new(int fd, uint64_t off, uint64_t len, uint32_t access, const struct pl_fileid *id,
		   struct pl_map *map)
{
	int prot = PROT_READ | (access == PINLEASE_WRITE ? PROT_WRITE : 0), r;
	size_t size = pl_round_up(len, id->page);
	struct pl_pmem *pmem;
	void *addr;

	if (pl_fileid_pmem(id)) {
		r = pl_pmem_map(fd, off, size, access == PINLEASE_WRITE, &pmem);
		if (!r)
			*map = (struct pl_map){
				.addr = pmem->addr, .len = size, .pmem = pmem, .ours = true, .prot = prot
			};
		return r;
	}
	r = map_shared(fd, off, size, prot, &addr);
	if (!r)
		*map = (struct pl_map){ .addr = addr, .len = size, .ours = true, .prot = prot };
	return r;
}

void pl_filemap_free(struct pl_map *map)
{
	if (map->pmem)
		pl_pmem_unmap(map->pmem);
	else if (map->ours)
		pl_sys_unmap(map->addr, map->len);
	*map = (struct pl_map){ .addr = NULL };
}

/*
 * /proc/self/maps says the device number of the superblock. btrfs gives stat(2) one of
 * the subvolume instead, and overlayfs maps the file of the layer below: there the
 * inode number has to do.
 */
bool pl_filemap_is(const struct pl_sys_mapping *m, const struct pl_fileid *id)
{
	if (m->ino != id->ino || !m->ino)
		return false;
	if (m->dev == id->dev || id->fs == PL_FS_OVERLAY)
		return true;
	return id->fs == PL_FS_PAGECACHE && !major(m->dev) && !major(id->dev);
}

struct check {
	const struct pl_fileid *id;
	uint64_t at, end;	/* what is not checked yet */
	uint64_t off;		/* the file's, of at */
	int need, prot;
};

/* Mappings come by address: each one must go on where the one before ended. */
static int check_each(void *arg, const struct pl_sys_mapping *m)
{
	struct check *c = arg;
	uint64_t next;

	if (m->end <= c->at)
		return 0;
	if (m->start > c->at || !m->shared || (m->prot & c->need) != c->need || !pl_filemap_is(m, c->id) ||
	    m->off + (c->at - m->start) != c->off)
		return -EINVAL;
	next = pl_min_u64(m->end, c->end);
	c->off += next - c->at;
	c->at = next;
	c->prot &= m->prot;
	return c->at == c->end;
}

int pl_filemap_check(const void *addr, uint64_t off, uint64_t len, uint32_t access,
		     const struct pl_fileid *id, int *prot)
{
	struct check c = {
		.id = id,
		.at = (uintptr_t)addr,
		.end = (uintptr_t)addr + len,
		.off = off,
		.need = PROT_READ | (access == PINLEASE_WRITE ? PROT_WRITE : 0),
		.prot = PROT_READ | PROT_WRITE | PROT_EXEC,
	};
	int r;

	if (c.at % id->page || c.end <= c.at)
		return -EINVAL;
	r = pl_sys_each_mapping(check_each, &c);
	if (r < 0)
		return r;
	if (!r)
		return -EINVAL;
	*prot = c.prot;
	return 0;
}

/* One call of pl_filemap_prepare. */
struct fill {
	int fd;
	const struct pl_fileid *id;
	uint32_t how;
	bool (*stop)(void *arg);
	void *arg;
	struct pl_fill_error *at;
};

static int fill_fail(const struct fill *f, uint32_t reason, int sys_errno, int err)
{
	f->at->stage = PINLEASE_AT_ALLOCATE;
	f->at->reason = reason;
	f->at->sys_errno = -sys_errno;
	return err;
}

static int fill_errno(const struct fill *f, int err)
{
	switch (err) {
	case -ENOSPC:
	case -EDQUOT:
		return fill_fail(f, PINLEASE_WHY_NO_SPACE, err, err);
	case -ENOMEM:
		return fill_fail(f, PINLEASE_WHY_MEMORY, err, err);
	default:
		return fill_fail(f, PINLEASE_WHY_IO, err, err);
	}
}

static bool fill_stopped(const struct fill *f)
{
	return f->stop && f->stop(f->arg);
}

/*
 * File systems without preallocation (f2fs on some devices, FUSE) allocate when the page
 * is faulted in. That also ends the sharing of an extent with another file, and plain
 * fallocate does not: what is not faulted in needs UNSHARE_RANGE, or a writeback that has
 * to copy finds the disk full. xfs knows it; btrfs writes to new blocks in any case, and
 * elsewhere nothing is shared.
 */
static int fill_allocate(const struct fill *f, uint64_t off, uint64_t len, bool unshare)
{
	int r;

	do {
		if (fill_stopped(f))
			return fill_fail(f, PINLEASE_WHY_BROKEN, 0, -EAGAIN);
		r = -EOPNOTSUPP;
		if (unshare)
			r = pl_sys_allocate(f->fd, FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE, off, len);
		if (r == -EOPNOTSUPP)
			r = pl_sys_allocate(f->fd, FALLOC_FL_KEEP_SIZE, off, len);
	} while (r == -EINTR);
	return r && r != -EOPNOTSUPP ? fill_errno(f, r) : 0;
}

/*
 * What would be SIGBUS for who touches the page is EFAULT here, or EHWPOISON. The page
 * fault has lost the reason; a full file system that must copy shared extents, or
 * reserve for its own metadata, is the likely one when nothing is left.
 */
static int fill_populate(const struct fill *f, void *addr, uint64_t len, int advice)
{
	struct pl_sys_stat st;
	int r;

	do {
		if (fill_stopped(f))
			return fill_fail(f, PINLEASE_WHY_BROKEN, 0, -EAGAIN);
		r = pl_sys_advise(addr, len, advice);
	} while (r == -EINTR);
	if (r != -EFAULT && r != -EHWPOISON)
		return r ? fill_errno(f, r) : 0;
	if (r == -EFAULT && advice == MADV_POPULATE_WRITE && !pl_sys_stat(f->fd, &st) && st.avail < len)
		return fill_fail(f, PINLEASE_WHY_NO_SPACE, r, -ENOSPC);
	return fill_fail(f, PINLEASE_WHY_IO, r, -EIO);
}

/* The pages of a hole are made through a mapping of their own: the lease's may be read-only. */
static int fill_hole(const struct fill *f, uint64_t off, uint64_t len)
{
	size_t size = pl_round_up(len, f->id->page);
	void *addr;
	int r = fill_allocate(f, off, len, false);

	if (r)
		return r;
	r = map_shared(f->fd, off, size, PROT_READ | PROT_WRITE, &addr);
	if (r)
		return fill_errno(f, r);
	r = fill_populate(f, addr, size, MADV_POPULATE_WRITE);
	pl_sys_unmap(addr, size);
	return r;
}

/* tmpfs and hugetlbfs have no O_DIRECT writes that go around the page: a hole there is a page of zeros. */
static int fill_check_hole(const struct fill *f, uint64_t off, uint64_t len)
{
	int r;

	if (f->id->fs == PL_FS_TMPFS || f->id->fs == PL_FS_HUGETLBFS)
		return 0;
	r = pl_sys_has_hole(f->fd, off, len);
	/* Nobody can tell: file systems no guard of the kernel's is for. */
	if (!r || r == -EOPNOTSUPP)
		return 0;
	if (r < 0)
		return fill_errno(f, r);
	return f->how & PL_FILL_HOLES ? fill_hole(f, off, len) : fill_fail(f, PINLEASE_WHY_HOLE, 0, -ENODATA);
}

/*
 * As many blocks as bytes: there is no hole to allocate, and fallocate of what is there takes
 * twice as long on tmpfs as the populating that follows. Blocks behind the end are counted,
 * too; what then is a hole all the same is allocated by the populating, which tells the same
 * errors. Memory that is not mapped has nothing else that allocates, so its pages are counted:
 * those in memory, a twentieth of what fallocate takes. Other file systems have more to do:
 * shared extents, inline data.
 */
static bool fill_has_all(const struct fill *f, uint64_t off, uint64_t len, const void *addr)
{
	uint64_t page = f->id->page, pages;

	if (f->id->fs != PL_FS_TMPFS || !(f->how & PL_FILL_FULL))
		return false;
	return addr || (!pl_sys_cached(f->fd, off, len, &pages) &&
			pages == pl_round_up(off + len, page) / page - off / page);
}

static int fill_chunk(const struct fill *f, uint64_t off, uint64_t len, void *addr, uint32_t access)
{
	int advice = access == PINLEASE_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ, r = 0;

	/* tmpfs shares nothing. */
	if (access == PINLEASE_WRITE && !fill_has_all(f, off, len, addr))
		r = fill_allocate(f, off, len, !addr && f->id->fs != PL_FS_TMPFS);
	else if (access != PINLEASE_WRITE)
		r = fill_check_hole(f, off, len);
	return r || !addr ? r : fill_populate(f, addr, len, advice);
}

int pl_filemap_prepare(int fd, uint64_t off, uint64_t len, void *addr, uint32_t access,
		       const struct pl_fileid *id, uint32_t how, bool (*stop)(void *arg), void *arg,
		       struct pl_fill_error *at)
{
	struct fill f = { .fd = fd, .id = id, .how = how, .stop = stop, .arg = arg, .at = at };
	uint64_t done, n;
	int r = 0;

	/* All of a device is there always, and no call that allocates or faults in knows of it. */
	if (id->fs == PL_FS_DEVDAX)
		return 0;
	for (done = 0; !r && done < len; done += n) {
		n = pl_min_u64(pl_max_u64(FILL_CHUNK, id->page), len - done);
		r = fill_chunk(&f, off + done, n, addr ? (char *)addr + done : NULL, access);
	}
	return r;
}
