/* SPDX-License-Identifier: BSD-3-Clause */
/* What is no thread of the process: openers, the device that lands what peers have sent, and trouble. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "explore.h"
#include "outside.h"

#include "../sim_verbs.h"

struct x_comer x_comers[X_OPENERS];

struct x_op *x_next_op(uint32_t actor, uint32_t *at)
{
	struct x_op *op;

	while (*at < x_plan.ops) {
		op = &x_plan.op[(*at)++];
		if (op->actor != actor || op->off)
			continue;
		x_sleep(op->pause_us);
		x_result->count[op->kind]++;
		return op;
	}
	return NULL;
}

/* Openers */

/* In, for some time; who may write does, beside whatever else happens. */
static void comer_inside(struct x_comer *c, int flags, uint32_t hold_us)
{
	uint64_t value;
	int fd;

	if ((flags & O_ACCMODE) != O_RDONLY) {
		fd = open(x_world.path[c->file], O_WRONLY | O_CLOEXEC);
		value = x_data_value(c->file, 0);
		if (fd < 0 || pwrite(fd, &value, sizeof(value), 0) != sizeof(value))
			sim_die("an opener cannot write: %d", errno);
		close(fd);
		x_data_wrote(sim_inode_of(x_world.path[c->file]), 0, SIM_PAGE);
	}
	x_sleep(hold_us);
}

static void comer_wait(struct x_comer *c, uint64_t until)
{
	while (!sim_opener_done(c->o) && sim.now < until)
		sim_wait(c->o, until);
	if (sim_opener_expired(c->o))
		x_props_expired(c);
}

static void comer_leaves(struct x_comer *c)
{
	sim_opener_end(c->o);
	c->o = NULL;
}

/* One that is told to come back later, and does; it must get in. */
static void comer_insists(struct x_comer *c, int flags)
{
	uint64_t since = sim.now;

	for (;;) {
		c->o = sim_open(x_world.path[c->file], flags | O_NONBLOCK);
		if (!sim_opener_ret(c->o)) {
			comer_inside(c, flags, 0);
			comer_leaves(c);
			return;
		}
		comer_leaves(c);
		x_props_insisting(c, since);
		x_sleep(4000);
	}
}

static void comer_opens(struct x_comer *c, const struct x_op *op)
{
	static const int flags[] = { O_RDONLY, O_RDWR, O_WRONLY, O_RDWR };
	uint32_t how = op->b % 64, hold = op->b / 64 % 8 ? 0 : op->b % 30000, i;

	c->file = op->a;
	/* Most come when there is something to break, at any step from then on. */
	if (op->b % 5)
		sim_wait(&x_world.active, sim.now + SIM_S);
	for (i = op->b / 7 % 128; i > 0 && op->b % 5; i--)
		x_point("comes");
	if (how < 12) {
		comer_insists(c, flags[how % 4]);
		return;
	}
	c->o = op->kind == X_CUT ? sim_truncate(x_world.path[c->file], (1 + op->b % X_PAGES) * SIM_PAGE)
				 : sim_open(x_world.path[c->file], flags[how % 4]);
	/* Killed while it waits, one of eight. */
	comer_wait(c, how >= 56 ? sim.now + hold * 1000ull : SIM_NEVER);
	if (sim_opener_done(c->o) && op->kind == X_OPEN)
		comer_inside(c, flags[how % 4], hold);
	comer_leaves(c);
}

void *x_opener(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg, at = 0;
	struct x_op *op;

	while ((op = x_next_op(X_OPENER + me, &at)))
		comer_opens(&x_comers[me], op);
	x_world.openers_left--;
	sim_wake(&x_world.openers_left, true);
	return NULL;
}

/* The device */

static struct x_write *device_next(uint64_t *due)
{
	struct x_write *w, *next = NULL;

	*due = SIM_NEVER;
	for (w = x_world.writes; w; w = w->next) {
		if (w->dma.state != SIM_DMA_PENDING || w->due > *due)
			continue;
		next = w;
		*due = w->due;
	}
	return next;
}

/* Values grow in the order of landing: what is newer can be told. */
static void device_land(struct x_write *w)
{
	const struct sim_mr *mr = sim_mr_find(w->dma.rkey);

	/* On-demand paging: the first packet to a page only makes the device ask for it. */
	if (mr && (mr->access & IBV_ACCESS_ON_DEMAND) && !w->faulted) {
		w->faulted = true;
		w->due = sim.now + 30000;
		return;
	}
	w->value = x_data_value(x_plan.lease[w->lease].file, w->page);
	w->dma.due = sim.now;
	sim_dma_fire();
}

void *x_device(void *arg)
{
	struct x_write *w;
	uint64_t due;

	(void)arg;
	while (!x_world.over) {
		w = device_next(&due);
		if (!w || due > sim.now) {
			sim_wait(&x_world.writes, due);
			continue;
		}
		x_point("device");
		if (w->dma.state == SIM_DMA_PENDING)
			device_land(w);
	}
	return NULL;
}

/* The caller's until it is not pending, but for those that nobody waits for: never freed. */
void x_write_start(struct x_write *w, uint32_t lease, uint32_t page, const struct pinlease_view *view,
		   uint64_t delay)
{
	w->lease = lease;
	w->page = page;
	w->gen = view->gen;
	w->faulted = false;
	w->due = sim.now + delay;
	w->dma = (struct sim_dma){ .rkey = view->rkey,
				   .iova = view->iova + page * SIM_PAGE,
				   .data = &w->value };
	w->dma.len = sizeof(w->value);
	w->next = x_world.writes;
	x_world.writes = w;
	/* Ringing the doorbell is a store behind all others. */
	x_buffer_drain(x_fiber_buffer());
	sim_dma_post(&w->dma, SIM_NEVER / 2);
	sim_wake(&x_world.writes, true);
}

/* Trouble */

static void trouble_stop(uint32_t b)
{
	uint64_t us = b % 4 ? b % 400000 : (x_plan.break_time_s + 1) * 1000000ull;

	x_props_excuse(us * 1000);
	sim_stop();
	x_sleep(us);
	x_props_continued();
	sim_continue();
}

static void trouble_disk(uint32_t b)
{
	static const char *const calls[] = { "datasync", "pwrite", "pwrite", "dereg_mr" };
	uint64_t ms = b % 5 ? b % 60 : x_plan.break_time_s * (700ull + b % 600);

	x_props_excuse((x_plan.break_time_s + 1) * SIM_S);
	sim_slow(calls[b / 64 % 4], ms * SIM_MS);
}

static void trouble_once(const struct x_op *op)
{
	switch (op->kind) {
	case X_STOP:
		trouble_stop(op->b);
		break;
	case X_SIGNALS:
		sim_signal_room(op->b % 3);
		break;
	case X_DISK:
		trouble_disk(op->b);
		break;
	case X_DEREG:
		x_props_excuse(op->b % 40 ? 300 * SIM_MS : (x_plan.break_time_s + 1) * SIM_S);
		sim_fail("dereg_mr", 1 + op->b % 3, -EBUSY, op->b % 40 ? 1 + op->b % 4 : 2000);
		break;
	case X_SYNC_ERROR:
		sim_fail("datasync", 1, -EIO, 1);
		break;
	case X_WRITE_ERROR:
		sim_fail("pwrite", 1 + op->b % 3, -ENOSPC, 1 + op->b / 8 % 4);
		break;
	case X_STALE:
		sim_signal_process(SIGRTMAX - 2, (int)(op->b % 20));
		break;
	case X_HEAL:
		sim_clear();
		sim_signal_room(1000);
		break;
	case X_KILL:
		x_sleep(op->b % 2 ? 0 : op->b % 200000);
		x_kill();
	default:
		break;
	}
}

void *x_trouble(void *arg)
{
	struct x_op *op;
	uint32_t at = 0;

	(void)arg;
	while ((op = x_next_op(X_TROUBLE, &at)))
		trouble_once(op);
	return NULL;
}
