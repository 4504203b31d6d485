/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The invariants of design.md, looked at after each step, from both ends: what the kernel
 * knows (leases, openers, regions) and what applications and peers have seen (begins, ends,
 * writes, events). Of the library only the word of a lease and the state of a file are
 * read, to see when a step has changed them.
 *
 * I1	as the judge of the simulation says (sim_judge.c), and: no key of one generation is
 *	one of the next; no region of a lease is alive while it is REVOKED.
 * I2	a break that is pending is known 520 ms later at the latest, whatever became of its
 *	signal; none is answered twice (the judge).
 * I3	a lease is fenced before its deadline only when all that was begun has ended; what
 *	begins does so in ACTIVE; nothing lands when its generation is over.
 * I4	what landed is in the file when the guard is let go, and what was there before and was
 *	not written through the lease; or LOST is told, and its event comes. While the guard is
 *	held, nothing is written over what is newer.
 * I5	what had landed when a sync began is on the disk when it answers 0.
 * I6	an opener waits no longer than the longest deadline of the file, the slow pass and
 *	100 ms; one that insists with O_NONBLOCK no longer than that and 400 ms more.
 *
 * What the table of promises takes away while the process is stopped, the disk hangs, or a
 * provider refuses, is taken away here: from I6 the time itself; from I1 and I4 what the
 * kernel has let expire, if LOST says so.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "objects.h"
#include "outside.h"

#define NOTICED_NS (520 * SIM_MS)
#define SLACK_NS   (100 * SIM_MS)
#define INSISTS_NS (400 * SIM_MS)
#define GENS	   16

static struct lease_watch {
	struct pinlease *lease; /* NULL: not yet, or being released */
	uint32_t gen, lost_gen, told_gen;
	enum pinlease_state state;
	uint32_t under_way[GENS]; /* by generation */
	uint32_t rkey, old_rkey;
	bool releasing, expired, let_go, staged;
	int missing; /* the page that was, when the guard was let go; -1: none */
} watches[X_LEASES];

static struct {
	uint64_t pending_since[X_FILES]; /* 0: no break is */
	uint64_t excused, continued;
	uint64_t asked_for[X_FILES]; /* when the application last took the guard again */
	uint32_t let_go[X_FILES];    /* how often, and how often what was kept was dropped */
} files;

static struct pinlease_file *file_of(uint32_t i)
{
	return x_world.file[x_plan.lease[i].file];
}

static uint64_t word_of(const struct pinlease *lease)
{
	return atomic_load_explicit(&((struct pinlease *)(uintptr_t)lease)->account.word,
				    memory_order_relaxed);
}

uint32_t x_props_gen(uint32_t i)
{
	return pl_word_gen(word_of(watches[i].lease));
}

/* I3 */

static uint64_t drain_least(uint32_t i)
{
	const struct lease_watch *w = &watches[i];
	const struct pinlease_file *file = w->lease->file;
	uint64_t app = x_plan.lease[i].deadline_ms * SIM_MS;

	/* A short lease-break-time, or a process that was stopped, leaves less: what the lease has been
	 * given. */
	if (x_plan.break_time_s < 10 || files.excused || w->lease->cause == PINLEASE_BY_OWNER)
		return w->lease->until_ns;
	return file->break_ns + app - SIM_MS;
}

static void check_fencing(uint32_t i)
{
	const struct lease_watch *w = &watches[i];
	uint32_t n = w->under_way[w->gen % GENS];

	if (n && sim.now < drain_least(i))
		sim_violate("I3", "lease %u is fenced, %u operations are under way and the deadline is later",
			    i, n);
}

void x_props_granted(uint32_t i, uint32_t gen)
{
	struct lease_watch *w = &watches[i];
	uint64_t word = word_of(w->lease);

	if (pl_word_state(word) != PINLEASE_ACTIVE || pl_word_gen(word) != gen)
		sim_violate("I3", "a begin of lease %u is granted in %u, generation %u", i,
			    pl_word_state(word), pl_word_gen(word));
	w->under_way[gen % GENS]++;
}

void x_props_ended(uint32_t i, uint32_t gen)
{
	watches[i].under_way[gen % GENS]--;
}

void x_props_grant(uint32_t i, uint32_t gen, bool out)
{
	watches[i].under_way[gen % GENS] += out ? 1 : -1u;
}

static void watch_landed(struct sim_dma *dma)
{
	const struct x_write *w = pl_container(dma, struct x_write, dma);
	const struct lease_watch *l = &watches[w->lease];
	uint64_t word;

	/* One of an earlier lease, or one that is being released: its memory is there, or the judge knew. */
	if (!l->lease) {
		x_data_landed(w);
		return;
	}
	word = word_of(l->lease);
	/* A provider that refuses to deregister: LOST has said so. */
	if (pl_word_state(word) == PINLEASE_LOST && !l->lease->fenced)
		return;
	if (pl_word_gen(word) != w->gen || pl_word_state(word) > PINLEASE_FENCING)
		sim_violate("I3", "what generation %u of lease %u has begun lands in generation %u, state %u",
			    w->gen, w->lease, pl_word_gen(word), pl_word_state(word));
	x_data_landed(w);
}

/* I1 */

static const struct sim_ofd *ofd_of(uint32_t file)
{
	return x_world.file[file] ? sim_ofd_of(x_world.file[file]->fd) : NULL;
}

/* A reader's break that expired leaves a lease: who has written then, has written beside the reader. */
static bool is_gone(const struct lease_watch *w, const struct sim_ofd *ofd)
{
	return !ofd || ofd->lease == F_UNLCK ||
	       (ofd->downgraded && w->lease && pl_lease_writes_back(w->lease));
}

static bool lease_reached(const struct pinlease *lease)
{
	uintptr_t start = (uintptr_t)lease->map.addr, end = start + lease->range.len;
	const struct sim_mr *mr;
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.mrs) {
		mr = pl_container(pos, struct sim_mr, link);
		if ((uintptr_t)mr->mr.addr < end && (uintptr_t)mr->mr.addr + mr->mr.length > start)
			return true;
	}
	return false;
}

static void check_active(uint32_t i)
{
	struct lease_watch *w = &watches[i];

	w->old_rkey = w->rkey;
	w->rkey = w->lease->reg_count ? w->lease->regs[0].handle.rkey : 0;
	if (w->rkey && w->rkey == w->old_rkey)
		sim_violate("I1", "rkey %u of lease %u has survived a break", w->rkey, i);
	w->missing = -1;
	w->expired = false;
	x_data_active(i);
}

static void check_revoked(uint32_t i)
{
	struct lease_watch *w = &watches[i];
	bool gone;

	/* For a change of our own the guard is kept; stopped since it was asked for: nothing to be done. */
	if (!w->let_go) {
		gone = is_gone(w, ofd_of(x_plan.lease[i].file));
		w->missing = x_data_missing(i, gone);
		w->expired = gone && x_last_ask() >= files.continued;
	}
	if (lease_reached(w->lease))
		sim_violate("I1", "lease %u is REVOKED and still registered", i);
	if (w->missing >= 0)
		sim_violate("I4", "lease %u is REVOKED, and what was written to page %d is not in the file",
			    i, w->missing);
	if (w->expired)
		sim_violate("I4", "lease %u is REVOKED, and the kernel had let somebody on before", i);
}

/* A change of state, seen at the next step of whoever made it. */
static void lease_changed(uint32_t i, enum pinlease_state to)
{
	struct lease_watch *w = &watches[i];

	if (to == PINLEASE_ACTIVE) {
		x_result->restored++;
		sim_wake(&x_world.active, true);
		check_active(i);
	} else if (to == PINLEASE_BREAKING) {
		w->let_go = false;
		x_result->breaks++;
		sim_wake(&x_world.breaking, true);
	} else if (to == PINLEASE_FENCING) {
		sim_wake(&x_world.fencing, true);
		check_fencing(i);
	} else if (to == PINLEASE_REVOKED) {
		check_revoked(i);
	} else if (to == PINLEASE_LOST) {
		w->lost_gen = w->gen;
		x_result->lost++;
	}
}

static void lease_step(uint32_t i)
{
	struct lease_watch *w = &watches[i];
	uint64_t word = word_of(w->lease);
	enum pinlease_state from = w->state, to = pl_word_state(word);

	if (from == to && w->gen == pl_word_gen(word))
		return;
	/* The next generation's slots are made before the state says so. */
	if (to == from)
		return;
	w->gen = pl_word_gen(word);
	w->state = to;
	if (to == PINLEASE_ACTIVE)
		w->under_way[(w->gen + GENS / 2) % GENS] = 0;
	/* By hand: a sync that began before answers for the file as it is now. */
	if (to == PINLEASE_ACTIVE && from == PINLEASE_LOST)
		files.let_go[x_plan.lease[i].file]++;
	lease_changed(i, to);
}

/* I2, I6 */

static void file_step(uint32_t i)
{
	const struct sim_ofd *ofd = ofd_of(i);
	bool pending = ofd && (ofd->unlock_pending || ofd->downgrade_pending);

	if (!pending || x_world.file[i]->state != PL_FILE_HELD)
		files.pending_since[i] = 0;
	else if (!files.pending_since[i])
		files.pending_since[i] = sim.now;
	else if (!sim.stopped && sim.now > pl_max_u64(files.pending_since[i], files.continued) + NOTICED_NS)
		sim_violate("I2", "a break of file %u has been pending for %llu ms, and nobody knows", i,
			    (unsigned long long)((sim.now - files.pending_since[i]) / SIM_MS));
}

static uint64_t comer_limit(uint32_t file)
{
	uint64_t longest = 0;
	uint32_t i;

	for (i = 0; i < x_plan.leases; i++)
		if (x_plan.lease[i].file == file)
			longest = pl_max_u64(longest, x_plan.lease[i].deadline_ms);
	return longest * SIM_MS + NOTICED_NS + SLACK_NS + files.excused;
}

static void comer_step(const struct x_comer *c)
{
	uint64_t ns;

	if (!c->o || sim_opener_done(c->o) || sim.stopped)
		return;
	ns = sim_opener_ns(c->o);
	if (ns > comer_limit(c->file))
		sim_violate("I6", "an opener of file %u has been waiting for %llu ms", c->file,
			    (unsigned long long)(ns / SIM_MS));
}

void x_props_expired(const struct x_comer *c)
{
	x_result->expired++;
	if (files.excused < x_plan.break_time_s * SIM_S / 2)
		sim_violate("I6", "the kernel itself let an opener of file %u on", c->file);
}

/* When the application takes the guard itself, it decides when. */
void x_props_insisting(const struct x_comer *c, uint64_t since)
{
	uint64_t ns = sim.now - pl_max_u64(since, files.asked_for[c->file]);

	if (ns > comer_limit(c->file) + INSISTS_NS)
		sim_violate("I6", "an opener of file %u has been told to come back for %llu ms", c->file,
			    (unsigned long long)(ns / SIM_MS));
}

void x_props_asked_for(uint32_t i)
{
	files.asked_for[x_plan.lease[i].file] = sim.now;
	sim_wake(&x_world.active, true);
}

void x_props_excuse(uint64_t ns)
{
	files.excused = pl_add_sat(files.excused, ns);
}

void x_props_continued(void)
{
	files.continued = sim.now;
}

/* Steps */

void x_props_step(void)
{
	uint32_t i;

	for (i = 0; i < x_plan.leases; i++)
		if (watches[i].lease)
			lease_step(i);
	for (i = 0; i < x_plan.files; i++)
		file_step(i);
	for (i = 0; i < X_OPENERS; i++)
		comer_step(&x_comers[i]);
}

static bool lost_is_queued(const struct pinlease *lease)
{
	return lease->box.slot[PINLEASE_EV_LOST - 1].turn;
}

/* Nobody runs: what anybody was about to do is done. */
void x_props_idle(void)
{
	const struct lease_watch *w;
	uint32_t i;

	x_props_step();
	/* Stopped, it may be between the state and the event. */
	for (i = 0; i < x_plan.leases && !sim.stopped; i++) {
		w = &watches[i];
		if (w->lease && w->lost_gen && w->told_gen < w->lost_gen && !lost_is_queued(w->lease))
			sim_violate("I4", "lease %u was LOST in generation %u, and no event says so", i,
				    w->lost_gen);
	}
}

void x_props_event(uint32_t i, const struct pinlease_event *ev)
{
	if (ev->type != PINLEASE_EV_LOST)
		return;
	watches[i].told_gen = ev->gen;
	if (ev->gen == watches[i].gen)
		x_data_lost(i, ev->off, ev->len);
}

/* The guard is let go, and nobody has gone on yet: the last moment in which the file is as we left it. */
static void watch_let_go(struct sim_ofd *ofd)
{
	struct lease_watch *w;
	uint32_t i;

	for (i = 0; i < x_plan.leases; i++) {
		w = &watches[i];
		if ((!w->lease && !w->releasing) || !file_of(i) || ofd_of(x_plan.lease[i].file) != ofd)
			continue;
		files.let_go[x_plan.lease[i].file]++;
		/* Released, it is not in the file that another lease has taken since, and given up. */
		if ((x_world.killed && w->staged) || (w->releasing && w->let_go))
			continue;
		w->let_go = true;
		w->expired = is_gone(w, ofd);
		w->missing = -1;
		if (w->releasing || (w->state >= PINLEASE_ACTIVE && w->state <= PINLEASE_FENCING))
			w->missing = x_data_missing(i, w->expired);
		if (x_world.killed && w->missing >= 0)
			sim_violate("I4",
				    "killed, and what was written to page %d of lease %u is not in the file",
				    w->missing, i);
	}
}

void x_props_new_lease(uint32_t i, struct pinlease *lease)
{
	struct lease_watch *w = &watches[i];

	*w = (struct lease_watch){ .lease = lease, .missing = -1 };
	w->staged = lease->mode == PINLEASE_MODE_STAGED;
	x_data_new(i);
	w->gen = pl_word_gen(word_of(lease));
	w->state = pl_word_state(word_of(lease));
	/* Nobody has written through it yet; if it was broken meanwhile, it says so with the next break. */
	if (w->state <= PINLEASE_FENCING)
		check_active(i);
}

void x_props_release(uint32_t i)
{
	struct lease_watch *w = &watches[i];

	lease_step(i);
	w->releasing = w->state != PINLEASE_REVOKED && w->state != PINLEASE_LOST;
	/* For a break under way the guard may have been let go already, and the state comes after. */
	if (w->state == PINLEASE_ACTIVE) {
		w->let_go = false;
		w->missing = -1;
	}
	w->lease = NULL;
}

void x_props_released(uint32_t i, struct pinlease *lease, int r)
{
	const struct sim_ofd *ofd = ofd_of(x_plan.lease[i].file);
	struct lease_watch *w = &watches[i];

	/* Expired, the file is somebody else's, but what was written through it is to be missed. */
	if (!r && w->releasing && !w->let_go)
		w->missing = x_data_missing(i, !ofd || ofd->lease == F_UNLCK || ofd->downgraded);
	/* LOST meanwhile, and another thread has taken the event. */
	if (!r && w->releasing && w->missing >= 0 && w->told_gen != w->gen)
		sim_violate("I4", "lease %u is released, and what was written to page %d is not in the file",
			    i, w->missing);
	w->releasing = false;
	/* It keeps what could not be written, and says so. */
	if (r)
		w->lease = lease;
}

static bool watch_violated(const char *rule, const char *text)
{
	/* Stopped between the look at the clock and the write: nothing can be done about that. */
	if (strstr(text, "somebody else's by now") && x_last_look() < files.continued)
		return true;
	x_violated(rule, text);
}

/* A thread reads its own stores wherever they are, with memcpy, too. */
static void watch_step(const char *call)
{
	x_buffer_drain(x_fiber_buffer());
	x_point(call);
	if (!strcmp(call, "get_lease"))
		x_asked();
}

/* In a file that is ours. What is written late, when the kernel has let somebody on, the judge knows. */
static bool is_held(const struct sim_inode *inode)
{
	const struct sim_ofd *ofd;
	uint32_t i;

	for (i = 0; i < x_plan.files; i++) {
		ofd = ofd_of(i);
		if (ofd && ofd->inode == inode)
			return ofd->lease != F_UNLCK && !ofd->downgraded;
	}
	return false;
}

static void watch_wrote(struct sim_inode *inode, uint64_t off, uint64_t len)
{
	int page = x_data_older(inode, off, len);

	if (page >= 0 && is_held(inode))
		sim_violate("I4", "page %d is written, and what was there is newer", page);
	x_data_wrote(inode, off, len);
	x_data_reached(inode, off, len);
}

static void watch_synced(struct sim_inode *inode, bool done, int r)
{
	x_data_synced(inode, done, r);
}

void x_props_synced(uint32_t i, uint32_t let_go, const struct x_need need[X_PAGES])
{
	int page = x_data_not_durable(i, need);

	x_result->synced++;
	/* Changed by somebody else meanwhile: nothing to compare with. */
	if (files.let_go[x_plan.lease[i].file] == let_go && page >= 0)
		sim_violate("I5", "lease %u is synced, and page %d is not on the disk", i, page);
}

uint32_t x_props_let_go(uint32_t i)
{
	return files.let_go[x_plan.lease[i].file];
}

const struct sim_watcher x_watcher = {
	.step = watch_step,
	.wrote = watch_wrote,
	.synced = watch_synced,
	.let_go = watch_let_go,
	.landed = watch_landed,
	.violated = watch_violated,
};
