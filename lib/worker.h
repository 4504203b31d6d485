/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 5: the threads that do what may block. No application callback runs on them but a backend's. */
#ifndef PL_WORKER_H
#define PL_WORKER_H

#include <pthread.h>

#include "agenda.h"

#define PL_WORKERS 4

struct pl_workers {
	struct pl_agenda *agenda;
	pthread_t threads[PL_WORKERS];
	unsigned int count;
};

int pl_workers_start(struct pl_workers *w, struct pl_agenda *agenda);
void pl_workers_stop(struct pl_workers *w);

#endif
