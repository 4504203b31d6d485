/* SPDX-License-Identifier: BSD-3-Clause */
#include "disklog.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#define PAGE 4096u

/* How much of what is in the cache makes it to the disk. */
enum luck { LUCK_NONE, LUCK_ALL, LUCK_SOME, LUCKS };

static int log_map(struct dl_log *log, int fd)
{
	struct stat st;
	uint64_t size;

	if (fstat(fd, &st))
		return -errno;
	size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size))
		return -errno;
	if (size < DL_SECTOR)
		return -EINVAL;
	log->map_len = (size_t)size;
	log->map = mmap(NULL, log->map_len, PROT_READ, MAP_SHARED, fd, 0);
	return log->map == MAP_FAILED ? -errno : 0;
}

/* The sector behind entry e, whose head is at sector at; 0: it does not fit into the log. */
static uint64_t log_entry(struct dl_log *log, struct dl_entry *e, uint64_t at)
{
	const uint64_t end = log->map_len / DL_SECTOR;
	const unsigned char *raw = log->map;
	char text[24] = "";
	struct dl_head head;

	if (at >= end)
		return 0;
	memcpy(&head, raw + at * DL_SECTOR, sizeof(head));
	*e = (struct dl_entry){ .sector = le64toh(head.sector), .sectors = le64toh(head.sectors) };
	e->flags = (uint32_t)le64toh(head.flags);
	e->data = raw + (at + 1) * DL_SECTOR;
	log->flushes += !!(e->flags & DL_FLUSH);
	if (e->flags & DL_MARK) {
		size_t len = (size_t)le64toh(head.data_len);

		memcpy(text, raw + at * DL_SECTOR + sizeof(head),
		       len < sizeof(text) ? len : sizeof(text) - 1);
		e->mark = (uint32_t)strtoul(text, NULL, 10);
		log->marks++;
	}
	if (e->flags & DL_DISCARD || e->flags & DL_MARK)
		return at + 1;
	return e->sectors < end - at ? at + 1 + e->sectors : 0;
}

int dl_read(struct dl_log *log, int fd)
{
	struct dl_super super;
	uint64_t at = 1;
	size_t i;
	int r;

	*log = (struct dl_log){ .entry = NULL };
	r = log_map(log, fd);
	if (r)
		return r;
	memcpy(&super, log->map, sizeof(super));
	log->count = (size_t)le64toh(super.entries);
	if (le64toh(super.magic) != DL_MAGIC || le64toh(super.version) != DL_VERSION ||
	    le32toh(super.sector_size) != DL_SECTOR || log->count > log->map_len / DL_SECTOR)
		r = -EINVAL;
	else
		log->entry = calloc(log->count + 1, sizeof(*log->entry));
	if (!r && !log->entry)
		r = -ENOMEM;
	for (i = 0; !r && i < log->count; i++) {
		at = log_entry(log, &log->entry[i], at);
		r = at ? 0 : -EINVAL;
	}
	if (r)
		dl_free(log);
	return r;
}

void dl_free(struct dl_log *log)
{
	free(log->entry);
	if (log->map && log->map != MAP_FAILED)
		munmap(log->map, log->map_len);
	*log = (struct dl_log){ .entry = NULL };
}

int dl_disk_make(struct dl_disk *disk, const struct dl_log *log, uint64_t size, uint64_t seed)
{
	*disk = (struct dl_disk){ .log = log, .size = size, .random = seed ? seed : 1 };
	disk->fd = memfd_create("disk", MFD_CLOEXEC);
	return disk->fd < 0 || ftruncate(disk->fd, (off_t)size) ? -errno : 0;
}

void dl_disk_drop(struct dl_disk *disk)
{
	if (disk->fd >= 0)
		close(disk->fd);
	disk->fd = -1;
}

/* xorshift64: repeatable from the seed. */
uint64_t dl_random(struct dl_disk *disk, uint64_t below)
{
	disk->random ^= disk->random << 13;
	disk->random ^= disk->random >> 7;
	disk->random ^= disk->random << 17;
	return disk->random % below;
}

int dl_write(int fd, const unsigned char *data, uint64_t len, uint64_t at)
{
	static const unsigned char zeros[PAGE];
	off_t there;
	uint64_t n;

	for (; len; data += n, at += n, len -= n) {
		n = len < PAGE ? len : PAGE;
		if (!memcmp(data, zeros, n)) {
			there = lseek(fd, (off_t)at, SEEK_DATA);
			if (there < 0 || (uint64_t)there >= at + n)
				continue;
		}
		if (pwrite(fd, data, n, (off_t)at) != (ssize_t)n)
			return -EIO;
	}
	return 0;
}

/* A disk writes its sectors whole, and several of one request in any order. */
static int image_write_some(struct dl_disk *disk, int fd, const struct dl_entry *e)
{
	uint64_t len = e->sectors * DL_SECTOR, done, n;
	int r = 0;

	for (done = 0; !r && done < len; done += n) {
		n = len - done < PAGE ? len - done : PAGE;
		if (dl_random(disk, 2))
			r = dl_write(fd, e->data + done, n, e->sector * DL_SECTOR + done);
	}
	return r;
}

static int image_apply(const struct dl_disk *disk, int fd, const struct dl_entry *e)
{
	uint64_t at = e->sector * DL_SECTOR, len = e->sectors * DL_SECTOR;

	if (e->flags & DL_MARK || !len)
		return 0;
	if (at > disk->size || len > disk->size - at)
		return -ERANGE;
	if (e->flags & DL_DISCARD)
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len)
			       ? -errno
			       : 0;
	return dl_write(fd, e->data, len, at);
}

int dl_copy(int from, int to, uint64_t size)
{
	off_t at = 0, end = 0;
	ssize_t n = 1;

	if (ftruncate(to, (off_t)size))
		return -errno;
	while (n > 0 && (at = lseek(from, end, SEEK_DATA)) >= 0) {
		end = lseek(from, at, SEEK_HOLE);
		if (lseek(to, at, SEEK_SET) < 0)
			return -errno;
		while (n > 0 && at < end)
			n = sendfile(to, from, &at, (size_t)(end - at));
	}
	return n > 0 ? 0 : n < 0 ? -errno : -EIO;
}

int dl_cut(struct dl_disk *disk, size_t point)
{
	const struct dl_log *log = disk->log;
	enum luck luck = (enum luck)dl_random(disk, LUCKS);
	size_t durable = point, i;
	int r = 0, fd;

	/* A flush covers what was logged before it, not what it may carry itself. */
	while (durable > disk->done && !(log->entry[durable - 1].flags & DL_FLUSH))
		durable--;
	for (; !r && disk->done + 1 < durable; disk->done++)
		r = image_apply(disk, disk->fd, &log->entry[disk->done]);
	fd = r ? r : memfd_create("cut", MFD_CLOEXEC);
	if (!r)
		r = fd < 0 ? -errno : dl_copy(disk->fd, fd, disk->size);
	for (i = disk->done; !r && i < point; i++) {
		const struct dl_entry *e = &log->entry[i];

		if (e->flags & DL_FUA || luck == LUCK_ALL)
			r = image_apply(disk, fd, e);
		else if (luck == LUCK_SOME && !(e->flags & (DL_MARK | DL_DISCARD)))
			r = image_write_some(disk, fd, e);
	}
	if (r && fd >= 0)
		close(fd);
	return r ? r : fd;
}
