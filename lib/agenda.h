/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: what is to be done when. Work items are embedded in leases and files, so
 * queueing one allocates nothing; an item waits in one heap until it is due, then
 * in another one for a worker, earliest deadline first. Items that may take long
 * (writeback, filling) are marked slow: they never get all the workers.
 */
#ifndef PL_AGENDA_H
#define PL_AGENDA_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "heap.h"

struct pl_work {
	struct pl_heap_node node; /* its key, while running: when it is due again; PL_NEVER: not */
	uint64_t deadline;
	uint8_t kind;		/* constant: who runs it */
	bool slow, ready, running, cancelled;
	bool again_slow;
};

struct pl_agenda {
	pthread_mutex_t lock;	/* leaf; protects everything here and in queued items */
	pthread_cond_t wake, idle;
	struct pl_heap waiting, quick, slow;
	void (*const *run)(struct pl_work *work); /* constant, with what follows: by kind */
	unsigned int workers;
	unsigned int slow_running;
	bool stop;
};

int pl_agenda_init(struct pl_agenda *s, unsigned int workers, void (*const *run)(struct pl_work *work));
void pl_agenda_fini(struct pl_agenda *s);
void pl_work_init(struct pl_work *work, uint8_t kind);
/*
 * Run work at due (ns, 0: now), earliest deadline first. Queued again before it ran, the
 * earlier due wins; queued while it runs, it runs once more.
 */
void pl_agenda_queue(struct pl_agenda *s, struct pl_work *work, uint64_t due, uint64_t deadline, bool slow);
/* Not queued any more, nor running, for good. Not from the item's own run. May block; no lock held. */
void pl_agenda_cancel(struct pl_agenda *s, struct pl_work *work);
/* A worker's life: runs items until pl_agenda_stop. */
void pl_agenda_work(struct pl_agenda *s);
void pl_agenda_stop(struct pl_agenda *s);

#endif
