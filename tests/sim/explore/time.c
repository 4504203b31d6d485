/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Time, waiting, and the threads of sys.h, in the place of sim_clock.c: the clock moves when
 * nobody can run, to what is due next, and a microsecond with each reading. One thing that
 * is due at a moment is as good as another one to come first: the threads that wake up
 * together run in any order, but kernel and device come before them.
 */
#include <errno.h>
#include <stdlib.h>

#include "explore.h"

#define TICK	   1000ull
#define TIME_LIMIT (3600 * SIM_S)

int __wrap_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond);

static void (*fork_handlers[3])(void);

bool sim_thread_stopped(const struct sim_thread *t)
{
	return sim.stopped && !x_fiber_outside(t);
}

void sim_thread_awake(struct sim_thread *t)
{
	t->awake = true;
}

static void clock_fire(void)
{
	struct pl_list *pos;
	struct sim_thread *t;

	sim_opener_fire();
	sim_dma_fire();
	pl_list_for_each (pos, &sim.threads) {
		t = pl_container(pos, struct sim_thread, link);
		if (t->waiting && t->until <= sim.now)
			t->awake = true;
	}
}

bool x_clock_advance(void)
{
	uint64_t next;

	x_props_idle();
	next = sim_thread_next();
	if (next == SIM_NEVER || next > sim.started + TIME_LIMIT)
		return false;
	sim.now = pl_max_u64(sim.now, next);
	clock_fire();
	return true;
}

/* What blocks in the kernel has its stores seen: the processor runs something else meanwhile. */
int sim_wait(const void *on, uint64_t until)
{
	struct sim_thread *t = sim_self;
	bool in_time;

	t->on = on;
	t->until = until;
	t->since = ++sim.waits;
	t->awake = until <= sim.now;
	t->waiting = true;
	x_buffer_drain(x_fiber_buffer());
	x_switch();
	t->waiting = false;
	in_time = !t->on;
	t->on = NULL;
	return in_time ? 0 : -ETIMEDOUT;
}

uint64_t sim_now(void)
{
	return sim.now;
}

void sim_sleep(uint64_t ns)
{
	sim_wait(sim_self, sim.now + ns);
}

void x_sleep(uint64_t us)
{
	x_point("sleeps");
	if (us)
		sim_sleep(us * 1000);
}

void sim_settle(void)
{
}

bool sim_until(bool (*fn)(void *arg), void *arg, uint64_t ns)
{
	uint64_t until = sim.now + ns;

	while (!fn(arg)) {
		if (sim.now >= until)
			return false;
		sim_sleep(SIM_MS);
	}
	return true;
}

void sim_stop(void)
{
	sim.stopped = sim_self;
}

void sim_continue(void)
{
	sim.stopped = NULL;
	clock_fire();
}

/* The first thread is there already. */
void sim_attach_main(void)
{
}

void sim_clock_reset(void)
{
	sim.now = sim.started = 1000 * SIM_S;
}

void sim_thread_join(struct sim_thread *t)
{
	while (!t->exited)
		sim_wait(t, SIM_NEVER);
	pl_list_del(&t->link);
	sim.signals_pending -= t->signals->count;
	sim.counts.threads--;
}

struct sim_thread *sim_thread_start(void *(*fn)(void *arg), void *arg)
{
	return (struct sim_thread *)x_fiber_new("test", false, fn, arg);
}

/* sys.h */

uint64_t pl_sys_now(void)
{
	sim.now += TICK;
	clock_fire();
	x_looked();
	return sim.now;
}

int pl_sys_thread_new(void *(*fn)(void *), void *arg, const char *name, pthread_t *out)
{
	int r = sim_enter("thread_new", SIM_MEMORY | SIM_STEP);
	struct x_fiber *f;

	if (r)
		return -EAGAIN;
	f = x_fiber_new(name + sizeof("pinlease-") - 1, false, fn, arg);
	((struct sim_thread *)f)->ours = false;
	*out = ((struct sim_thread *)f)->pthread;
	return 0;
}

void pl_sys_thread_join(pthread_t thread)
{
	sim_thread_join((struct sim_thread *)(uintptr_t)thread);
}

pid_t pl_sys_thread_id(void)
{
	return sim_self->tid;
}

int pl_sys_cond_init(pthread_cond_t *cond)
{
	int r = sim_enter("cond_init", SIM_MEMORY | SIM_STEP);

	return r ? r : -pthread_cond_init(cond, NULL);
}

int pl_sys_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns)
{
	int r = -ETIMEDOUT;

	/* Nothing comes between: no step before it sleeps. */
	pthread_mutex_unlock(mutex);
	if (until_ns > sim.now)
		r = sim_wait(cond, until_ns);
	pthread_mutex_lock(mutex);
	return r;
}

int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
	sim_wake(cond, false);
	return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
	sim_wake(cond, true);
	return 0;
}

int pl_sys_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	fork_handlers[0] = prepare;
	fork_handlers[1] = parent;
	fork_handlers[2] = child;
	return sim_enter("at_fork", SIM_MEMORY | SIM_FAST);
}

void (*x_fork_handlers(unsigned int which))(void)
{
	return fork_handlers[which];
}

int pl_sys_membarrier_register(void)
{
	int r = sim_enter("membarrier_register", SIM_FAST);

	return r ? r : x_plan.no_membarrier ? -ENOSYS : 0;
}

void pl_sys_membarrier(void)
{
	sim_enter("membarrier", SIM_FAST);
	if (x_plan.no_membarrier)
		sim_violate("seam", "membarrier without a registration");
	x_drain_all();
}
