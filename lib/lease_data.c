/* SPDX-License-Identifier: BSD-3-Clause */
/* What the device wrote, on its way into the file: writeback on a break, sync, save. */
#include <errno.h>
#include <infiniband/verbs.h>
#include <sys/mman.h>

#include "durable.h"
#include "lease.h"
#include "sys.h"

#define REDIRTY_BYTES (64ull << 20)
#define REMOTE_WRITES (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

/*
 * A one-sided write is invisible to us: with remote write access everything may have
 * been written from the moment the rkey could be read. Without it, only operations
 * that were counted can have.
 */
static bool lease_maybe_written(struct pinlease *lease)
{
	bool remote = false;
	uint32_t i;

	for (i = 0; i < lease->reg_count; i++)
		if (lease->regs[i].ibv_access & REMOTE_WRITES)
			remote = true;
	/* Its peers are all there is, and each has said what it wrote: those ranges are marked. */
	if (remote && (!(lease->flags & PINLEASE_L_GRANTED) || (lease->grants && lease->grants->untold)))
		return true;
	return pl_account_begun(&lease->account) != lease->begun;
}

/*
 * Not locked. Where writes are synchronous (mount -o sync, chattr +S) one that fails takes the
 * kernel's only report away from the other leases, as fdatasync does.
 */
static int file_write(struct pinlease *lease, uint64_t off, uint64_t len)
{
	struct pinlease_file *file = lease->file;
	int r = pl_durable_write(&lease->map, file->fd, &file->id, lease->staged, off, len);

	if (r && r != -ENODATA) {
		pthread_mutex_lock(&file->lock);
		pl_file_lose(file, r);
		pthread_mutex_unlock(&file->lock);
	}
	return r;
}

/*
 * Locked. May another chunk be written? One that is written after the kernel let the
 * opener on would land in what is somebody else's file by then. F_GETLEASE cannot tell
 * "pending" from "expired" (both answer the target), the limit can: it is never later
 * than the kernel's. While the guard seems HELD a break may have gone unnoticed (the
 * signal lost, this process stopped): asked when nobody has looked for long.
 */
bool pl_file_in_time(struct pinlease_file *file)
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

void pl_lease_mark_unknown(struct pinlease *lease)
{
	if (pl_lease_writes_back(lease) && !(lease->flags & PINLEASE_L_DIRTY_TOLD) &&
	    lease_maybe_written(lease))
		pl_staged_mark(lease->staged, 0, lease->staged->len);
}

/* Locked, before each chunk: should an fdatasync fail from now on, this may be what was lost. */
static void lease_uncovered(struct pinlease *lease, uint64_t off, uint64_t len)
{
	lease->staged->uncovered |= pl_staged_granules(lease->staged, off, len);
}

/* One way of data into the file, piece by piece: as large as the disk takes in PL_CHUNK_NS. */
struct flow {
	struct pinlease *lease;
	uint64_t chunk, bytes, start;
	uint64_t same_until;		/* till then the descriptor counts as still ours */
};

static struct flow flow_start(struct pinlease *lease)
{
	return (struct flow){ .lease = lease,
			      .chunk = pl_chunk_first(lease->file->disk),
			      .start = pl_sys_now() };
}

/* Taken at once by a sync. */
#define RUNS 32u
#define SAME_NS (PL_NS_PER_MS / 10)

struct run {
	uint64_t off, len;
};

/*
 * The application may have closed our descriptor: another file's number by now, and another
 * file's data. Whoever asks is late anyway, and asking costs as much as half a page.
 */
static int flow_write(struct flow *f, uint64_t off, uint64_t len)
{
	struct pinlease_file *file = f->lease->file;
	uint64_t before = pl_sys_now();
	int r = 0;

	if (before >= f->same_until) {
		r = pl_fileid_same(file->fd, &file->id);
		f->same_until = before + SAME_NS;
	}
	if (!r)
		r = file_write(f->lease, off, len);
	f->chunk = pl_chunk_next(f->chunk, pl_sys_now() - before);
	f->bytes += r ? 0 : len;
	return r;
}

static void flow_measured(const struct flow *f, bool synced)
{
	struct pinlease_file *file = f->lease->file;

	pl_disk_measured(&file->env->disks, file->disk, f->bytes, pl_sys_now() - f->start, synced);
}

/* Locked. Chunk by chunk, with a look at the clock before each. */
void pl_lease_write_back(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	struct flow flow = flow_start(lease);
	uint64_t off = 0, len = 0;
	uint16_t losses;
	int r = 0;

	lease->written = true;
	if (!pl_lease_writes_back(lease))
		return;
	pl_lease_mark_unknown(lease);
	while (!r && pl_staged_next(lease->staged, 0, lease->staged->len, flow.chunk, false, &off, &len)) {
		if (!pl_file_in_time(file)) {
			r = -ETIME;
			break;
		}
		losses = lease->losses;
		lease_uncovered(lease, off, len);
		pthread_mutex_unlock(&file->lock);
		r = flow_write(&flow, off, len);
		pthread_mutex_lock(&file->lock);
		/* Lost while it was being written: once more. */
		if (!r && losses == lease->losses)
			pl_staged_clear(lease->staged, off, len);
	}
	flow_measured(&flow, false);
	if (r) {
		lease->lost = true;
		lease->err = r;
		/* LOST tells it. */
		lease->losses_told = lease->losses;
	}
}

int pl_lease_mark_dirty(struct pinlease *lease, uint64_t off, uint64_t len)
{
	uint64_t page = lease->file->id.page;

	if (!(lease->flags & PINLEASE_L_DIRTY_TOLD))
		return -EINVAL;
	if (off > lease->range.len || len > lease->range.len - off)
		return -ERANGE;
	/* What is around it on its pages would be written as zeros, which nobody has filled. */
	if ((lease->flags & PINLEASE_L_FILL_NONE) &&
	    (off % page || ((off + len) % page && off + len != lease->range.len)))
		return -ERANGE;
	/* In the modes that reach the file's own pages there is nothing to remember. */
	if (pl_lease_writes_back(lease))
		pl_staged_mark(lease->staged, off, len);
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

static bool sync_goes_on(struct pinlease *lease, uint64_t off, uint64_t len)
{
	struct pinlease_file *file = lease->file;
	bool on;

	pthread_mutex_lock(&file->lock);
	on = pl_lease_state(lease) == PINLEASE_ACTIVE && pl_file_in_time(file);
	if (on && pl_lease_writes_back(lease))
		lease_uncovered(lease, off, len);
	pthread_mutex_unlock(&file->lock);
	return on;
}

/*
 * The next of from..end, clean from now on; how many. Many at a time: the barrier of
 * sync_may_clear costs as much as writing a page.
 */
static unsigned int sync_take(struct flow *f, uint64_t from, uint64_t end, struct run *run)
{
	struct pinlease *lease = f->lease;
	unsigned int n = 0, i;

	if (!(lease->flags & PINLEASE_L_DIRTY_TOLD)) {
		*run = (struct run){ from, pl_min_u64(f->chunk, pl_sub_sat(end, from)) };
		pl_staged_clear_whole(lease->staged, run->off, run->len);
		return run->len != 0;
	}
	while (n < RUNS &&
	       pl_staged_next(lease->staged, from, end, f->chunk, true, &run[n].off, &run[n].len)) {
		from = run[n].off + run[n].len;
		n++;
	}
	if (n && !sync_may_clear(lease))
		for (i = 0; i < n; i++)
			pl_staged_mark(lease->staged, run[i].off, run[i].len);
	return n;
}

/* What could not be written, and all that was not tried, unless it is marked anyway. */
static void sync_give_back(struct flow *f, const struct run *run, unsigned int n, uint64_t end)
{
	struct pinlease *lease = f->lease;

	if (!(lease->flags & PINLEASE_L_DIRTY_TOLD))
		pl_staged_mark(lease->staged, run->off, end - run->off);
	else
		for (; n; n--, run++)
			pl_staged_mark(lease->staged, run->off, run->len);
}

static int flow_out(struct flow *f, uint64_t from, uint64_t end)
{
	struct run run[RUNS];
	unsigned int n, i;
	int r = 0;

	while (!r && (n = sync_take(f, from, end, run))) {
		for (i = 0; i < n && !r; i += !r)
			r = sync_goes_on(f->lease, run[i].off, run[i].len) ?
				    flow_write(f, run[i].off, run[i].len) :
				    -EAGAIN;
		if (r)
			sync_give_back(f, &run[i], n - i, end);
		from = run[n - 1].off + run[n - 1].len;
	}
	return r;
}

int pl_lease_write_out(struct pinlease *lease, uint64_t from, uint64_t end)
{
	struct flow flow = flow_start(lease);
	int r = flow_out(&flow, from, end);

	flow_measured(&flow, false);
	return r;
}

/*
 * An earlier loss that nobody has been told of is this sync's answer, whatever it would do.
 * One at a time, the flusher included: what another one has taken is clean, and need not be
 * in the file yet when our fdatasync begins.
 */
static int sync_begin(struct pinlease *lease, uint64_t off, uint64_t *end, uint16_t *losses)
{
	struct pinlease_file *file = lease->file;
	int r = 0;

	pthread_mutex_lock(&file->lock);
	lease->users++;
	while (lease->syncers && pl_lease_state(lease) == PINLEASE_ACTIVE)
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	if (pl_lease_state(lease) != PINLEASE_ACTIVE) {
		r = -EAGAIN;
	} else if (off > lease->now_len) {
		r = -ERANGE;
	} else if (pl_lease_told(lease, lease->losses_told, &r)) {
		lease->sync_failed = true;
	} else {
		*end = pl_min_u64(*end, lease->now_len);
		*losses = lease->losses;
		lease->syncers++;
	}
	if (r) {
		lease->users--;
		pthread_cond_broadcast(&file->cond);
	}
	pthread_mutex_unlock(&file->lock);
	return r;
}

/* From here on it holds up no break: a disk may hang in fdatasync. */
static void sync_written(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;

	pthread_mutex_lock(&file->lock);
	lease->syncers--;
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
}

/*
 * A break came first: what became of the data, the next sync will say. So it is if this process was
 * stopped until the kernel let the opener on: the disk has the file then, and not what was written.
 */
static int sync_end(struct pinlease *lease, int r, uint16_t losses)
{
	struct pinlease_file *file = lease->file;
	int err;

	pthread_mutex_lock(&file->lock);
	if (!r && !pl_file_in_time(file))
		r = -EAGAIN;
	if (r != -EAGAIN && pl_lease_told(lease, losses, &err) && !r)
		r = err;
	lease->sync_failed |= r && r != -EAGAIN;
	lease->users--;
	pthread_cond_broadcast(&file->cond);
	pthread_mutex_unlock(&file->lock);
	return r;
}

/*
 * Where the device reaches the file's own pages. After a failed writeback the kernel calls
 * them clean and would never write them again: as if written to, they are dirty again.
 */
static int sync_mapped(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	uint64_t off = 0, len;
	bool redirty;
	int r = 0;

	pl_lease_dirty(lease);
	pthread_mutex_lock(&file->lock);
	redirty = lease->redirty;
	lease->redirty = false;
	pthread_mutex_unlock(&file->lock);
	for (; redirty && !r && off < lease->now_len; off += len) {
		len = pl_min_u64(REDIRTY_BYTES, lease->now_len - off);
		r = sync_goes_on(lease, off, len) ? pl_sys_advise((char *)lease->map.addr + off, len,
								  MADV_POPULATE_WRITE) :
						    -EAGAIN;
	}
	if (!r)
		return 0;
	pthread_mutex_lock(&file->lock);
	lease->redirty = true;
	pthread_mutex_unlock(&file->lock);
	return r;
}

/* Not locked. The mapping stays until release, which waits for users. */
static int sync_to_disk(struct pinlease *lease, uint64_t off, uint64_t end)
{
	struct pinlease_file *file = lease->file;
	bool copied = pl_lease_writes_back(lease);
	int r = end > off ? pl_durable_flush(&lease->map, &file->id, off, end, copied) : 0;

	pthread_mutex_lock(&file->lock);
	if (r)
		pl_file_lose(file, r);
	else if (!pl_durable_is_flushed(&lease->map))
		r = pl_file_datasync(file);
	pthread_mutex_unlock(&file->lock);
	return r;
}

int pl_lease_sync(struct pinlease *lease, uint64_t off, uint64_t len)
{
	uint64_t end = len ? off + len : lease->range.len;
	struct flow flow = flow_start(lease);
	uint16_t losses = 0;
	int r;

	if (off > lease->range.len || len > lease->range.len - off)
		return -ERANGE;
	r = sync_begin(lease, off, &end, &losses);
	if (r)
		return r;
	if (pl_lease_writes_back(lease))
		r = flow_out(&flow, off, end);
	else
		r = sync_mapped(lease);
	sync_written(lease);
	if (!r && lease->access == PINLEASE_WRITE)
		r = sync_to_disk(lease, off, end);
	if (!r)
		flow_measured(&flow, true);
	return sync_end(lease, r, losses);
}

uint64_t pl_lease_dirty_bytes(struct pinlease *lease)
{
	if (!pl_lease_writes_back(lease))
		return 0;
	if (pl_lease_state(lease) == PINLEASE_ACTIVE && !(lease->flags & PINLEASE_L_DIRTY_TOLD))
		return lease_maybe_written(lease) ? lease->now_len : pl_staged_dirty_bytes(lease->staged);
	return pl_staged_dirty_bytes(lease->staged);
}
