/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sync_eio FS: a disk that fails, and works again, under leases. Who loses data is
 * told by pinlease_sync, once; what could not be written is dirty still, can be saved
 * elsewhere, and is written by the next sync on a disk that works.
 *
 * Two leases on one file, one with everything dirty and one as told, and a third on
 * another file of the same disk; where the device does on-demand paging, one more, by name,
 * whose pages are the file's own. The device that writes to them is the caller's: RDMA in
 * a guest (sync_eio.c), a ring where there is no RDMA (tests/uring/uring_sync_eio.c).
 */
#ifndef PL_RDMA_EIO_H
#define PL_RDMA_EIO_H

#include <pinlease.h>

#include "baddisk.h"

struct eio_device {
	/* Who is to reach the memory: pd and ibv_access, or backend and its argument. */
	void (*opts)(struct pinlease_opts *lo);
	/* Write RT_SLOT bytes at words to off in the lease, told as the lease wants it: 0 or -errno. */
	int (*write)(struct pinlease *lease, bool told, uint64_t off, const uint64_t *words);
	bool odp; /* it does on-demand paging */
};

void eio_run(const char *type, enum rec_kind kind, const struct eio_device *dev);

#endif
