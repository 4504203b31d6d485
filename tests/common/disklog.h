/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What was written to a disk, in order, and what the disk may hold when its power fails.
 *
 * The log has the format of the kernel's dm-log-writes target (drivers/md/dm-log-writes.c):
 * sector 0 is struct log_write_super; from sector 1 on each entry takes a sector with
 * struct log_write_entry, a mark's text behind it, and then the sectors written, except for
 * a discard. Writes that no flush has asked for yet are logged with the next flush, so a mark
 * stands before them. Little-endian, sectors of 512 bytes.
 *
 * A disk has a cache: what was written before a completed flush is there, so is what was
 * written with FUA, and of everything else any part may be there, or none.
 */
#ifndef PL_TEST_DISKLOG_H
#define PL_TEST_DISKLOG_H

#include <stddef.h>
#include <stdint.h>

#define DL_SECTOR  512u
#define DL_FLUSH   (1u << 0)
#define DL_FUA	   (1u << 1)
#define DL_DISCARD (1u << 2)
#define DL_MARK	   (1u << 3)
#define DL_MAGIC   0x6a736677736872ull
#define DL_VERSION 1u

struct dl_super { /* struct log_write_super */
	uint64_t magic, version, entries;
	uint32_t sector_size;
};

struct dl_head { /* struct log_write_entry */
	uint64_t sector, sectors, flags, data_len;
};

struct dl_entry {
	uint64_t sector, sectors;
	uint32_t flags;
	uint32_t mark; /* DL_MARK: the number that its text is */
	const unsigned char *data;
};

struct dl_log {
	struct dl_entry *entry;
	size_t count, flushes, marks;
	void *map;
	size_t map_len;
};

/* Maps the log in fd, which may be closed then. -EINVAL: that is none. */
int dl_read(struct dl_log *log, int fd);
void dl_free(struct dl_log *log);

struct dl_disk {
	const struct dl_log *log;
	int fd; /* memfd: the entries before done, and nothing else */
	size_t done;
	uint64_t size;
	uint64_t random; /* never 0 */
};

/* Into an image, where what is zero stays a hole, so that images are quick to copy. */
int dl_write(int fd, const unsigned char *data, uint64_t len, uint64_t at);
/* The data of a sparse file; to is of that size then. */
int dl_copy(int from, int to, uint64_t size);

int dl_disk_make(struct dl_disk *disk, const struct dl_log *log, uint64_t size, uint64_t seed);
void dl_disk_drop(struct dl_disk *disk);
uint64_t dl_random(struct dl_disk *disk, uint64_t below);
/*
 * A memfd with what the disk may hold after a power cut between entry point - 1 and entry
 * point: one possibility of many. Points never go back. -errno.
 */
int dl_cut(struct dl_disk *disk, size_t point);

#endif
