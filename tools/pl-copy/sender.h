/* SPDX-License-Identifier: BSD-3-Clause */
/* One connection's worth of sending: from HELLO until the file is there, or the connection is not. */
#ifndef PLC_SENDER_H
#define PLC_SENDER_H

#include "conn.h"
#include "pool.h"
#include "progress.h"
#include "source.h"

struct known { /* of a chunk that was read before */
	struct sum sum;
	uint64_t map;
	uint32_t confirmed; /* number of the connection on which the receiver said that it is there; or 0 */
	bool read, wrong;
	bool was_there; /* confirmed: and had been before */
};

struct copy { /* lives over connections */
	const struct send_options *options;
	struct source source;
	struct hello hello;
	struct known *known; /* of each chunk */
	struct pool *pool;
	char *buffers; /* WINDOW chunks */
	struct counts counts;
	uint64_t moved_ns; /* when a chunk became durable last */
};

/* By a signal: nothing is begun any more. */
bool copy_interrupted(void);
/* 0: done; -ECONNRESET: connect again; else it is over, and counts.error says why. */
int sender_run(struct copy *copy, struct conn *conn, struct rdma_event_channel *events);
void sender_callbacks(struct conn *conn);

#endif
