/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The threads that sim_clock.c, or the explorer's time.c, carries on: who is there, who waits
 * for what, and until when.
 */
#include "sim_private.h"

uint64_t sim_thread_next(void)
{
	uint64_t next = pl_min_u64(sim_opener_next(), sim_dma_next());
	struct pl_list *pos;
	struct sim_thread *t;

	pl_list_for_each (pos, &sim.threads) {
		t = pl_container(pos, struct sim_thread, link);
		if (t->waiting && !t->awake && !sim_thread_stopped(t))
			next = pl_min_u64(next, t->until);
	}
	return next;
}

void sim_wake(const void *on, bool all)
{
	struct sim_thread *t, *first;
	struct pl_list *pos;

	do {
		first = NULL;
		pl_list_for_each (pos, &sim.threads) {
			t = pl_container(pos, struct sim_thread, link);
			if (t->waiting && !t->awake && t->on == on && (!first || t->since < first->since))
				first = t;
		}
		if (first) {
			first->on = NULL;
			sim_thread_awake(first);
		}
	} while (first && all);
}

struct sim_thread *sim_thread_find(pid_t tid)
{
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.threads)
		if (pl_container(pos, struct sim_thread, link)->tid == tid)
			return pl_container(pos, struct sim_thread, link);
	return NULL;
}
