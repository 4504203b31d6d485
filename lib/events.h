/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: events. Each lease carries one slot per kind, so that a break allocates
 * nothing; a box with something in it stands in the queue of its ctx.
 */
#ifndef PL_EVENTS_H
#define PL_EVENTS_H

#include <pthread.h>
#include <pinlease.h>

#include "list.h"

#define PL_EVENT_KINDS 6

struct pl_event_queue {
	pthread_mutex_t lock;	/* leaf; protects boxes and everything in them */
	struct pl_list boxes;
	int fd;			/* readable while boxes is not empty */
	bool set;		/* it is readable: no need to make it so again */
};

struct pl_event_slot {
	uint32_t gen;
	int16_t err;
	uint8_t cause;
	uint8_t turn;		/* 1: to be told next; 0: there is nothing to tell */
};

/* One is in every lease: what only one kind has is there once. */
struct pl_event_box {
	struct pl_list link;
	struct pl_event_slot slot[PL_EVENT_KINDS];
	uint32_t revoked_cut, lost_cut;		/* in_flight */
	uint64_t break_off, break_len, deadline_ns;
	uint64_t restored_len, notice_len;
	uint64_t lost_off, lost_len, lost_bytes;
};

int pl_events_init(struct pl_event_queue *q);
void pl_events_fini(struct pl_event_queue *q);
void pl_event_box_init(struct pl_event_box *box);
/* All of ev but size, lease and user. Does not wake. True: nothing was queued, pl_events_wake is due. */
bool pl_event_put(struct pl_event_queue *q, struct pl_event_box *box, const struct pinlease_event *ev);
void pl_events_wake(struct pl_event_queue *q);
/* The next event and the box it came from, or NULL. Fills what pl_event_put takes. */
struct pl_event_box *pl_event_next(struct pl_event_queue *q, struct pinlease_event *ev,
				   void (*fill)(struct pl_event_box *box, struct pinlease_event *ev));
/* Has nobody taken an event of this type yet? */
bool pl_event_untaken(struct pl_event_queue *q, const struct pl_event_box *box, uint32_t type);
void pl_event_purge(struct pl_event_queue *q, struct pl_event_box *box);

#endif
