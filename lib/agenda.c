/* SPDX-License-Identifier: BSD-3-Clause */
#include "agenda.h"
#include "sys.h"
#include "util.h"

int pl_agenda_init(struct pl_agenda *s, unsigned int workers, void (*const *run)(struct pl_work *work))
{
	int r;

	*s = (struct pl_agenda){ .workers = workers, .run = run };
	r = pl_sys_cond_init(&s->wake);
	if (r)
		return r;
	r = pl_sys_cond_init(&s->idle);
	if (r) {
		pthread_cond_destroy(&s->wake);
		return r;
	}
	pthread_mutex_init(&s->lock, NULL);
	return 0;
}

void pl_agenda_fini(struct pl_agenda *s)
{
	pthread_cond_destroy(&s->wake);
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->lock);
}

void pl_work_init(struct pl_work *work, uint8_t kind)
{
	*work = (struct pl_work){ .kind = kind };
}

static struct pl_heap *heap_of(struct pl_agenda *s, const struct pl_work *work)
{
	if (!work->ready)
		return &s->waiting;
	return work->slow ? &s->slow : &s->quick;
}

static void agenda_push(struct pl_agenda *s, struct pl_work *work, uint64_t due, bool slow)
{
	work->slow = slow;
	work->ready = !due;
	pl_heap_push(heap_of(s, work), &work->node, due ? due : work->deadline);
	pthread_cond_signal(&s->wake);
}

void pl_agenda_queue(struct pl_agenda *s, struct pl_work *work, uint64_t due, uint64_t deadline, bool slow)
{
	pthread_mutex_lock(&s->lock);
	if (work->cancelled) {
		pthread_mutex_unlock(&s->lock);
		return;
	}
	work->deadline = deadline;
	if (work->running) {
		work->node.key = pl_min_u64(work->node.key, due);
		work->again_slow = slow;
	} else if (!pl_heap_queued(&work->node)) {
		agenda_push(s, work, due, slow);
	} else if (!work->ready && due < work->node.key) {
		pl_heap_remove(&s->waiting, &work->node);
		agenda_push(s, work, due, slow);
	}
	pthread_mutex_unlock(&s->lock);
}

void pl_agenda_cancel(struct pl_agenda *s, struct pl_work *work)
{
	pthread_mutex_lock(&s->lock);
	work->cancelled = true;
	if (pl_heap_queued(&work->node))
		pl_heap_remove(heap_of(s, work), &work->node);
	while (work->running)
		pl_sys_cond_wait(&s->idle, &s->lock, PL_NEVER);
	pthread_mutex_unlock(&s->lock);
}

/* Moves what has become due into the ready heaps; answers when the next one will be. */
static uint64_t agenda_ripen(struct pl_agenda *s)
{
	struct pl_heap_node *n;
	struct pl_work *work;
	uint64_t now;

	if (!pl_heap_first(&s->waiting))
		return PL_NEVER;
	now = pl_sys_now();
	while ((n = pl_heap_first(&s->waiting)) && n->key <= now) {
		pl_heap_remove(&s->waiting, n);
		work = pl_container(n, struct pl_work, node);
		agenda_push(s, work, 0, work->slow);
	}
	return n ? n->key : PL_NEVER;
}

/* One worker is always left for what is quick: a slow disk must not hold up an idle lease. */
static struct pl_work *agenda_pick(struct pl_agenda *s)
{
	struct pl_heap_node *quick = pl_heap_first(&s->quick), *slow = NULL;

	if (s->slow_running + 1 < s->workers)
		slow = pl_heap_first(&s->slow);
	if (!quick && !slow)
		return NULL;
	if (!quick || (slow && slow->key < quick->key)) {
		pl_heap_remove(&s->slow, slow);
		return pl_container(slow, struct pl_work, node);
	}
	pl_heap_remove(&s->quick, quick);
	return pl_container(quick, struct pl_work, node);
}

static void agenda_run(struct pl_agenda *s, struct pl_work *work)
{
	bool slow = work->slow;

	work->running = true;
	work->node.key = PL_NEVER;
	s->slow_running += slow;
	pthread_mutex_unlock(&s->lock);
	s->run[work->kind](work);
	pthread_mutex_lock(&s->lock);
	if (slow && s->slow_running-- == s->workers - 1 && pl_heap_first(&s->slow))
		pthread_cond_signal(&s->wake);
	work->running = false;
	if (work->node.key != PL_NEVER && !work->cancelled)
		agenda_push(s, work, work->node.key, work->again_slow);
	pthread_cond_broadcast(&s->idle);
}

void pl_agenda_work(struct pl_agenda *s)
{
	struct pl_work *work;
	uint64_t next;

	pthread_mutex_lock(&s->lock);
	while (!s->stop) {
		next = agenda_ripen(s);
		work = agenda_pick(s);
		if (work)
			agenda_run(s, work);
		else
			pl_sys_cond_wait(&s->wake, &s->lock, next);
	}
	pthread_mutex_unlock(&s->lock);
}

void pl_agenda_stop(struct pl_agenda *s)
{
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->wake);
	pthread_mutex_unlock(&s->lock);
}
