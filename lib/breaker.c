/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "breaker.h"
#include "lease.h"
#include "sys.h"

/* The queue of signals may overflow (RLIMIT_SIGPENDING is per user): this often all guards are asked. */
#define SLOW_PASS_NS  (500 * PL_NS_PER_MS)
#define BATCH	      64
/*
 * The breaker waits for ever: to take down a timeout is what a break would begin with, 0.6 us of 12.
 * Where the signal that says stop could not have its place in the queue, it may be the one that does
 * not fit: then the breaker looks for itself, seldom, since a timeout that is near costs more.
 */
#define STOP_LOOK_NS (10 * PL_NS_PER_S)
#define STOP_AGAIN_NS PL_NS_PER_MS
/* Breaks that follow the last answer within it are taken together. */
#define BURST_NS 20000
#define BREAK_TIME    "/proc/sys/fs/lease-break-time"

static void break_time_read(struct pl_env *env)
{
	char text[32];
	uint64_t s, ns;

	if (pl_sys_read_text(BREAK_TIME, text, sizeof(text)) <= 0)
		return;
	s = strtoull(text, NULL, 10);
	ns = s ? s * PL_NS_PER_S : PL_NEVER;
	if (atomic_exchange_explicit(&env->break_time_ns, ns, memory_order_relaxed) == ns)
		return;
	/* Told leases have a smaller share from now on; of the others nothing can be taken back. */
	if (!pl_disks_fit(&env->disks, pl_budget_window(ns, 0)))
		pl_log_write(&env->log, 4,
			     "fs.lease-break-time is %llu now: too short to write back all that is leased",
			     (unsigned long long)s);
}

/* Files marked in one round; each holds a reference until answered. */
struct batch {
	struct pinlease_file *file[BATCH];
	uint64_t number[BATCH]; /* of its break */
	unsigned int count;
	bool may_fence;
};

static void batch_answer(struct batch *batch)
{
	unsigned int i;

	if (!batch->count)
		return;
	/* One for all: pairs with the light barrier of dma_begin and dma_end (account.h). */
	pl_account_barrier();
	for (i = 0; i < batch->count; i++) {
		pl_file_answer(batch->file[i], batch->number[i], batch->may_fence);
		pl_file_put(batch->file[i]);
	}
	batch->count = 0;
}

/* Takes over the caller's reference. */
static void batch_add(struct batch *batch, struct pinlease_file *file)
{
	if (!pl_file_mark(file, &batch->number[batch->count])) {
		pl_file_put(file);
		return;
	}
	batch->file[batch->count++] = file;
	if (batch->count == BATCH)
		batch_answer(batch);
}

/*
 * si_fd is the number at the time of F_SETLEASE: it may be closed, or another file's by
 * now. So it is only a hint whom to ask.
 */
static void batch_signal(struct pl_env *env, struct batch *batch, const siginfo_t *info)
{
	struct pl_registered *obj;

	if (pl_notices_is(&env->notices, info->si_fd)) {
		pl_notices_read(&env->notices, pl_file_notice);
		return;
	}
	obj = pl_registry_get(&env->registry, info->si_fd);
	if (obj)
		batch_add(batch, pl_container(obj, struct pinlease_file, registered));
}

/*
 * A break that comes alone is answered at once: a look for more would be one more system call
 * before its opener goes on, and one after it before the opener has this processor. One that
 * was there when the last had just been answered is not alone: then all are taken that there are.
 */
static void breaks_answer(struct pl_env *env, struct batch *batch, const sigset_t *set, siginfo_t *info,
			  bool alone)
{
	batch_signal(env, batch, info);
	while (!alone && pl_sys_wait_signal(set, info, 0) > 0)
		batch_signal(env, batch, info);
	batch_answer(batch);
}

static void *breaker_main(void *arg)
{
	struct pl_breaker *b = arg;
	struct pl_env *env = b->env;
	struct batch batch = { .may_fence = true };
	uint64_t answered = 0, patience;
	siginfo_t info;
	sigset_t set;

	pthread_mutex_lock(&b->lock);
	env->breaker_tid = pl_sys_thread_id();
	b->has_alarm = !pl_sys_alarm_new(env->signo, &b->alarm);
	b->started = true;
	pthread_cond_broadcast(&b->cond);
	pthread_mutex_unlock(&b->lock);
	/*
	 * This one signal only. A thread that waits for SIGIO too would take SIGIO meant for the
	 * application; left blocked here, an overflow's SIGIO stays pending on this thread and
	 * kills nobody (kernel_signals holds both).
	 */
	sigemptyset(&set);
	sigaddset(&set, env->signo);
	patience = b->has_alarm ? PL_NEVER : STOP_LOOK_NS;
	while (!atomic_load(&b->stop)) {
		if (pl_sys_wait_signal(&set, &info, patience) > 0) {
			breaks_answer(env, &batch, &set, &info, pl_sys_now() - answered > BURST_NS);
			answered = pl_sys_now();
		}
	}
	pthread_mutex_lock(&b->lock);
	b->started = false;
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

static void slow_pass_file(void *arg, struct pl_registered *obj)
{
	pl_file_flush_look(pl_container(obj, struct pinlease_file, registered));
	batch_add(arg, pl_container(obj, struct pinlease_file, registered));
}

static void *slow_main(void *arg)
{
	struct pl_breaker *b = arg;
	struct batch batch = { .may_fence = false };
	uint64_t next = pl_sys_now() + SLOW_PASS_NS;

	pthread_mutex_lock(&b->lock);
	while (!atomic_load(&b->stop)) {
		if (pl_sys_cond_wait(&b->cond, &b->lock, next) != -ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&b->lock);
		break_time_read(b->env);
		pl_registry_each(&b->env->registry, slow_pass_file, &batch);
		batch_answer(&batch);
		pl_notices_read(&b->env->notices, pl_file_notice);
		next = pl_sys_now() + SLOW_PASS_NS;
		pthread_mutex_lock(&b->lock);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

static void breaker_end(struct pl_breaker *b)
{
	pthread_mutex_lock(&b->lock);
	atomic_store(&b->stop, true);
	pthread_cond_broadcast(&b->cond);
	if (b->has_alarm)
		pl_sys_alarm_raise(b->alarm);
	/* Sent again while there is no room in the queue. Signals that are in it wake the breaker, too. */
	while (!b->has_alarm && b->started && pl_sys_signal_thread(b->thread, b->env->signo) == -EAGAIN)
		pl_sys_cond_wait(&b->cond, &b->lock, pl_sys_now() + STOP_AGAIN_NS);
	pthread_mutex_unlock(&b->lock);
	pl_sys_thread_join(b->thread);
	if (b->has_alarm)
		pl_sys_alarm_free(b->alarm);
}

static void breaker_fini(struct pl_breaker *b)
{
	pthread_cond_destroy(&b->cond);
	pthread_mutex_destroy(&b->lock);
}

int pl_breaker_start(struct pl_breaker *b, struct pl_env *env)
{
	int r;

	b->env = env;
	r = pl_sys_cond_init(&b->cond);
	if (r)
		return r;
	pthread_mutex_init(&b->lock, NULL);
	break_time_read(env);
	r = pl_sys_thread_new(breaker_main, b, "pinlease-break", &b->thread);
	if (r)
		goto fini;
	pthread_mutex_lock(&b->lock);
	while (!b->started)
		pl_sys_cond_wait(&b->cond, &b->lock, PL_NEVER);
	pthread_mutex_unlock(&b->lock);
	r = pl_sys_thread_new(slow_main, b, "pinlease-slow", &b->slow);
	if (!r)
		return 0;
	breaker_end(b);
fini:
	breaker_fini(b);
	return r;
}

void pl_breaker_stop(struct pl_breaker *b)
{
	breaker_end(b);
	pl_sys_thread_join(b->slow);
	breaker_fini(b);
}
