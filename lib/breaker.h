/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 6: the threads that hear of breaks. One waits for the reserved real-time signal,
 * directed to itself, marks what is broken, makes one barrier for all that came
 * together, and finishes what is idle and short; the rest is the workers'. The other
 * asks every guard now and then, for breaks of which the first has heard nothing: their
 * signal was lost, or it is busy with a device that does not answer. It finishes
 * nothing that could hold it up as well.
 */
#ifndef PL_BREAKER_H
#define PL_BREAKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "objects.h"

struct pl_breaker {
	struct pl_env *env;
	pthread_t thread, slow;
	pthread_mutex_t lock;	/* leaf; started, and what slow waits with */
	pthread_cond_t cond;
	bool started;		/* and runs: until stop is seen */
	bool has_alarm;		/* constant once started */
	timer_t alarm;		/* the signal that says stop */
	_Atomic bool stop;
};

/* Sets env->breaker_tid. 0, -EAGAIN, -ENOMEM. */
int pl_breaker_start(struct pl_breaker *b, struct pl_env *env);
void pl_breaker_stop(struct pl_breaker *b);

#endif
