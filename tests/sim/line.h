/* SPDX-License-Identifier: BSD-3-Clause */
/* A grant, and the peer that has it, in one process: messages go by carriers over a real socket. */
#ifndef PL_SIM_LINE_H
#define PL_SIM_LINE_H

#include <pinlease/carry.h>

#include "world.h"

#define LINE_PATIENCE_MS 250

extern const struct pinlease_opts line_manual;
extern const struct pinlease_carry_opts line_brief; /* the owner's: LINE_PATIENCE_MS */

struct line {
	int fd[2];			/* the owner's, the peer's */
	struct pinlease_carry *owner, *remote;
	struct pinlease_grant *grant;
	struct pinlease_peer *peer;
	unsigned char buf[PINLEASE_CARRY_MAX];
	uint32_t kind;
};

void line_new(struct line *l);
void line_free(struct line *l);
int line_hear(struct line *l, struct pinlease_carry *c);
/* A grant of the whole lease, and the peer that it makes at the other end. */
void line_grant(struct line *l, struct pinlease *lease);
int line_begin(struct line *l, struct pinlease_peer_key *key);
/* A whole break, with an operation in flight when RECALL comes. */
void line_break(struct world *w, struct line *l, struct pinlease *lease);

#endif
