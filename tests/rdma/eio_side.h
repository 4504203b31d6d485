/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A lease, what a device has written to it, and a disk that can be made to fail: what
 * the tests of errors of writeback share (eio.c, sync_quota.c). One disk a process.
 */
#ifndef PL_RDMA_EIO_SIDE_H
#define PL_RDMA_EIO_SIDE_H

#include "eio.h"
#include "rt.h"

#define SIDE_SLOTS   16u
#define SIDE_LEN     (SIDE_SLOTS * (uint64_t)RT_SLOT)
#define SIDE_WAIT_MS 20000u

struct side {
	const char *name;
	struct pinlease_file *file;
	struct pinlease *lease;
	uint64_t off;	/* in the file */
	bool told, odp; /* staged, unless odp */
	struct rt_peer *books;
	const char *path; /* below the mount */
};

struct eio {
	const char *type;
	const struct eio_device *device;
	struct bad_disk disk;
	struct kt_fs fs;
	struct pinlease_ctx *ctx;
};

extern struct eio eio;

const struct eio_device *eio_rdma_open(void); /* dies without; eio_rdma.c */
void eio_rdma_close(void);

void eio_disk_make(enum rec_kind kind); /* and the file system, not mounted yet; dies, or skips */
void eio_disk_end(void);
void disk_set(bool bad);

void side_path(const struct side *s, const char *dir, char path[KT_PATH_MAX + 8]);
void side_open(struct side *s, struct pinlease_file *file); /* file NULL: of path */
void side_write(struct side *s);			    /* a new write to each slot */
int side_sync(struct side *s);
uint64_t side_dirty(struct side *s);
uint32_t side_break_ended(struct side *s, struct pinlease_event *lost); /* REVOKED, or LOST and *lost */
void side_restore(struct side *s); /* and no event of the break, or of before, is left */

/* Before 6.7 a btrfs and its copy cannot be mounted side by side: what is on the disk is not looked at. */
bool copies_can_be_looked_at(void);
void expect_on_disk(struct side *s, const char *after);
void expect_not_on_disk(struct side *s);
void expect_saved(struct side *s);
/* LOST, for this reason: told in full, begins nothing, all of it saved. */
void expect_lost(struct side *s, const struct pinlease_event *ev, int err);

#define expect_sync(s, want)                                                           \
	do {                                                                           \
		int got_ = side_sync(s);                                               \
		rt_assert(got_ == (want), "%s: sync: %s", (s)->name, strerror(-got_)); \
	} while (0)

#endif
