/* SPDX-License-Identifier: BSD-3-Clause */
/* An owner, as its two files know it: soak_owner.c acts, soak_said.c hears and publishes. */
#ifndef SOAK_OWNER_H
#define SOAK_OWNER_H

#include "soak.h"

struct write {
	struct pinlease *lease;	/* NULL: the request is free */
	unsigned int block;
	uint64_t seq;
};

struct leased {
	struct pinlease *lease;	/* NULL: none */
	struct slot *slot;
	uint32_t flags;
	bool uncounted, lost_told, settled;
};

struct owner {
	unsigned int number, seed;
	struct soak_owner *mine;
	struct pinlease_ctx *ctx;
	struct device *device;
	struct write write[SOAK_DEPTH];
	bool busy[SOAK_BLOCKS];	/* one write of a block at a time */
	bool unsaved;		/* a write has completed, and no break or sync has written it back since */
	struct soak_file *f;
	struct pinlease_file *file;
	struct leased leased[SOAK_SLOTS];
	uint64_t until;		/* the session's end, ns */
	struct look look;
};

static inline bool chance(struct owner *o, unsigned int one_in)
{
	return !soak_roll(&o->seed, one_in);
}

void take_all(struct owner *o);	/* completions, until none is missing */
void hear(struct owner *o);	/* events, and what they come to, for the judge */
void settle(struct owner *o);	/* what was lost */

#endif
