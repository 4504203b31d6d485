/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of the process share. */
#ifndef PL_EXPLORE_APP_H
#define PL_EXPLORE_APP_H

#include "explore.h"

struct pinlease *x_lease_use(uint32_t i); /* NULL: being released; else x_lease_leave() is due */
void x_lease_leave(uint32_t i);

/* peers.c: one grant, and the peer that has it, for each lease */
void x_peer_new(uint32_t i);
void x_peer_event(uint32_t i, const struct pinlease_event *ev);
void x_peer_end(uint32_t i);

#endif
