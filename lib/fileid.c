/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <sys/stat.h>

#include "fileid.h"
#include "pmem.h"
#include "sys.h"

#include <pinlease.h>

/* statfs.f_type; linux/magic.h does not have them all. */
static const struct {
	uint32_t magic;
	enum pl_fs fs;
} filesystems[] = {
	{ 0x0000ef53, PL_FS_PAGECACHE },	/* ext2, ext3, ext4 */
	{ 0x58465342, PL_FS_PAGECACHE },	/* xfs */
	{ 0x9123683e, PL_FS_PAGECACHE },	/* btrfs */
	{ 0xf2f52010, PL_FS_PAGECACHE },	/* f2fs */
	{ 0x01021994, PL_FS_TMPFS },
	{ 0x958458f6, PL_FS_HUGETLBFS },
	{ 0x794c7630, PL_FS_OVERLAY },
};

static enum pl_fs fs_of(uint32_t magic)
{
	size_t i;

	for (i = 0; i < sizeof(filesystems) / sizeof(filesystems[0]); i++)
		if (filesystems[i].magic == magic)
			return filesystems[i].fs;
	return PL_FS_FOREIGN;
}

/* Any character device is asked: the kernel has it below /sys what is a device-dax. */
static int device_get(int fd, const struct pl_sys_stat *st, struct pl_fileid *id)
{
	uint64_t size, alignment;
	int r = pl_pmem_device(fd, &size, &alignment);

	if (r)
		return r;
	*id = (struct pl_fileid){
		.dev = st->dev, .ino = st->ino, .page = alignment, .size = size, .fs = PL_FS_DEVDAX
	};
	return 0;
}

int pl_fileid_get(int fd, struct pl_fileid *id, uint64_t *size, uint32_t *reason)
{
	struct pl_sys_stat st;
	int r = pl_sys_stat(fd, &st);

	if (r) {
		*reason = PINLEASE_WHY_BAD_FD;
		return r;
	}
	if (S_ISCHR(st.mode) && !device_get(fd, &st, id)) {
		if (size)
			*size = id->size;
		return 0;
	}
	if (!S_ISREG(st.mode)) {
		*reason = PINLEASE_WHY_NOT_REGULAR;
		return S_ISDIR(st.mode) ? -EISDIR : -EINVAL;
	}
	id->size = 0;
	id->dev = st.dev;
	id->ino = st.ino;
	id->fs = pl_sys_fs_is(fd, &st) ? fs_of(st.fs_magic) : PL_FS_FOREIGN;
	id->page = id->fs == PL_FS_HUGETLBFS ? st.block : pl_sys_page_size();
	id->dax = st.dax;
	if (size)
		*size = st.size;
	return 0;
}

int pl_fileid_size_full(int fd, const struct pl_fileid *id, uint64_t *size, bool *full)
{
	struct pl_sys_stat st;
	int r = pl_sys_stat_id(fd, &st);

	if (r)
		return r;
	if (st.dev != id->dev || st.ino != id->ino)
		return -EBADF;
	*size = id->fs == PL_FS_DEVDAX ? id->size : st.size;
	*full = st.allocated >= *size;
	return 0;
}

int pl_fileid_size(int fd, const struct pl_fileid *id, uint64_t *size)
{
	bool full;

	return pl_fileid_size_full(fd, id, size, &full);
}

int pl_fileid_same(int fd, const struct pl_fileid *id)
{
	struct pl_sys_stat st;
	int r = pl_sys_stat_id(fd, &st);

	if (r)
		return r;
	return st.dev != id->dev || st.ino != id->ino ? -EBADF : 0;
}
