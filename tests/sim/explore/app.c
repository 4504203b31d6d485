/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The process: its main thread makes everything, does what the plan says and gives everything
 * back; writers have peers write through the leases, one takes the events. They keep to
 * the contract of pinlease.h, and to nothing more.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app.h"
#include "objects.h"

#define COMES_BACK_S 60

struct x_world x_world;

/* How many threads look at a lease: it is released when none does. */
static uint32_t users[X_LEASES];

struct pinlease *x_lease_use(uint32_t i)
{
	if (x_world.lease[i])
		users[i]++;
	return x_world.lease[i];
}

void x_lease_leave(uint32_t i)
{
	users[i]--;
	sim_wake(&users[i], true);
}

/* Made */

static void world_log(void *arg, int level, const char *msg)
{
	(void)arg;
	(void)level;
	x_log("    %s", msg);
}

static void world_files(void)
{
	struct pinlease_file_opts o = { .size = sizeof(o) };
	char name[16];
	uint32_t i;

	if (!x_plan.late_device)
		x_world.pd = sim_device(x_plan.odp);
	for (i = 0; i < x_plan.files; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		x_world.path[i] = sim_file(name, X_PAGES * SIM_PAGE);
		x_data_file(i);
		o.access = x_plan.access[i];
		if (pinlease_file_open(x_world.ctx, x_world.path[i], &o, NULL, &x_world.file[i]))
			sim_die("a file cannot be opened");
	}
	if (x_plan.late_device)
		x_world.pd = sim_device(x_plan.odp);
}

/* 0, or why not: by a break in the middle, or an opener who is in. */
static int lease_new(uint32_t i)
{
	const struct x_lease_plan *l = &x_plan.lease[i];
	struct pinlease_opts o = { .size = sizeof(o), .pd = x_world.pd, .mode = l->mode, .flags = l->flags };
	struct pinlease *lease = NULL;
	int r;

	o.access = l->access;
	o.ibv_access = IBV_ACCESS_REMOTE_READ;
	if (l->access == PINLEASE_WRITE)
		o.ibv_access |= IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_LOCAL_WRITE;
	o.deadline_ms = l->deadline_ms;
	o.user = (void *)(uintptr_t)(i + 1);
	x_props_asked_for(i);
	r = pinlease_acquire(x_world.file[l->file], l->page * SIM_PAGE, l->pages * SIM_PAGE, &o, NULL,
			     &lease);
	if (r)
		return r;
	x_props_new_lease(i, lease);
	x_world.lease[i] = lease;
	return 0;
}

/* Released again if it keeps what it could not write: the second time drops it. */
static void lease_end(uint32_t i)
{
	struct pinlease *lease = x_world.lease[i];
	int r;

	if (!lease)
		return;
	x_world.lease[i] = NULL;
	while (users[i])
		sim_wait(&users[i], SIM_NEVER);
	x_peer_end(i);
	do {
		x_props_release(i);
		r = pinlease_release(lease);
		x_props_released(i, lease, r);
		if (r)
			x_sleep(10000);
	} while (r);
}

static void lease_restore(uint32_t i, struct pinlease *lease)
{
	x_props_asked_for(i);
	/* A break under way is waited for, and then the guard taken from whoever insists. */
	if (!pinlease_restore(lease, NULL))
		x_props_asked_for(i);
}

/* What the main thread does */

static void lease_sync(uint32_t i, struct pinlease *lease)
{
	uint32_t let_go = x_props_let_go(i);
	struct x_need need[X_PAGES];

	x_data_sync_begin(i, need);
	if (!pinlease_sync(lease, 0, 0, 0) && x_plan.lease[i].access == PINLEASE_WRITE)
		x_props_synced(i, let_go, need);
}

static void main_save(uint32_t i)
{
	int fd = pl_sys_scratch(X_PAGES * SIM_PAGE, 0);

	pinlease_save(x_world.lease[i], fd);
	pl_sys_close(fd);
}

/* Work of n steps. */
static void steps(uint32_t n)
{
	while (n--)
		x_point("works");
}

/* Some when a break has begun, or is about to be written back. */
static void main_anew(const struct x_op *op)
{
	if (op->b % 2) {
		sim_wait(op->b / 128 % 2 ? &x_world.breaking : &x_world.fencing, sim.now + SIM_S);
		steps(op->b / 2 % 64);
	}
	lease_end(op->a);
	while (lease_new(op->a) == -EAGAIN && !x_world.stop)
		x_sleep(20000);
}

static void main_change(const struct x_op *op)
{
	uint32_t file = x_plan.lease[op->a].file, page = op->b % X_PAGES;
	int r;

	x_data_change(file, op->kind == X_PUNCH ? page : page + 1, op->kind == X_PUNCH ? page + 1 : X_PAGES);
	if (op->kind == X_PUNCH)
		r = pinlease_file_allocate(x_world.file[file], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					   page * SIM_PAGE, SIM_PAGE);
	else
		r = pinlease_file_truncate(x_world.file[file], (page + 1) * SIM_PAGE);
	x_data_changed(file, !r);
}

static void main_once(const struct x_op *op)
{
	struct pinlease *lease = x_world.lease[op->a];
	uint32_t index;

	if (op->kind == X_TRUNCATE || op->kind == X_PUNCH)
		main_change(op);
	else if (op->kind == X_FORK)
		x_fork();
	else if (op->kind == X_ANEW)
		main_anew(op);
	if (!lease || lease != x_world.lease[op->a])
		return;
	if (op->kind == X_SYNC)
		lease_sync(op->a, lease);
	else if (op->kind == X_RESTORE)
		lease_restore(op->a, lease);
	else if (op->kind == X_MR_ADD)
		pinlease_mr_add(lease, x_world.pd, IBV_ACCESS_REMOTE_READ, &index);
	else if (op->kind == X_SAVE)
		main_save(op->a);
	else if (op->kind == X_GRANT)
		x_peer_new(op->a);
}

/* Writers */

static void write_wait(struct x_write *w)
{
	if (sim_dma_wait(&w->dma) == SIM_DMA_LANDED)
		x_result->landed++;
	else
		x_result->cut++;
}

/* One write by the peer; alone: the application does not wait for it. */
static struct x_write *write_post(uint32_t i, struct pinlease *lease, uint32_t gen, uint32_t b, bool alone)
{
	struct pinlease_view view = { .size = sizeof(view) };
	const struct x_lease_plan *l = &x_plan.lease[i];
	uint64_t delay = b % 5 ? b % 3000 * 1000ull : b % 600 * SIM_MS;
	uint32_t page = b % l->pages;
	struct x_write *w;

	if (l->access != PINLEASE_WRITE || pinlease_view_get(lease, 0, &view))
		return NULL;
	if ((!alone && view.gen != gen) || view.len < (page + 1) * SIM_PAGE)
		return NULL;
	if (l->flags & PINLEASE_L_DIRTY_TOLD)
		pinlease_mark_dirty(lease, page * SIM_PAGE, SIM_PAGE);
	/* A peer that has the key needs nobody's leave: at any moment, in the middle of a break, too. */
	if (alone && b / 8 % 2) {
		sim_wait(&x_world.breaking, sim.now + SIM_S);
		steps(b / 16 % 128);
		delay = 0;
	}
	w = calloc(1, sizeof(*w));
	if (!w)
		sim_die("out of memory");
	x_write_start(w, i, page, &view, delay);
	return w;
}

/* False: refused. */
static bool write_counted(uint32_t i, struct pinlease *lease, const struct x_op *op)
{
	struct x_write *w = NULL;
	uint32_t gen;

	if (pinlease_dma_begin(lease, 1, &gen)) {
		x_result->refused++;
		return false;
	}
	x_props_granted(i, gen);
	if (op->kind != X_BURST)
		w = write_post(i, lease, gen, op->b, false);
	else
		steps(op->b % 64);
	if (w)
		write_wait(w);
	/* Some applications end much later than the message does. */
	if (op->kind == X_HOLD)
		x_sleep(op->b % 8 ? op->b % 700 * 1000 : 3000 * 1000);
	x_props_ended(i, gen);
	pinlease_dma_end(lease, 1, gen);
	return true;
}

/* One after the other until a break comes in between; then again, once it is restored. */
static void write_burst(uint32_t i, struct pinlease *lease, const struct x_op *op)
{
	uint32_t n;

	for (n = 0; n < 30 && !x_world.stop; n++)
		if (!write_counted(i, lease, op))
			sim_wait(&x_world.active, sim.now + 50 * SIM_MS);
}

static void writer_once(const struct x_op *op)
{
	struct pinlease *lease = x_lease_use(op->a);

	if (!lease)
		return;
	if (op->kind == X_SYNC) {
		lease_sync(op->a, lease);
	} else if (op->kind == X_BURST) {
		write_burst(op->a, lease, op);
	} else if (op->kind == X_BARE) {
		if (!(x_plan.lease[op->a].flags & PINLEASE_L_DIRTY_TOLD))
			write_post(op->a, lease, 0, op->b, true);
	} else {
		write_counted(op->a, lease, op);
	}
	x_lease_leave(op->a);
}

static void *writer(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg, at = 0;
	struct x_op *op;

	while ((op = x_next_op(X_WRITER + me, &at)))
		writer_once(op);
	return NULL;
}

/* Events */

static void event_once(struct pinlease_event *ev, struct x_dice *d)
{
	uint32_t i = (uint32_t)(uintptr_t)ev->user - 1;
	struct pinlease *lease;

	x_props_event(i, ev);
	lease = x_lease_use(i);
	if (!lease)
		return;
	x_peer_event(i, ev);
	if (ev->type == PINLEASE_EV_BREAK && x_roll(d, 4)) {
		if (!x_roll(d, 4))
			x_sleep(x_roll(d, 300) * 1000);
		pinlease_ack(lease, ev->gen);
	}
	if ((ev->type == PINLEASE_EV_LOST || ev->type == PINLEASE_EV_RESTORE_FAILED) && !x_roll(d, 3))
		lease_restore(i, lease);
	x_lease_leave(i);
}

static void *events(void *arg)
{
	struct x_dice d = { .state = x_plan.seed * 5 + 1 };
	struct pinlease_event ev = { .size = sizeof(ev) };

	(void)arg;
	while (!x_world.over) {
		if (pinlease_ctx_next_event(x_world.ctx, &ev) == 1)
			event_once(&ev, &d);
		else
			sim_wait(&sim.fd_kind[pinlease_ctx_fd(x_world.ctx)], SIM_NEVER);
	}
	return NULL;
}

/* From the first call to the last */

struct started {
	struct sim_thread *thread[X_ACTORS + 4];
	uint32_t count;
};

static void start(struct started *s, const char *name, bool outside, void *(*fn)(void *arg), uint32_t arg)
{
	char text[24];

	snprintf(text, sizeof(text), "%s%u", name, arg);
	s->thread[s->count++] = (struct sim_thread *)x_fiber_new(text, outside, fn, (void *)(uintptr_t)arg);
}

static void join_all(struct started *s)
{
	while (s->count)
		sim_thread_join(s->thread[--s->count]);
}

static void world_runs(void)
{
	struct started come = { .count = 0 }, stay = { .count = 0 };
	struct x_op *op;
	uint32_t i, at = 0;

	start(&stay, "events", false, events, 0);
	start(&stay, "device", true, x_device, 0);
	for (i = 0; i < x_plan.writers; i++)
		start(&come, "writer", false, writer, i);
	for (i = 0; i < x_plan.openers; i++)
		start(&come, "opener", true, x_opener, i);
	start(&come, "trouble", true, x_trouble, 0);
	while ((op = x_next_op(X_MAIN, &at)))
		main_once(op);
	join_all(&come);
	x_world.stop = true;
	sim_clear();
	sim_signal_room(1000);
	/* What wants to come back does, what was asked for is answered. */
	x_sleep(2500 * 1000);
	x_world.over = true;
	sim_wake(&x_world.writes, true);
	sim_wake(&sim.fd_kind[pinlease_ctx_fd(x_world.ctx)], true);
	join_all(&stay);
}

static void drain_events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(x_world.ctx, &ev) == 1)
		x_props_event((uint32_t)(uintptr_t)ev.user - 1, &ev);
}

static bool is_back(uint32_t i)
{
	struct pinlease *lease = x_world.lease[i];
	enum pinlease_state state;

	if (!lease || x_plan.lease[i].flags & PINLEASE_L_MANUAL || lease->gave_up)
		return true;
	state = pl_account_state(&lease->account);
	return state == PINLEASE_ACTIVE || state == PINLEASE_LOST;
}

/*
 * Nobody is in the way any more, and nothing fails: what comes back by itself does, or says why not.
 * A disk that was slow before is slow still, and a file that was taken often waits for a second.
 */
static void all_come_back(void)
{
	uint32_t i, seconds = 0;

	for (i = 0; i < x_plan.leases; i++)
		for (; !is_back(i); seconds++) {
			if (seconds == COMES_BACK_S)
				sim_violate("I6", "lease %u does not come back, and nobody is there", i);
			x_sleep(1000 * 1000);
		}
}

static void file_end(uint32_t i)
{
	struct pinlease_file *file = x_world.file[i];

	/* Nobody looks at it any more. */
	x_world.file[i] = NULL;
	if (pinlease_file_close(file))
		sim_die("a file without leases cannot be closed");
}

void *x_main(void *arg)
{
	struct pinlease_ctx_opts o = { .size = sizeof(o), .log = x_trace ? world_log : NULL };
	uint32_t i;

	(void)arg;
	sim_begin();
	sim.watcher = &x_watcher;
	sim_file_system(x_plan.fs);
	sim_break_time(x_plan.break_time_s);
	if (pinlease_ctx_new(&o, &x_world.ctx))
		sim_die("no ctx");
	world_files();
	for (i = 0; i < x_plan.leases; i++)
		if (lease_new(i))
			sim_die("lease %u cannot be had", i);
	world_runs();
	drain_events();
	x_props_idle();
	all_come_back();
	for (i = 0; i < x_plan.leases; i++)
		lease_end(i);
	for (i = 0; i < x_plan.files; i++)
		file_end(i);
	if (pinlease_ctx_free(x_world.ctx))
		sim_die("a ctx without files cannot be freed");
	/* The account keeps what it has made for this thread. */
	sim.base.allocs = sim.counts.allocs;
	sim_check();
	x_run_over();
}
