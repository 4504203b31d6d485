/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The owners: each leases a file after the other, with one lease or two of it in any mode, has
 * its device write into them until a random moment, and answers breaks as a good application or
 * a bad one. It may be killed or stopped anywhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soak_owner.h"

#define SESSION_MS 600u
#define STEP_US	   800u
#define SLEEPER	   "/bin/sleep"

extern char **environ;

/* Writes */

static bool take(struct owner *o, unsigned int ms)
{
	struct device_done done;
	struct write *w;

	if (!device_next(o->device, ms, &done))
		return false;
	w = &o->write[done.request];
	if (done.ok)
		soak_max(&o->f->block[w->block].acked, w->seq);
	o->unsaved |= done.ok;
	soak_count(done.ok ? &soak->n.writes : &soak->n.cut_off, 1);
	o->busy[w->block] = false;
	w->lease = NULL;
	return true;
}

void take_all(struct owner *o)
{
	uint64_t until = kt_now() + SOAK_WAIT_NS;

	for (unsigned int i = 0; i < SOAK_DEPTH; i++)
		while (o->write[i].lease && kt_now() < until)
			take(o, 10);
	if (kt_now() >= until)
		soak_report(o->f, "owner %u: a write never completed", o->number);
}

static uint32_t generation(struct owner *o, const struct leased *l)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };
	int r = pinlease_lease_info(l->lease, &info);

	if (r)
		soak_report(o->f, "lease_info: %s", strerror(-r));
	return info.gen;
}

static void write_one(struct owner *o, struct leased *l)
{
	unsigned int within = soak_roll(&o->seed, atomic_load(&l->slot->count)), i = 0;
	unsigned int block = atomic_load(&l->slot->first) + within;
	uint64_t seq;
	uint32_t gen;
	int r;

	while (i < SOAK_DEPTH && o->write[i].lease)
		i++;
	if (i == SOAK_DEPTH || o->busy[block])
		return;
	gen = generation(o, l);
	seq = judge_draw(o->f, block);
	judge_posting(o->f, block, seq);
	judge_stamp(o->f, block, seq, device_source(o->device, i));
	r = device_write(o->device, l->lease, i, within * SOAK_BLOCK, l->uncounted);
	judge_posted(o->f, block, seq, !r && generation(o, l) != gen);
	if (!r) {
		o->write[i] = (struct write){ .lease = l->lease, .block = block, .seq = seq };
		o->busy[block] = true;
	} else if (r != -EAGAIN && r != -ESTALE && r != -ERANGE && r != -EBUSY) {
		soak_report(o->f, "owner %u: write: %s", o->number, strerror(-r));
	}
}

/* What an owner does beside */

static void sync_lease(struct owner *o, struct leased *l)
{
	uint32_t first = atomic_load(&l->slot->first), count = atomic_load(&l->slot->count), i;
	uint64_t acked[SOAK_BLOCKS];

	for (i = 0; i < count; i++)
		acked[i] = atomic_load(&o->f->block[first + i].acked);
	if (pinlease_sync(l->lease, 0, 0, 0))
		return;
	o->unsaved = false;
	for (i = 0; i < count; i++)
		soak_max(&o->f->block[first + i].settled, acked[i]);
	soak_count(&soak->n.syncs, 1);
}

/*
 * A revoked lease holds off nobody, and then the owner is a process like others, which may change
 * a file beside an opener: not beside one who watches that it stands still. It must not wait
 * for that one either, who may be waiting for what it publishes.
 */
static void punch(struct owner *o)
{
	unsigned int block = soak_roll(&o->seed, soak->blocks);
	uint64_t seq;
	int r;

	if (!judge_try_lock(o->f))
		return;
	take_all(o);
	seq = judge_draw(o->f, block);
	atomic_store(&o->f->block[block].zero, seq);
	r = pinlease_file_allocate(o->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block * SOAK_BLOCK,
				   SOAK_BLOCK);
	judge_unlock(o->f);
	if (!r)
		soak_max(&o->f->block[block].acked, seq);
	soak_count(&soak->n.changes, !r);
}

static void make_child(struct owner *o)
{
	char name[] = SLEEPER, how_long[] = "0.1", *argv[] = { name, how_long, NULL };
	unsigned int what = soak_roll(&o->seed, 4), us = soak_roll(&o->seed, 200000);
	pid_t pid;

	if (what == 3) {
		posix_spawn(&pid, SLEEPER, NULL, NULL, argv, environ);
	} else {
		pid = what == 2 ? vfork() : fork();
		if (!pid && what)
			_exit(execv(SLEEPER, argv));
		if (!pid) {
			usleep(us);
			_exit(0);
		}
	}
	soak_count(&soak->n.forks, 1);
}

static bool all_staged(const struct owner *o)
{
	for (unsigned int i = 0; i < SOAK_SLOTS; i++)
		if (o->leased[i].lease && atomic_load(&o->leased[i].slot->mode) != PINLEASE_MODE_STAGED)
			return false;
	return true;
}

/*
 * For longer than lease-break-time: only where the table promises that nothing is written late,
 * and when there is something to lose.
 */
static void maybe_stop(struct owner *o)
{
	if (!atomic_load(&o->mine->stop_wanted) || !o->unsaved || !all_staged(o))
		return;
	atomic_store(&o->mine->stopped, true);
	atomic_store(&o->mine->stop_wanted, false);
	raise(SIGSTOP);
	o->until = kt_now() + SESSION_MS * soak->slow * SOAK_MS;
}

static void restore(struct owner *o, struct leased *l)
{
	char path[KT_PATH_MAX + 16];
	int fd, r;

	if (l->lost_told && chance(o, 2)) {
		snprintf(path, sizeof(path), "%s.saved%u", o->f->path, o->number);
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		r = pinlease_save(l->lease, fd);
		/* A restore that failed has dropped it. */
		if (r && r != -ENODATA)
			soak_report(o->f, "save: %s", strerror(-r));
		close(fd);
	}
	if (pinlease_restore(l->lease, NULL))
		kt_sleep_ms(1);
}

static void step(struct owner *o, struct leased *l)
{
	uint32_t state = atomic_load(&l->slot->state);

	if (state == SLOT_LOST || (state == SLOT_REVOKED && (l->flags & PINLEASE_L_MANUAL)))
		restore(o, l);
	else if (chance(o, 300))
		sync_lease(o, l);
	else if (chance(o, 300))
		punch(o);
	else if (chance(o, 600))
		make_child(o);
	else if (chance(o, 4))
		usleep(soak_roll(&o->seed, STEP_US));
	else if (chance(o, 3))
		take(o, 1);
	else
		write_one(o, l);
}

/* Sessions */

static bool acquire(struct owner *o, struct leased *l, unsigned int first, unsigned int count)
{
	static const uint32_t modes[] = { PINLEASE_MODE_AUTO, PINLEASE_MODE_STAGED, PINLEASE_MODE_PINNED };
	struct pinlease_opts opts = { .size = sizeof(opts) };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_why why = { .reason = 0 };
	int r;

	opts.mode = modes[soak_roll(&o->seed, o->f->tmpfs ? 3 : 2)];
	opts.flags = (chance(o, 3) ? PINLEASE_L_DIRTY_TOLD : 0) | (chance(o, 4) ? PINLEASE_L_ACK : 0) |
		     (chance(o, 4) ? PINLEASE_L_MANUAL : 0);
	opts.deadline_ms = 50 + soak_roll(&o->seed, 800);
	device_opts(o->device, &opts);
	r = pinlease_acquire(o->file, first * SOAK_BLOCK, count * SOAK_BLOCK, &opts, &why, &l->lease);
	if (r) {
		l->lease = NULL;
		soak_count(&soak->n.refused, 1);
		if (r != -EAGAIN && r != -EFBIG && why.reason != PINLEASE_WHY_RANGE)
			soak_report(o->f, "acquire: %s: %s", strerror(-r), pinlease_reason_str(why.reason));
		return false;
	}
	pinlease_lease_info(l->lease, &info);
	l->flags = opts.flags;
	l->uncounted = soak->rdma && !(opts.flags & PINLEASE_L_DIRTY_TOLD) && chance(o, 2);
	l->lost_told = l->settled = false;
	atomic_store(&l->slot->first, first);
	atomic_store(&l->slot->count, count);
	atomic_store(&l->slot->mode, info.mode);
	atomic_store(&l->slot->missing, 0);
	atomic_store(&l->slot->state, SLOT_HELD);
	soak_count(&soak->n.leases, 1);
	soak_count(&soak->n.pinned, info.mode == PINLEASE_MODE_PINNED);
	return true;
}

/* What could not be written back is kept, and said by the answer: a second time drops it. */
static void release(struct owner *o, struct leased *l)
{
	int r;

	while ((r = pinlease_release(l->lease))) {
		if (r == -EBUSY || l->settled) {
			soak_report(o->f, "release: %s", strerror(-r));
			break;
		}
		l->lost_told = true;
		soak_count(&soak->n.lost, 1);
		hear(o);
		settle(o);
	}
	l->lease = NULL;
	atomic_store(&l->slot->state, SLOT_NONE);
}

static void use(struct owner *o)
{
	unsigned int half = 1 + soak_roll(&o->seed, soak->blocks - 1), i;
	bool any;

	o->unsaved = false;
	any = acquire(o, &o->leased[0], 0, half);
	any |= chance(o, 2) && acquire(o, &o->leased[1], half, soak->blocks - half);
	o->until = kt_now() + (1 + soak_roll(&o->seed, SESSION_MS * soak->slow)) * SOAK_MS;
	while (any && kt_now() < o->until) {
		struct leased *l = &o->leased[soak_roll(&o->seed, SOAK_SLOTS)];

		hear(o);
		settle(o);
		maybe_stop(o);
		if (l->lease)
			step(o, l);
	}
	take_all(o);
	for (i = 0; i < SOAK_SLOTS; i++)
		if (o->leased[i].lease)
			release(o, &o->leased[i]);
}

static void session(struct owner *o)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts) };
	struct pinlease_why why = { .reason = 0 };
	int nobody = -1, r;

	o->f = &soak->file[soak_roll(&o->seed, SOAK_FILES)];
	if (!atomic_compare_exchange_strong(&o->f->owner, &nobody, (int)o->number))
		return;
	opts.guard = o->f->planted ? PINLEASE_GUARD_NONE : PINLEASE_GUARD_AUTO;
	for (unsigned int i = 0; i < SOAK_SLOTS; i++)
		o->leased[i] = (struct leased){ .slot = &o->f->slot[i] };
	r = pinlease_file_open(o->ctx, o->f->path, &opts, &why, &o->file);
	if (!r) {
		use(o);
		r = pinlease_file_close(o->file);
	}
	soak_count(&soak->n.refused, r == -EAGAIN);
	if (r && r != -EAGAIN)
		soak_report(o->f, "file: %s: %s", strerror(-r), pinlease_reason_str(why.reason));
	atomic_store(&o->f->owner, -1);
}

int owner_main(const void *arg)
{
	const struct soak_arg *a = arg;
	static struct owner o;
	int r;

	soak = a->soak;
	o.number = a->number;
	o.mine = &soak->owner[o.number];
	o.seed = soak->seed + 104729u * o.number + (unsigned int)kt_now();
	signal(SIGCHLD, SIG_IGN);
	r = pinlease_ctx_new(NULL, &o.ctx);
	if (r) {
		soak_report(NULL, "ctx_new: %s", strerror(-r));
		return r;
	}
	o.device = device_open();
	if (!o.device)
		return -EIO;
	while (!atomic_load(&soak->stop)) {
		session(&o);
		weigh(o.mine);
		usleep(soak_roll(&o.seed, 2000));
	}
	device_close(o.device);
	r = pinlease_ctx_free(o.ctx);
	if (r)
		soak_report(NULL, "ctx_free: %s", strerror(-r));
	if (leaks())
		soak_report(NULL, "owner %u leaks", o.number);
	return r;
}
