/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The judge: what the library must never do, seen from the kernel. A violation ends the
 * test there and then, in the thread that did it.
 *
 * I1	A lease is let go (F_UNLCK answered 0, or its last descriptor closed) while a
 *	region of the device is alive over pages of the file; memory is unmapped under a
 *	live region; pages of the file are registered, or DMA lands in them, while the guard
 *	is not held; the layout is changed by ourselves under a live region. Once a break
 *	has expired DMA that lands is the kernel's doing: it is counted (sim_dma_late).
 * I1	pwrite, plain fallocate, MADV_POPULATE_WRITE of a file whose guard was let go, or
 *	whose break has expired, started after that.
 * I2	F_UNLCK of a lease that was let go already; a lease taken without F_SETSIG and
 *	F_SETOWN_EX, or owned by a dead thread.
 * seam	SIGIO waited for; a descriptor closed, or memory unmapped, that is not there.
 *
 * What the kernel cannot see (I3 to I6: what the application was told, when openers went
 * on, what is in the file) the tests assert themselves.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_private.h"

void sim_die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "sim: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

void sim_violate(const char *rule, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (sim.expect && !strcmp(sim.expect, rule)) {
		sim.violations++;
		return;
	}
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (sim.watcher && sim.watcher->violated && sim.watcher->violated(rule, text))
		return;
	fprintf(stderr, "sim: VIOLATION of %s: %s\n", rule, text);
	abort();
}

void sim_expect(const char *rule)
{
	sim_lock();
	sim.expect = rule;
	sim_unlock();
}

unsigned int sim_violations(void)
{
	unsigned int n;

	sim_lock();
	n = sim.violations;
	sim_unlock();
	return n;
}

/* Does the region reach pages of the inode from..end? */
static bool mr_reaches(const struct sim_mr *mr, const struct sim_inode *inode, uint64_t from, uint64_t end)
{
	uintptr_t start = (uintptr_t)mr->mr.addr, stop = start + mr->mr.length;
	const struct sim_map *m;
	struct pl_list *pos;
	uint64_t off, len;

	if (!mr->live)
		return false;
	pl_list_for_each (pos, &sim.maps) {
		m = pl_container(pos, struct sim_map, link);
		if (!m->ofd || m->ofd->inode != inode || m->end <= start || m->start >= stop)
			continue;
		off = m->off + (pl_max_u64(start, m->start) - m->start);
		len = pl_min_u64(stop, m->end) - pl_max_u64(start, m->start);
		if (off < end && off + len > from)
			return true;
	}
	return false;
}

static const struct sim_mr *mr_over(const struct sim_inode *inode, uint64_t from, uint64_t end)
{
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.mrs)
		if (mr_reaches(pl_container(pos, struct sim_mr, link), inode, from, end))
			return pl_container(pos, struct sim_mr, link);
	return NULL;
}

void sim_judge_let_go(struct sim_ofd *ofd)
{
	const struct sim_mr *mr = mr_over(ofd->inode, 0, UINT64_MAX);

	if (mr)
		sim_violate("I1", "the guard is let go and rkey %u still reaches the file", mr->mr.rkey);
	if (sim.watcher && sim.watcher->let_go)
		sim.watcher->let_go(ofd);
}

void sim_judge_taken(struct sim_ofd *ofd)
{
	struct sim_thread *t = sim_thread_find(ofd->owner);

	if (!ofd->signo || !ofd->owner)
		sim_violate("I2", "a lease is taken without F_SETSIG and F_SETOWN_EX: the next break kills "
				  "the process");
	else if (!t || t->exited)
		sim_violate("I2", "a lease is taken for a thread that is gone");
}

/* The guard of a file that ever had one is not optional. */
static bool unguarded(const struct sim_ofd *ofd)
{
	return ofd->armed_once && (ofd->lease == F_UNLCK || ofd->downgraded);
}

void sim_judge_write(struct sim_ofd *ofd, const char *what)
{
	/* Due, though nobody has looked yet, is as good as expired: an opener may be on its way. */
	bool due = (ofd->unlock_pending && ofd->break_due <= sim.now) ||
		   (ofd->downgrade_pending && ofd->downgrade_due <= sim.now);

	if (unguarded(ofd) || due)
		sim_violate("I1", "%s of a file that may be somebody else's by now", what);
}

/* Whoever lets go waits for what is under way, whether the break has expired or not. */
void sim_judge_wrote(struct sim_ofd *ofd)
{
	if (unguarded(ofd) && !ofd->expired_unlock && !ofd->downgraded)
		sim_violate("I1", "a pwrite ends when the guard has been let go");
}

void sim_judge_layout(struct sim_ofd *ofd, uint64_t from, uint64_t end)
{
	const struct sim_mr *mr = mr_over(ofd->inode, from, end);

	if (mr)
		sim_violate("I1", "the layout is changed under rkey %u", mr->mr.rkey);
}

void sim_judge_register(const struct sim_mr *mr)
{
	const struct sim_map *m;
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.maps) {
		m = pl_container(pos, struct sim_map, link);
		if (!m->ofd || !unguarded(m->ofd) || m->ofd->expired_unlock || m->ofd->downgraded)
			continue;
		if (mr_reaches(mr, m->ofd->inode, 0, UINT64_MAX))
			sim_violate("I1", "pages of a file are registered and its guard is not held");
	}
}

void sim_judge_unmap(uintptr_t start, uintptr_t end)
{
	const struct sim_mr *mr;
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.mrs) {
		mr = pl_container(pos, struct sim_mr, link);
		if (mr->live && (uintptr_t)mr->mr.addr < end &&
		    (uintptr_t)mr->mr.addr + mr->mr.length > start)
			sim_violate("I1", "memory is unmapped and rkey %u still reaches it", mr->mr.rkey);
	}
}

void sim_judge_dma(const struct sim_map *map)
{
	if (!map->ofd || !unguarded(map->ofd))
		return;
	if (map->ofd->expired_unlock || map->ofd->downgraded)
		sim.dma_late++;
	else
		sim_violate("I1", "DMA lands in a file whose guard was let go");
}

/* What is alive */

void sim_rebase(void)
{
	sim_settle();
	sim_lock();
	sim.base = sim.counts;
	sim_unlock();
}

static void count_same(const char *what, long now, long before)
{
	if (now != before)
		sim_die("%s: %ld before, %ld after", what, before, now);
}

void sim_begin(void)
{
	sim_attach_main();
	sim_file_reset();
	sim_fault_reset();
	sim_lease_reset();
	sim_verbs_reset();
	sim_lock();
	sim_opener_reset();
	sim_signal_reset();
	sim_clock_reset();
	sim_judge_reset();
	sim.base = sim.counts;
	sim_unlock();
}

void sim_check(void)
{
	struct sim_counts now;

	sim_verbs_reset();
	sim_lock();
	now = sim.counts;
	sim.started = sim.now;
	sim_unlock();
	count_same("threads", now.threads, sim.base.threads);
	count_same("leases", now.leases, sim.base.leases);
	count_same("memory regions", now.mrs, sim.base.mrs);
	count_same("queue pairs", now.qps, sim.base.qps);
	count_same("completion queues", now.cqs, sim.base.cqs);
	count_same("mappings", now.maps, sim.base.maps);
	count_same("descriptors", now.fds, sim.base.fds);
	count_same("open file descriptions", now.ofds, sim.base.ofds);
	count_same("allocations", now.allocs, sim.base.allocs);
}

void sim_check_bytes(void)
{
	struct sim_counts now;

	sim_lock();
	now = sim.counts;
	sim_unlock();
	count_same("bytes mapped", now.mapped, sim.base.mapped);
	count_same("bytes allocated", now.allocated, sim.base.allocated);
}

void sim_end(void)
{
	sim_clear();
	sim_check();
	sim_check_bytes();
}

void sim_judge_reset(void)
{
	sim.expect = NULL;
	sim.violations = 0;
	sim.dma_late = 0;
	sim.dereg_lies = false;
}
