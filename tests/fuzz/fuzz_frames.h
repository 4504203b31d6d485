/* SPDX-License-Identifier: BSD-3-Clause */
/* The frames that messages between owner and peer come in: two kinds of input of fuzz_peer. */
#ifndef PL_FUZZ_FRAMES_H
#define PL_FUZZ_FRAMES_H

#include "fuzz_sim.h"

/* What a carrier over a socket hears of its lease's peer: steps, each a byte, with what belongs to it. */
void fuzz_carrier(struct fuzz_input *in, struct pinlease *lease);
/* What pl-copy and its server read of each other. */
void fuzz_copy(const uint8_t *data, size_t len);

#endif
