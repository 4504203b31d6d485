/* SPDX-License-Identifier: BSD-3-Clause */
#include <string.h>

#include "events.h"
#include "sys.h"

int pl_events_init(struct pl_event_queue *q)
{
	int fd = pl_sys_event_new();

	if (fd < 0)
		return fd;
	q->fd = fd;
	pl_list_init(&q->boxes);
	pthread_mutex_init(&q->lock, NULL);
	return 0;
}

void pl_events_fini(struct pl_event_queue *q)
{
	pl_sys_close(q->fd);
	pthread_mutex_destroy(&q->lock);
}

void pl_event_box_init(struct pl_event_box *box)
{
	pl_list_init(&box->link);
	box->count = 0;
}

/* Takes type out of the order if it is there; true if it was. */
static bool box_forget(struct pl_event_box *box, uint8_t type)
{
	uint8_t i;

	for (i = 0; i < box->count && box->order[i] != type; i++)
		;
	if (i == box->count)
		return false;
	memmove(&box->order[i], &box->order[i + 1], (size_t)(box->count - i - 1));
	box->count--;
	return true;
}

bool pl_event_put(struct pl_event_queue *q, struct pl_event_box *box, const struct pinlease_event *ev)
{
	struct pl_event_slot *s = &box->slot[ev->type - 1];
	bool fence = ev->type == PINLEASE_EV_REVOKED || ev->type == PINLEASE_EV_LOST, first;
	uint64_t before = 0;

	pthread_mutex_lock(&q->lock);
	first = pl_list_empty(&q->boxes);
	if (box_forget(box, (uint8_t)ev->type) && fence)
		before = s->n;
	s->gen = ev->gen;
	s->err = (int16_t)ev->err;
	s->cause = (uint8_t)ev->cause;
	/* Cut-off operations nobody has been told of yet add up over a coalesced event. */
	s->n = fence ? before + ev->in_flight : ev->len;
	if (ev->type == PINLEASE_EV_BREAK) {
		box->break_off = ev->off;
		box->deadline_ns = ev->deadline_ns;
	}
	if (ev->type == PINLEASE_EV_LOST) {
		box->lost_off = ev->off;
		box->lost_len = ev->len;
		box->lost_bytes = ev->lost_bytes;
	}
	box->order[box->count++] = (uint8_t)ev->type;
	if (pl_list_empty(&box->link))
		pl_list_add_tail(&q->boxes, &box->link);
	pthread_mutex_unlock(&q->lock);
	return first;
}

/*
 * Apart from pl_event_put, so that the breaker can answer the kernel first. Under the
 * lock, and only if something is there still: an event set after a consumer had
 * emptied the queue would leave the fd readable with nothing behind it.
 */
void pl_events_wake(struct pl_event_queue *q)
{
	pthread_mutex_lock(&q->lock);
	if (!pl_list_empty(&q->boxes))
		pl_sys_event_set(q->fd);
	pthread_mutex_unlock(&q->lock);
}

static void box_take(struct pl_event_box *box, struct pinlease_event *ev)
{
	uint8_t type = box->order[0];
	const struct pl_event_slot *s = &box->slot[type - 1];

	box_forget(box, type);
	ev->type = type;
	ev->gen = s->gen;
	ev->err = s->err;
	ev->cause = s->cause;
	if (type == PINLEASE_EV_REVOKED || type == PINLEASE_EV_LOST)
		ev->in_flight = s->n;
	else
		ev->len = s->n;
	if (type == PINLEASE_EV_BREAK) {
		ev->off = box->break_off;
		ev->deadline_ns = box->deadline_ns;
	}
	if (type == PINLEASE_EV_LOST) {
		ev->off = box->lost_off;
		ev->len = box->lost_len;
		ev->lost_bytes = box->lost_bytes;
	}
}

static void queue_settle(struct pl_event_queue *q, struct pl_event_box *box)
{
	if (!box->count)
		pl_list_del(&box->link);
	if (pl_list_empty(&q->boxes))
		pl_sys_event_clear(q->fd);
}

struct pl_event_box *pl_event_next(struct pl_event_queue *q, struct pinlease_event *ev,
				   void (*fill)(struct pl_event_box *box, struct pinlease_event *ev))
{
	struct pl_event_box *box = NULL;

	pthread_mutex_lock(&q->lock);
	if (!pl_list_empty(&q->boxes)) {
		box = pl_container(q->boxes.next, struct pl_event_box, link);
		fill(box, ev);
		box_take(box, ev);
		queue_settle(q, box);
	}
	pthread_mutex_unlock(&q->lock);
	return box;
}

bool pl_event_untaken(struct pl_event_queue *q, const struct pl_event_box *box, uint32_t type)
{
	bool found = false;
	uint8_t i;

	pthread_mutex_lock(&q->lock);
	for (i = 0; i < box->count; i++)
		found |= box->order[i] == type;
	pthread_mutex_unlock(&q->lock);
	return found;
}

void pl_event_purge(struct pl_event_queue *q, struct pl_event_box *box)
{
	pthread_mutex_lock(&q->lock);
	if (!pl_list_empty(&box->link)) {
		box->count = 0;
		queue_settle(q, box);
	}
	pthread_mutex_unlock(&q->lock);
}
