/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A chunk of the window at the sender:
 *
 *	       read       OFFER                 GRANT                 all written
 *	IDLE ───────▶ READING ───▶ OFFERED ───────────────▶ WRITING ─────────────▶ WRITTEN
 *	  ▲                           ▲ │                     │ ▲ RECALL,             │
 *	  │                           │ │ HAVE       RETURNED ▼ │ RESTORED            │
 *	  ├───────────────────────────┼─┘                     no key                  │
 *	  │                     AGAIN └───────────────────────┴───────────────────────┤
 *	  └───────────────────────────────────────────────────────────────── DURABLE ─┘
 *
 * A block is posted only between pinlease_peer_begin and _end. What had completed before a grant was
 * returned is in the file, so the next key goes on behind it.
 */
#ifndef PLC_SLOT_H
#define PLC_SLOT_H

#include <pinlease/peers.h>

#include "sender.h"

enum slot_step { SLOT_IDLE, SLOT_READING, SLOT_OFFERED, SLOT_WRITING, SLOT_WRITTEN };

struct slot {
	struct job job;
	struct sender *sender;
	enum slot_step step;
	bool busy;   /* the job is with the pool */
	bool filled; /* buf has the chunk */
	bool zeros;  /* a job that reads: buf is to have it also if it is a hole */
	uint64_t index, map;
	uint64_t wanted;     /* blocks to write: map, or with zeros */
	uint32_t next, left; /* block to post; blocks that have not completed */
	struct sum sum;
	char *buf;
	int result;
	struct pinlease_peer *peer;
	uint32_t gen, in_flight;
};

struct sender {
	struct copy *copy;
	struct conn *conn;
	struct ibv_mr *mr;
	struct slot slot[WINDOW];
	uint32_t window; /* slots that are used */
	uint64_t next, confirmed;
	uint64_t redo[WINDOW]; /* chunks that the receiver found wrong at last */
	uint32_t redo_count;
	bool welcome, finishing, finished, over;
	const char *state; /* for the user */
};

/* It is over for good: -ECANCELED. */
int sender_fatal(struct sender *s, const char *what, const char *why);
int sender_tell(struct sender *s, const struct frame *f);

/* slot.c: 0, or why the connection cannot go on. Read the chunk and offer it. */
int slot_start(struct slot *slot, uint64_t index);
int slot_offer(struct slot *slot);
/* GRANT, and PEER. */
int slot_granted(struct slot *slot, const struct frame *f);
int slot_message(struct slot *slot, const struct frame *f);
/* Post blocks of all slots, as many as may be in flight. */
int slots_pump(struct sender *s);
void slots_written(void *arg, uint64_t tag, bool ok);
/* Nothing of it is in flight, or the connection is gone and with it what was. */
void slot_detach(struct slot *slot);

#endif
