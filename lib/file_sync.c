/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fdatasync for all leases of a file, and its errors.
 *
 * The kernel reports an error of writeback once for each open file description (errseq_t),
 * and calls the pages clean. All leases of a file share the description: whoever's
 * fdatasync comes first takes the error away from the others, whose data may be what
 * was lost, also data that a break wrote back and nobody has synced. So each lease
 * remembers what it has put into the file since:
 *
 *	written ──▶ uncovered ── fdatasync begins ──▶ covered ── 0 ──▶ forgotten
 *	                 └───────────────────────────────┴──── error ──▶ dirty again, a loss counted
 *
 * Nothing is moved to covered while somebody writes for the lease (a syncer, a break):
 * fdatasync need not have seen what is written beside it. One fdatasync runs at a time;
 * who comes meanwhile waits for the next one, which serves all that wait for it.
 *
 * A loss is told once to each lease that had something to lose: by every sync that was
 * under way, or by the next one. The others hear nothing. What is dirty again is written
 * by the sync after that, from our copy, which is good still.
 */
#include <errno.h>

#include "lease.h"
#include "sys.h"

static bool lease_exists(const struct pinlease *lease)
{
	enum pinlease_state state = pl_lease_state((struct pinlease *)(uintptr_t)lease);

	return state != PINLEASE_INIT && state != PINLEASE_CLOSED && lease->access == PINLEASE_WRITE;
}

/* What was written for it, in granules. Before it exists there is nothing, and staged is its acquire's. */
static bool lease_remembers(const struct pinlease *lease)
{
	return lease_exists(lease) && pl_lease_writes_back(lease);
}

/* Where the file's own pages are reached, nobody knows what was written since when: any loss may be its. */
static bool lease_lost_something(const struct pinlease *lease)
{
	return !pl_lease_writes_back(lease) || lease->staged->covered || lease->staged->uncovered;
}

static void lease_lose(struct pinlease *lease, int err)
{
	uint64_t lost;

	if (!lease_exists(lease) || !lease_lost_something(lease))
		return;
	if (pl_lease_writes_back(lease)) {
		lost = lease->staged->covered | lease->staged->uncovered;
		pl_staged_mark_granules(lease->staged, lost);
		if (pl_lease_state(lease) == PINLEASE_LOST)
			lease->staged->late |= lost;
		lease->staged->covered = lease->staged->uncovered = 0;
	} else {
		lease->redirty = true;
	}
	/* Untold stays untold, however many there are. */
	if (++lease->losses == lease->losses_told)
		lease->losses++;
	lease->loss_err = (int16_t)err;
}

void pl_file_lose(struct pinlease_file *file, int err)
{
	struct pl_list *pos;

	pl_log_write(&file->env->log, 3, "file %p: the kernel could not write (%d)", (void *)file, err);
	pl_list_for_each(pos, &file->leases)
		lease_lose(pl_container(pos, struct pinlease, link), err);
}

static void sync_covers(struct pinlease_file *file)
{
	struct pl_list *pos;
	struct pinlease *lease;

	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		if (!lease_remembers(lease) || lease->syncers || lease->busy)
			continue;
		lease->staged->covered = lease->staged->uncovered;
		lease->staged->uncovered = 0;
	}
}

static void sync_covered(struct pinlease_file *file)
{
	struct pl_list *pos;
	struct pinlease *lease;

	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		if (lease_remembers(lease))
			lease->staged->covered = 0;
	}
}

/* Locked, dropped inside: a disk that hangs holds up nobody but who waits for it. */
static int datasync_once(struct pinlease_file *file)
{
	int r;

	file->syncing = true;
	file->syncs_begun++;
	sync_covers(file);
	pthread_mutex_unlock(&file->lock);
	/* The application may have closed our descriptor: another file's number by now. */
	r = pl_fileid_same(file->fd, &file->id);
	if (!r) {
		do {
			r = pl_sys_datasync(file->fd);
		} while (r == -EINTR);
	}
	pthread_mutex_lock(&file->lock);
	if (r)
		pl_file_lose(file, r);
	else
		sync_covered(file);
	file->syncs_done = file->syncs_begun;
	file->syncing = false;
	pthread_cond_broadcast(&file->cond);
	return r;
}

int pl_file_datasync(struct pinlease_file *file)
{
	/* One that is under way may have passed what we wrote; the next one cannot. */
	uint32_t mine = file->syncs_begun + 1;

	while ((int32_t)(file->syncs_done - mine) < 0) {
		if (!file->syncing)
			return datasync_once(file);
		pl_sys_cond_wait(&file->cond, &file->lock, PL_NEVER);
	}
	return 0;
}

bool pl_lease_told(struct pinlease *lease, uint16_t since, int *err)
{
	if (lease->losses == since)
		return false;
	lease->losses_told = lease->losses;
	*err = lease->loss_err;
	return true;
}
