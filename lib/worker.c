/* SPDX-License-Identifier: BSD-3-Clause */
#include "sys.h"
#include "worker.h"

static void *worker_main(void *arg)
{
	pl_agenda_work(arg);
	return NULL;
}

int pl_workers_start(struct pl_workers *w, struct pl_agenda *agenda)
{
	int r = 0;

	w->agenda = agenda;
	for (w->count = 0; w->count < PL_WORKERS && !r; w->count += !r)
		r = pl_sys_thread_new(worker_main, agenda, "pinlease-work", &w->threads[w->count]);
	if (r)
		pl_workers_stop(w);
	return r;
}

void pl_workers_stop(struct pl_workers *w)
{
	pl_agenda_stop(w->agenda);
	while (w->count)
		pl_sys_thread_join(w->threads[--w->count]);
}
