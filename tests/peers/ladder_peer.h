/* SPDX-License-Identifier: BSD-3-Clause */
/* Between the two ends of a ladder. */
#ifndef PL_PEERS_LADDER_PEER_H
#define PL_PEERS_LADDER_PEER_H

#include "ladder.h"

/* Over TCP it returns at once: the peer waits for its connection to be accepted. */
struct kt_call *ladder_peer_start(struct ladder_peer *p);
/* A queue pair that the carrier may use. poll: with a completion queue of its own for what is sent. */
int ladder_qp(const struct kt_rdma *dev, struct pinlease_carry *carry, bool poll, struct kt_qp *q);

#endif
