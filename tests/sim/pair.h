/* SPDX-License-Identifier: BSD-3-Clause */
/* A grant, and the peer that has it, in one process: messages go by byte buffer. Failures end the test. */
#ifndef PL_SIM_PAIR_H
#define PL_SIM_PAIR_H

#include <pinlease/peers.h>

#include "world.h"

struct pair {
	struct pinlease_grant *grant;
	struct pinlease_peer *peer;
};

extern unsigned char pair_buf[PINLEASE_MESSAGE_MAX]; /* the last message */

struct pair pair_new(struct pinlease *lease, uint64_t off, uint64_t len);
void pair_free(struct pair *p);
/* What the owner has for the peer, if anything; its length, and what the peer says. */
int pair_tell(struct pair *p, uint32_t flags, int *ret);
/* What the owner says to the peer's answer. */
int pair_answer(struct pair *p);
/* RECALL is due, and nothing else. */
void pair_recall(struct pair *p);

#endif
