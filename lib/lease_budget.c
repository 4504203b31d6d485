/* SPDX-License-Identifier: BSD-3-Clause */
/* What a lease that is staged for writing takes of its disk's budget (budget.h). */
#include <errno.h>
#include <string.h>

#include "lease.h"
#include "sys.h"

static bool lease_told(const struct pinlease *lease)
{
	return lease->flags & PINLEASE_L_DIRTY_TOLD;
}

uint64_t pl_lease_window(const struct pinlease *lease)
{
	const struct pl_env *env = lease->file->env;

	return pl_budget_window(atomic_load_explicit(&env->break_time_ns, memory_order_relaxed),
				pl_lease_deadline(lease));
}

static int budget_reserve(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;

	return pl_disk_reserve(&file->env->disks, file->disk, lease->range.len, lease_told(lease),
			       pl_lease_window(lease));
}

/* A piece of the file, read, and written to where it came from: the guard has to be held all the while. */
static int trial_write(struct pinlease *lease, uint64_t bytes)
{
	struct pinlease_file *file = lease->file;
	int r = -EAGAIN;

	pthread_mutex_lock(&file->lock);
	if (pl_file_in_time(file)) {
		pthread_mutex_unlock(&file->lock);
		r = pl_staged_write(lease->staged, file->fd, 0, bytes);
		pthread_mutex_lock(&file->lock);
	}
	if (!r)
		r = pl_file_datasync(file);
	pthread_mutex_unlock(&file->lock);
	return r;
}

static int trial_read(struct pinlease *lease, uint64_t *bytes)
{
	ssize_t n;

	do {
		n = pl_sys_pread(lease->file->fd, lease->staged->addr,
				 pl_min_u64(PL_SAMPLE_BYTES, lease->range.len), lease->range.off);
	} while (n == -EINTR);
	*bytes = n > 0 ? (uint64_t)n : 0;
	return n < 0 ? (int)n : 0;
}

/*
 * What is known of the disk would not do. So it is asked once more, with the first MiB of the
 * range: unlike what waits in the page cache, what is synced has reached it. What was
 * dirty of the file before must not be on the bill: the first round is for that.
 */
static int disk_trial(struct pinlease *lease)
{
	struct pinlease_file *file = lease->file;
	uint64_t bytes, start;
	int r = trial_read(lease, &bytes);

	if (!r && bytes)
		r = trial_write(lease, bytes);
	start = pl_sys_now();
	if (!r && bytes)
		r = trial_write(lease, bytes);
	if (!r)
		pl_disk_measured(&file->env->disks, file->disk, bytes, pl_sys_now() - start, true);
	/* Not filled yet, and perhaps never to be. */
	memset(lease->staged->addr, 0, bytes);
	return r;
}

static int trial_reason(int err)
{
	if (err == -EAGAIN)
		return PINLEASE_WHY_BROKEN;
	return err == -ENOSPC || err == -EDQUOT ? PINLEASE_WHY_NO_SPACE : PINLEASE_WHY_IO;
}

int pl_lease_reserve(struct pinlease *lease, struct pinlease_why *why)
{
	int r;

	if (!pl_lease_writes_back(lease) || !lease->file->disk)
		return 0;
	r = budget_reserve(lease);
	/* Who only asks changes no file: what is not known yet is taken for good. */
	if (r && lease->file->trial && !atomic_load(&lease->file->disk->rate))
		return 0;
	if (r && !lease->file->trial) {
		r = disk_trial(lease);
		if (r) {
			pl_why_set(why, PINLEASE_AT_CHECK, (uint32_t)trial_reason(r), r);
			return r;
		}
		r = budget_reserve(lease);
	}
	if (r)
		return pl_refuse(why, PINLEASE_AT_CHECK, PINLEASE_WHY_BUDGET, r);
	lease->staged->reserved = true;
	return 0;
}

void pl_lease_unreserve(struct pinlease *lease)
{
	if (!pl_lease_reserved(lease))
		return;
	pl_disk_return(&lease->file->env->disks, lease->file->disk, lease->range.len, lease_told(lease));
	lease->staged->reserved = false;
}
