/* SPDX-License-Identifier: BSD-3-Clause */
/* What is written, and the disk behind it: the page cache takes some at once, the rest waits for the disk. */
#include <errno.h>
#include <unistd.h>

#include "sim_private.h"

void sim_disk(uint64_t rate, uint64_t cache)
{
	sim_lock();
	sim.disk_rate = rate;
	sim.disk_cache = cache;
	sim.disk_dirty = 0;
	sim_unlock();
}

uint64_t sim_written(void)
{
	uint64_t n;

	sim_lock();
	n = sim.written;
	sim_unlock();
	return n;
}

void sim_wrote(struct sim_inode *inode, uint64_t off, uint64_t len)
{
	if (sim.watcher && sim.watcher->wrote)
		sim.watcher->wrote(inode, off, len);
}

/* Until nothing is dirty, or no more than the page cache takes. */
void sim_disk_wait(bool all)
{
	uint64_t left;

	sim_lock();
	left = all ? 0 : sim.disk_cache;
	if (sim.disk_rate && sim.disk_dirty > left) {
		/* One after the other. */
		sim.disk_busy = pl_max_u64(sim.disk_busy, sim.now) +
				(sim.disk_dirty - left) * SIM_S / sim.disk_rate;
		sim.disk_dirty = left;
		sim_wait(&sim.disk_dirty, sim.disk_busy);
	}
	sim_unlock();
}

/* sys.h */

ssize_t pl_sys_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	ssize_t n;
	int r;

	/* What counts is when it was started: what is under way when a break expires cannot be called back.
	 */
	sim_judge_fd(fd, "pwrite");
	r = sim_enter_file("pwrite", SIM_BLOCKING | SIM_STEP, -EINVAL);
	if (r < 0)
		return r;
	n = pwrite(fd, buf, r ? pl_min_u64(len, (uint64_t)r) : len, (off_t)off);
	if (n < 0)
		return -errno;
	sim_lock();
	if (sim_ofd_of(fd)) {
		sim_judge_wrote(sim_ofd_of(fd));
		sim_wrote(sim_ofd_of(fd)->inode, off, (uint64_t)n);
	}
	sim.disk_dirty += (uint64_t)n;
	sim.written += (uint64_t)n;
	sim_unlock();
	sim_disk_wait(false);
	return n;
}
