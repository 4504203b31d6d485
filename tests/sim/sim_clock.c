/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Time, waiting, threads. running counts the threads that are not in a wait of ours; one
 * that is blocked on a mutex counts as running, since whoever holds the mutex is about
 * to run. The last one to fall asleep moves the clock to what is due next and wakes it.
 *
 * Condition variables: the library signals them directly, so pthread_cond_signal and
 * _broadcast are wrapped at link time. Without that a thread that has been signalled
 * and has not run yet would count as asleep, and its deadline would seem to pass.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <linux/membarrier.h>
#include <unistd.h>

#include "sim_private.h"

#define TICK	   1000ull	      /* what reading the clock costs */
#define TEST_LIMIT (4 * 3600 * SIM_S) /* of simulated time: a test that waits for what never comes */

struct sim_kernel sim = { .lock = PTHREAD_MUTEX_INITIALIZER };
__thread struct sim_thread *sim_self;

int __wrap_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond);

static void clock_dump(void)
{
	struct pl_list *pos;
	struct sim_thread *t;

	fprintf(stderr, "sim: at %llu us, %u running\n", (unsigned long long)(sim.now / 1000), sim.running);
	pl_list_for_each (pos, &sim.threads) {
		t = pl_container(pos, struct sim_thread, link);
		fprintf(stderr, "  thread %d%s: %s on %p until %llu us\n", t->tid, t->ours ? " (test)" : "",
			t->waiting ? "waits" : "runs", t->on, (unsigned long long)(t->until / 1000));
	}
}

/* Stopped: it will not run before it is continued, whatever wakes it. */
bool sim_thread_stopped(const struct sim_thread *t)
{
	return sim.stopped && t != sim.stopped;
}

void sim_thread_awake(struct sim_thread *t)
{
	if (!t->waiting || t->awake)
		return;
	t->late = sim_thread_stopped(t);
	if (t->late)
		return;
	t->awake = true;
	sim.running++;
	__real_pthread_cond_signal(&t->cv);
}

static struct sim_thread *thread_settling(void)
{
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.threads)
		if (pl_container(pos, struct sim_thread, link)->settling)
			return pl_container(pos, struct sim_thread, link);
	return NULL;
}

/* The kernel and the device first: the harsher order for who has a deadline at the same moment. */
static void clock_fire(void)
{
	struct pl_list *pos;
	struct sim_thread *t;

	sim_opener_fire();
	sim_dma_fire();
	pl_list_for_each (pos, &sim.threads) {
		t = pl_container(pos, struct sim_thread, link);
		if (t->waiting && !t->awake && !sim_thread_stopped(t) && (t->late || t->until <= sim.now))
			sim_thread_awake(t);
	}
}

static void clock_advance(void)
{
	struct sim_thread *t;
	uint64_t next;

	while (!sim.running) {
		t = thread_settling();
		if (t) {
			t->settling = false;
			sim_thread_awake(t);
			return;
		}
		next = sim_thread_next();
		if (next == SIM_NEVER || next > sim.started + TEST_LIMIT) {
			clock_dump();
			sim_die("everybody waits for what never comes");
		}
		sim.now = pl_max_u64(sim.now, next);
		clock_fire();
	}
}

int sim_wait(const void *on, uint64_t until)
{
	struct sim_thread *t = sim_self;
	bool in_time;

	t->on = on;
	t->until = until;
	t->since = ++sim.waits;
	t->awake = false;
	t->waiting = true;
	sim.running--;
	clock_advance();
	while (!t->awake)
		pthread_cond_wait(&t->cv, &sim.lock);
	t->waiting = false;
	/* Whoever woke it has forgotten what it waited for. */
	in_time = !t->on;
	t->on = NULL;
	return in_time ? 0 : -ETIMEDOUT;
}

uint64_t sim_now(void)
{
	uint64_t now;

	sim_lock();
	now = sim.now;
	sim_unlock();
	return now;
}

void sim_sleep(uint64_t ns)
{
	sim_lock();
	sim_wait(sim_self, sim.now + ns);
	sim_unlock();
}

void sim_settle(void)
{
	sim_lock();
	sim_self->settling = true;
	sim_wait(sim_self, SIM_NEVER);
	sim_unlock();
}

bool sim_until(bool (*fn)(void *arg), void *arg, uint64_t ns)
{
	uint64_t until = sim_now() + ns, nap = 10000;

	while (!fn(arg)) {
		if (sim_now() >= until)
			return false;
		sim_sleep(nap);
		nap = pl_min_u64(2 * nap, SIM_MS);
	}
	return true;
}

void sim_stop(void)
{
	sim_settle();
	sim_lock();
	sim.stopped = sim_self;
	sim_unlock();
}

void sim_continue(void)
{
	sim_lock();
	sim.stopped = NULL;
	clock_fire();
	sim_unlock();
}

/* Threads */

static struct sim_thread *thread_new(void *(*fn)(void *arg), void *arg, bool ours)
{
	struct sim_thread *t = calloc(1, sizeof(*t));

	if (!t)
		sim_die("out of memory");
	t->fn = fn;
	t->arg = arg;
	t->ours = ours;
	t->signals = calloc(1, sizeof(*t->signals));
	pthread_cond_init(&t->cv, NULL);
	sim_lock();
	t->tid = ++sim.next_tid;
	pl_list_add_tail(&sim.threads, &t->link);
	sim.running++;
	sim.counts.threads++;
	sim_unlock();
	return t;
}

static void *thread_main(void *arg)
{
	struct sim_thread *t = arg;
	void *ret;

	sim_self = t;
	ret = t->fn(t->arg);
	sim_lock();
	t->exited = true;
	sim.running--;
	sim_wake(t, true);
	clock_advance();
	sim_self = NULL;
	sim_unlock();
	return ret;
}

static int thread_start(struct sim_thread *t)
{
	int r = pthread_create(&t->pthread, NULL, thread_main, t);

	if (r)
		sim_die("pthread_create: %d", r);
	return 0;
}

void sim_thread_join(struct sim_thread *t)
{
	sim_lock();
	while (!t->exited)
		sim_wait(t, SIM_NEVER);
	pl_list_del(&t->link);
	sim.signals_pending -= t->signals->count;
	sim.counts.threads--;
	sim_unlock();
	pthread_join(t->pthread, NULL);
	pthread_cond_destroy(&t->cv);
	free(t->signals);
	free(t);
}

struct sim_thread *sim_thread_start(void *(*fn)(void *arg), void *arg)
{
	struct sim_thread *t = thread_new(fn, arg, true);

	thread_start(t);
	return t;
}

void sim_attach_main(void)
{
	static struct sim_thread *main_thread;

	if (main_thread)
		return;
	pl_list_init(&sim.threads);
	sim.next_tid = 1000;
	main_thread = thread_new(NULL, NULL, true);
	main_thread->pthread = pthread_self();
	sim_self = main_thread;
}

void sim_clock_reset(void)
{
	/* Not nought: nothing may take "never" for "at the beginning of time". */
	sim.now = sim.started = pl_max_u64(sim.now, 1000 * SIM_S) + SIM_S;
}

/* sys.h */

uint64_t pl_sys_now(void)
{
	uint64_t now;

	sim_lock();
	sim.now += TICK;
	now = sim.now;
	clock_fire();
	sim_unlock();
	return now;
}

int pl_sys_thread_new(void *(*fn)(void *), void *arg, const char *name, pthread_t *out)
{
	int r = sim_enter("thread_new", SIM_MEMORY | SIM_STEP);
	struct sim_thread *t;

	(void)name;
	if (r)
		return -EAGAIN;
	t = thread_new(fn, arg, false);
	/* The handle is written before the thread can run, as pthread_create does it. */
	r = pthread_create(out, NULL, thread_main, t);
	if (r)
		sim_die("pthread_create: %d", r);
	sim_lock();
	t->pthread = *out;
	sim_unlock();
	return 0;
}

void pl_sys_thread_join(pthread_t thread)
{
	struct sim_thread *t = NULL;
	struct pl_list *pos;

	sim_lock();
	pl_list_for_each (pos, &sim.threads)
		if (pthread_equal(pl_container(pos, struct sim_thread, link)->pthread, thread))
			t = pl_container(pos, struct sim_thread, link);
	sim_unlock();
	if (!t)
		sim_die("joins a thread that is not there");
	sim_thread_join(t);
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

	sim_lock();
	pthread_mutex_unlock(mutex);
	if (until_ns > sim.now)
		r = sim_wait(cond, until_ns);
	sim_unlock();
	pthread_mutex_lock(mutex);
	return r;
}

int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
	sim_lock();
	sim_wake(cond, false);
	sim_unlock();
	return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
	sim_lock();
	sim_wake(cond, true);
	sim_unlock();
	return 0;
}

int pl_sys_key_new(pthread_key_t *key, void (*destroy)(void *))
{
	int r = sim_enter("key_new", SIM_MEMORY | SIM_FAST);

	return r ? r : -pthread_key_create(key, destroy);
}

int pl_sys_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	(void)prepare;
	(void)parent;
	(void)child;
	return sim_enter("at_fork", SIM_MEMORY | SIM_FAST);
}

int pl_sys_membarrier_register(void)
{
	int r = sim_enter("membarrier_register", SIM_FAST);

	if (r)
		return r;
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) ? -errno : 0;
}

void pl_sys_membarrier(void)
{
	sim_enter("membarrier", SIM_FAST);
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		sim_die("membarrier without a registration");
}
