/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The receiver's side of one connection. The loop's thread owns all of it, but not a chunk, or the
 * session itself, while a job of theirs is with the pool (busy).
 *
 * A chunk of the window:
 *
 *	          OFFER      PREPARE       leased              DONE           RETURNED
 *	   IDLE ────────▶ PREPARING ────▶ LEASED ──▶ LENT ────────▶ ENDING ──────────▶ SETTLING
 *	     ▲               │             no grant   ▲ │ break:                          │
 *	     │               │ HAVE        yet        └─┘ RECALL, RETURNED, RESTORED      │ DURABLE,
 *	     ├───────────────┘                          │                                 │ AGAIN
 *	     ├──────────────── DROPPING ◀───────────────┘ lost                            │
 *	     └────────────────────────────────────────────────────────────────────────────┘
 */
#ifndef PLC_SESSION_H
#define PLC_SESSION_H

#include <pinlease/peers.h>

#include "conn.h"
#include "pool.h"
#include "target.h"

enum chunk_step {
	CHUNK_IDLE,
	CHUNK_PREPARING,
	CHUNK_LEASED,
	CHUNK_LENT,
	CHUNK_ENDING,
	CHUNK_SETTLING,
	CHUNK_DROPPING
};

enum chunk_result { CHUNK_IS_THERE = 1, CHUNK_IS_LEASED, CHUNK_IS_DURABLE, CHUNK_IS_WRONG };

struct session;

struct chunk {
	struct job job;
	struct session *session; /* constant */
	enum chunk_step step;
	bool busy;
	bool out;      /* a grant of it is with the peer */
	bool broken;   /* its lease is lost, or does not come back */
	bool repeated; /* it was wrong: not to be compared again with what is there */
	uint64_t index, map;
	struct sum sum;		     /* that it has at the sender */
	uint64_t since_ns, retry_ns; /* waiting for somebody who has the file open; when to try again */
	struct pinlease *lease;
	struct pinlease_grant *grant;
	char *scratch; /* CHUNK_BYTES, to read it back */
	int result;    /* of the job: enum chunk_result, or -errno and trouble */
	struct trouble trouble;
};

struct proof { /* that a chunk is in the file */
	struct sum sum;
	uint64_t breaks; /* of the guard's, when it was read; NO_GUARD: nobody held off others then */
	bool there;
	uint8_t wrong; /* times that it was not right */
};

#define NO_GUARD UINT64_MAX

enum session_state { SESSION_NEW, SESSION_OPENING, SESSION_OPEN, SESSION_CHECKING, SESSION_OVER };

struct session {
	struct session *next;
	struct server *server;
	struct conn conn;
	enum session_state state;
	char from[64]; /* the peer's address */
	struct target target;
	struct chunk chunk[WINDOW];
	struct proof *proof; /* of each chunk */
	struct job job;	     /* open, check or close */
	bool busy, ending, done;
	uint64_t since_ns, retry_ns, over_ns, told_ns;
	uint64_t moved_ns;    /* when a chunk became durable last */
	uint64_t bad[WINDOW]; /* check: chunks that are wrong */
	uint32_t bad_count;
	struct sum total;
	struct trouble trouble;
	int result;
};

struct server {
	int root, signals;
	uint32_t mask;
	uint16_t port;
	bool quiet;
	const char *address; /* NULL: all */
	struct pinlease_ctx *ctx;
	struct pool *pool;
	struct rdma_event_channel *events;
	struct rdma_cm_id *listener[2];
	struct session *sessions;
	unsigned int count;
};

/* session.c */
int session_new(struct server *server, struct rdma_cm_id *id);
void session_up(struct session *s);
/* The connection is gone, or is to go. */
void session_end(struct session *s);
void session_tick(struct session *s);
/* conn_poll, and what comes of it. */
void session_poll(struct session *s);
/* All that was its is gone. */
bool session_is_over(const struct session *s);
void session_free(struct session *s);
void session_say(struct session *s, const struct frame *f);
/* ERROR, for what a pl-copy would not say. */
void session_protocol_error(struct session *s);
/* WAITING, not too often. */
void session_waits(struct session *s, const struct trouble *trouble);
/* ERROR; the client ends the connection. */
void session_fail(struct session *s, const struct trouble *trouble, uint32_t flags);

/* chunk.c: on the loop's thread */
void chunk_offer(struct chunk *c, const struct frame *f);
void chunk_done(struct chunk *c);
void chunk_message(struct chunk *c, const struct frame *f);
void chunk_event(struct chunk *c, const struct pinlease_event *ev);
void chunk_tick(struct chunk *c);
/* The peer is gone, the lease is to go. */
void chunk_forget(struct chunk *c);

/* work.c: on the pool's threads */
void work_prepare(struct job *job);
void work_settle(struct job *job);
void work_drop(struct job *job);
void work_open(struct job *job);
void work_check(struct job *job);
void work_close(struct job *job);

/* Tried again this often, and not for longer than this, while somebody has the file open. */
#define RETRY_NS    (50ull * 1000000)
#define PATIENCE_NS (60ull * 1000000000)
#define TELL_NS	    (1ull * 1000000000) /* and after this the sender's user is told who that is */
#define WRONG_MAX   3			/* times that a chunk may come out wrong */

#endif
