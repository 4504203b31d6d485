/* SPDX-License-Identifier: BSD-3-Clause */
/* What the device wrote, on its way into the file: writeback on a break, sync, save. */
#include <errno.h>
#include <infiniband/verbs.h>

#include "lease.h"
#include "sys.h"

#define REMOTE_WRITES (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

/*
 * A one-sided write is invisible to us: with remote write access everything may have
 * been written from the moment the rkey could be read. Without it, only operations
 * that were counted can have.
 */
static bool lease_maybe_written(struct pinlease *lease)
{
	uint32_t i;

	for (i = 0; i < lease->reg_count; i++)
		if (lease->regs[i].ibv_access & REMOTE_WRITES)
			return true;
	return pl_account_begun(&lease->account) != lease->begun;
}

/* The application may have closed our descriptor: another file's number by now, and another file's data. */
static int file_write(struct pinlease *lease, uint64_t off, uint64_t len)
{
	struct pinlease_file *file = lease->file;
	int r = pl_fileid_same(file->fd, &file->id);

	return r ? r : pl_staged_write(&lease->staged, file->fd, off, len);
}

/*
 * Locked. May another chunk be written? One that is written after the kernel let the
 * opener on would land in what is somebody else's file by then. F_GETLEASE cannot tell
 * "pending" from "expired" (both answer the target), the limit can: it is never later
 * than the kernel's. While the guard seems HELD a break may have gone unnoticed (the
 * signal lost, this process stopped): asked when nobody has looked for long.
 */
static bool file_in_time(struct pinlease_file *file)
{
	uint64_t limit = file->limit_ns;

	if (file->state == PL_FILE_HELD)
		limit = pl_add_sat(file->unbroken_ns,
				   atomic_load_explicit(&file->env->break_time_ns, memory_order_relaxed));
	else if (file->state != PL_FILE_BREAKING)
		return true;
	if (pl_add_sat(pl_sys_now(), PL_CHUNK_NS) < limit)
		return true;
	return file->state == PL_FILE_HELD && !file->guard.ops->pending(&file->guard);
}

/* Locked. Chunk by chunk, with a look at the clock before each. */
void pl_lease_write_back(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	uint64_t off = 0, len = 0;
	int r = 0;

	if (!pl_lease_writes_back(lease)) {
		lease->written = true;
		return;
	}
	if (!(lease->flags & PINLEASE_L_DIRTY_TOLD) && lease_maybe_written(lease))
		pl_staged_mark(&lease->staged, 0, lease->staged.len);
	while (!r &&
	       pl_staged_next(&lease->staged, 0, lease->staged.len, PL_CHUNK_BYTES, false, &off, &len)) {
		if (!file_in_time(file)) {
			r = -ETIME;
			break;
		}
		pthread_mutex_unlock(&file->lock);
		r = file_write(lease, off, len);
		if (!r)
			pl_staged_clear(&lease->staged, off, len);
		pthread_mutex_lock(&file->lock);
	}
	if (r) {
		lease->lost = true;
		lease->err = r;
	}
	lease->written = true;
}

int pl_lease_mark_dirty(struct pinlease *lease, uint64_t off, uint64_t len)
{
	if (!(lease->flags & PINLEASE_L_DIRTY_TOLD))
		return -EINVAL;
	if (off > lease->len || len > lease->len - off)
		return -ERANGE;
	/* In the modes that reach the file's own pages there is nothing to remember. */
	if (pl_lease_writes_back(lease))
		pl_staged_mark(&lease->staged, off, len);
	return 0;
}

/*
 * Beside traffic. Bits are taken down before the account is looked at: an operation whose
 * mark was wiped had begun before; if it has ended by the time of the sum, its data is
 * in memory and is written below; if not, the sum sees it and the marks go up again.
 */
static bool sync_may_clear(struct pinlease *lease)
{
	pl_account_barrier();
	return !pl_account_in_flight(&lease->account);
}

static bool sync_goes_on(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	bool on;

	pthread_mutex_lock(&file->lock);
	on = pl_lease_state(lease) == PINLEASE_ACTIVE && file_in_time(file);
	pthread_mutex_unlock(&file->lock);
	return on;
}

static int sync_staged(struct pinlease *lease, uint64_t from, uint64_t end)
{
	bool told = lease->flags & PINLEASE_L_DIRTY_TOLD;
	uint64_t off, len;
	int r;

	for (; from < end; from = off + len) {
		if (!sync_goes_on(lease))
			return -EAGAIN;
		off = from;
		len = pl_min_u64(PL_CHUNK_BYTES, end - from);
		if (told) {
			if (!pl_staged_next(&lease->staged, from, end, PL_CHUNK_BYTES, true, &off, &len))
				break;
			if (!sync_may_clear(lease))
				pl_staged_mark(&lease->staged, off, len);
		}
		r = file_write(lease, off, len);
		if (r) {
			pl_staged_mark(&lease->staged, off, len);
			return r;
		}
	}
	return 0;
}

static int sync_begin(struct pinlease *lease, uint64_t off, uint64_t *end)
{
	struct pinlease_file *file = lease->file;
	int r = 0;

	pthread_mutex_lock(&file->lock);
	if (pl_lease_state(lease) != PINLEASE_ACTIVE)
		r = -EAGAIN;
	else if (off > lease->now_len)
		r = -ERANGE;
	if (!r) {
		*end = pl_min_u64(*end, lease->now_len);
		lease->syncers++;
	}
	pthread_mutex_unlock(&file->lock);
	return r;
}

static void sync_end(struct pinlease *lease, int err)
{
	struct pinlease_file *file = lease->file;

	pthread_mutex_lock(&file->lock);
	lease->syncers--;
	lease->sync_failed |= err && err != -EAGAIN;
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
}

/*
 * Not locked, and outside the count of syncers: a disk that hangs here must not hold up a
 * break. The mapping stays until release.
 */
static int sync_to_disk(struct pinlease *lease, uint64_t off, uint64_t end)
{
	uint64_t first = off / pl_sys_page_size() * pl_sys_page_size();
	int r = 0;

	if (!pl_lease_writes_back(lease) && end > off) {
		do {
			r = pl_sys_msync((char *)lease->map.addr + first, end - first);
		} while (r == -EINTR);
	}
	if (r)
		return r;
	do {
		r = pl_sys_datasync(lease->file->fd);
	} while (r == -EINTR);
	return r;
}

int pl_lease_sync(struct pinlease *lease, uint64_t off, uint64_t len)
{
	struct pinlease_file *file = lease->file;
	uint64_t end = len ? off + len : lease->len;
	int r;

	if (off > lease->len || len > lease->len - off)
		return -ERANGE;
	r = sync_begin(lease, off, &end);
	if (r)
		return r;
	if (pl_lease_writes_back(lease))
		r = sync_staged(lease, off, end);
	else
		pl_lease_dirty(lease);
	sync_end(lease, r);
	if (r || lease->access != PINLEASE_WRITE)
		return r;
	r = sync_to_disk(lease, off, end);
	if (r && pl_lease_writes_back(lease)) {
		/* A failed writeback leaves the kernel's pages clean: only our copy is good. */
		pl_staged_mark(&lease->staged, off, end - off);
		pthread_mutex_lock(&file->lock);
		lease->sync_failed = true;
		pthread_mutex_unlock(&file->lock);
	}
	return r;
}

int pl_lease_save(struct pinlease *lease, int fd)
{
	struct pinlease_file *file = lease->file;
	uint64_t off = 0, len = 0;
	int r = -ENODATA;

	pthread_mutex_lock(&file->lock);
	if (pl_lease_state(lease) != PINLEASE_LOST && !lease->sync_failed)
		r = -EAGAIN;
	else if (pl_lease_writes_back(lease))
		lease->syncers++;
	else
		r = -ENODATA;
	pthread_mutex_unlock(&file->lock);
	if (r == -EAGAIN || !pl_lease_writes_back(lease))
		return r;
	while (pl_staged_next(&lease->staged, off + len, lease->staged.len, PL_CHUNK_BYTES, false, &off,
			      &len)) {
		r = pl_staged_write(&lease->staged, fd, off, len);
		if (r)
			break;
	}
	sync_end(lease, 0);
	return r;
}

uint64_t pl_lease_dirty_bytes(struct pinlease *lease)
{
	if (!pl_lease_writes_back(lease))
		return 0;
	if (pl_lease_state(lease) == PINLEASE_ACTIVE && !(lease->flags & PINLEASE_L_DIRTY_TOLD))
		return lease_maybe_written(lease) ? lease->now_len : pl_staged_dirty_bytes(&lease->staged);
	return pl_staged_dirty_bytes(&lease->staged);
}
