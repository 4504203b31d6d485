/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices of the device mapper, by its ioctls: a dozen table swaps in a guest cost no
 * processes. 0 or -errno; -ENODEV: there is no device mapper.
 */
#ifndef PL_TEST_DM_H
#define PL_TEST_DM_H

#include <stddef.h>
#include <stdint.h>

#define DM_PIECES 20u

struct dm_piece {
	uint64_t sector, sectors;
	const char *type;
	char params[96];
};

/* A new device of that table; one of that name that a killed test left is removed first. */
int dm_make(const char *name, const struct dm_piece *piece, size_t pieces, char *device, size_t size);
/* Another table from now on. The file system on it is not asked to write anything before. */
int dm_swap(const char *name, const struct dm_piece *piece, size_t pieces);
int dm_tell(const char *name, const char *message); /* the target at sector 0 */
int dm_drop(const char *name);			    /* waits a little while it is still in use */

#endif
