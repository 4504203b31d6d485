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
	memset(box, 0, sizeof(*box));
	pl_list_init(&box->link);
}

/* What comes after it moves up. True: there was something to tell. */
static bool slot_clear(struct pl_event_box *box, struct pl_event_slot *s)
{
	uint8_t turn = s->turn;
	unsigned int i;

	s->turn = 0;
	for (i = 0; turn && i < PL_EVENT_KINDS; i++)
		box->slot[i].turn = (uint8_t)(box->slot[i].turn - (box->slot[i].turn > turn));
	return turn;
}

static uint8_t box_count(const struct pl_event_box *box)
{
	uint8_t count = 0;
	unsigned int i;

	for (i = 0; i < PL_EVENT_KINDS; i++)
		count = (uint8_t)(count + (box->slot[i].turn != 0));
	return count;
}

/* Cut-off operations that nobody has been told of yet add up over a coalesced event. */
static void cut_put(uint32_t *cut, bool untold, uint64_t in_flight)
{
	*cut = (untold ? *cut : 0) + (uint32_t)in_flight;
}

/* What only this kind has. untold: nobody has taken the one before it. */
static void box_put(struct pl_event_box *box, const struct pinlease_event *ev, bool untold)
{
	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		box->break_off = ev->off;
		box->break_len = ev->len;
		box->deadline_ns = ev->deadline_ns;
		break;
	case PINLEASE_EV_REVOKED:
		cut_put(&box->revoked_cut, untold, ev->in_flight);
		break;
	case PINLEASE_EV_RESTORED:
		box->restored_len = ev->len;
		break;
	case PINLEASE_EV_NOTICE:
		box->notice_len = ev->len;
		break;
	case PINLEASE_EV_LOST:
		cut_put(&box->lost_cut, untold, ev->in_flight);
		box->lost_off = ev->off;
		box->lost_len = ev->len;
		box->lost_bytes = ev->lost_bytes;
		break;
	default:
		break;
	}
}

bool pl_event_put(struct pl_event_queue *q, struct pl_event_box *box, const struct pinlease_event *ev)
{
	struct pl_event_slot *s = &box->slot[ev->type - 1];
	bool first;

	pthread_mutex_lock(&q->lock);
	first = pl_list_empty(&q->boxes);
	box_put(box, ev, slot_clear(box, s));
	s->gen = ev->gen;
	s->err = (int16_t)ev->err;
	s->cause = (uint8_t)ev->cause;
	s->turn = (uint8_t)(box_count(box) + 1);
	if (pl_list_empty(&box->link))
		pl_list_add_tail(&q->boxes, &box->link);
	pthread_mutex_unlock(&q->lock);
	return first;
}

/*
 * Apart from pl_event_put, so that the breaker can answer the kernel first. Under the
 * lock, and only if something is there still: an event set after a consumer had
 * emptied the queue would leave the fd readable with nothing behind it. Once is enough:
 * the opener may be waiting for this very processor.
 */
void pl_events_wake(struct pl_event_queue *q)
{
	pthread_mutex_lock(&q->lock);
	if (!pl_list_empty(&q->boxes) && !q->set) {
		pl_sys_event_set(q->fd);
		q->set = true;
	}
	pthread_mutex_unlock(&q->lock);
}

static void box_take(struct pl_event_box *box, struct pinlease_event *ev)
{
	struct pl_event_slot *s = box->slot;

	while (s->turn != 1)
		s++;
	slot_clear(box, s);
	ev->type = (uint32_t)(s - box->slot) + 1;
	ev->gen = s->gen;
	ev->err = s->err;
	ev->cause = s->cause;
	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		ev->off = box->break_off;
		ev->len = box->break_len;
		ev->deadline_ns = box->deadline_ns;
		break;
	case PINLEASE_EV_REVOKED:
		ev->in_flight = box->revoked_cut;
		break;
	case PINLEASE_EV_RESTORED:
		ev->len = box->restored_len;
		break;
	case PINLEASE_EV_NOTICE:
		ev->len = box->notice_len;
		break;
	case PINLEASE_EV_LOST:
		ev->in_flight = box->lost_cut;
		ev->off = box->lost_off;
		ev->len = box->lost_len;
		ev->lost_bytes = box->lost_bytes;
		break;
	default:
		break;
	}
}

static void queue_settle(struct pl_event_queue *q, struct pl_event_box *box)
{
	if (!box_count(box))
		pl_list_del(&box->link);
	if (pl_list_empty(&q->boxes) && q->set) {
		pl_sys_event_clear(q->fd);
		q->set = false;
	}
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
	bool found;

	pthread_mutex_lock(&q->lock);
	found = box->slot[type - 1].turn;
	pthread_mutex_unlock(&q->lock);
	return found;
}

void pl_event_purge(struct pl_event_queue *q, struct pl_event_box *box)
{
	pthread_mutex_lock(&q->lock);
	if (!pl_list_empty(&box->link)) {
		memset(box->slot, 0, sizeof(box->slot));
		queue_settle(q, box);
	}
	pthread_mutex_unlock(&q->lock);
}
