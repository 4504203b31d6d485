/* SPDX-License-Identifier: BSD-3-Clause */
/* What a staged lease has and the file has not: after LOST, or a sync that failed. */
#include <errno.h>
#include <fcntl.h>

#include "lease.h"
#include "sys.h"

uint64_t pl_lease_missing(struct pinlease *lease, uint64_t *off, uint64_t *len)
{
	uint64_t bytes = 0, at = 0, n = 0, first = 0;

	if (!pl_lease_writes_back(lease)) {
		*off = 0;
		*len = lease->now_len;
		return 0;
	}
	while (pl_staged_next(lease->staged, at + n, lease->staged->len, UINT64_MAX, false, &at, &n)) {
		if (!bytes)
			first = at;
		bytes += n;
	}
	*off = first;
	*len = bytes ? at + n - first : 0;
	return bytes;
}

/* Locked. 0: its pages say what is missing. */
static int kept_look(struct pinlease *lease)
{
	if (pl_lease_state(lease) != PINLEASE_LOST && !lease->sync_failed)
		return -EAGAIN;
	if (!pl_lease_writes_back(lease))
		return -ENODATA;
	if (pl_lease_state(lease) == PINLEASE_ACTIVE)
		pl_lease_mark_unknown(lease);
	return 0;
}

static void save_end(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;

	pthread_mutex_lock(&file->lock);
	lease->users--;
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
}

/* With O_APPEND pwrite(2) writes behind the end, and not where it is told to. */
static int save_check(int fd)
{
	int flags = pl_sys_get_flags(fd);

	if (flags < 0)
		return flags;
	return flags & O_APPEND ? -EINVAL : 0;
}

int pl_lease_save(struct pinlease *lease, int fd)
{
	uint64_t off = 0, len = 0;
	int r;

	pthread_mutex_lock(&lease->file->lock);
	r = kept_look(lease);
	if (!r)
		r = save_check(fd);
	/*
	 * A user and no syncer: a break waits neither for the disk that is saved to nor for the
	 * application. What it writes back meanwhile is in the file, and is saved or not.
	 */
	lease->users += !r;
	pthread_mutex_unlock(&lease->file->lock);
	if (r)
		return r;
	r = -ENODATA;
	while (pl_staged_next(lease->staged, off + len, lease->staged->len, PL_CHUNK_BYTES, false, &off,
			      &len)) {
		r = pl_staged_write(lease->staged, fd, off, len);
		if (r)
			break;
	}
	save_end(lease);
	return r;
}

int pl_lease_dirty_next(struct pinlease *lease, uint64_t from, uint64_t *off, uint64_t *len)
{
	struct pinlease_file *file = lease->file;
	uint64_t at, n;
	int r;

	if (from > lease->range.len)
		return -ERANGE;
	pthread_mutex_lock(&file->lock);
	r = kept_look(lease);
	if (!r && pl_staged_next(lease->staged, from, lease->staged->len, UINT64_MAX, false, &at, &n)) {
		/* The page that from is in may have begun before it. */
		*off = pl_max_u64(at, from);
		*len = at + n - *off;
		r = 1;
	}
	pthread_mutex_unlock(&file->lock);
	return r == -ENODATA ? 0 : r;
}
