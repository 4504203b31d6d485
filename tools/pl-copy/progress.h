/* SPDX-License-Identifier: BSD-3-Clause */
/* What the sender's user sees: a line that is kept fresh on a terminal, lines elsewhere, JSON at the end. */
#ifndef PLC_PROGRESS_H
#define PLC_PROGRESS_H

#include "copy.h"
#include "frame.h"

struct counts {
	uint64_t size, data;	     /* of the file */
	uint64_t done;		     /* bytes that are durable at the receiver */
	uint64_t sent, there, holes; /* of those: written by RDMA, found there, never sent */
	uint64_t written;	     /* bytes that RDMA has carried, repetitions included */
	uint64_t start_ns, end_ns, connected_ns;
	uint32_t breaks, breaks_here; /* of this run; of this connection, as the receiver counts */
	uint32_t connections, wrong, again;
	bool summed;
	struct sum sum;
	char error[256]; /* empty: it is all there */
};

void progress_start(const char *file, bool quiet);
/* Not too often: it may be called whenever something has changed. */
void progress_show(const struct counts *c, const char *state);
void progress_clear(void);
void progress_end(const struct send_options *options, const struct counts *c);

#endif
