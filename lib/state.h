/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: the states of a lease and of a file, and the arrows between them.
 * pinlease_states(7) shows the same tables; a test compares them.
 */
#ifndef PL_STATE_H
#define PL_STATE_H

#include <stdbool.h>
#include <stddef.h>

#include <pinlease.h>

enum pl_file_state {
	PL_FILE_HELD = PINLEASE_FILE_HELD,
	PL_FILE_BREAKING = PINLEASE_FILE_BREAKING,
	PL_FILE_FREE = PINLEASE_FILE_FREE,
	PL_FILE_EXPIRED = PINLEASE_FILE_EXPIRED,
	PL_FILE_REARMING = PINLEASE_FILE_REARMING,
};

struct pl_arrow {
	int from, to;
	const char *name;
};

extern const struct pl_arrow pl_lease_arrows[], pl_file_arrows[];
extern const size_t pl_lease_arrow_count, pl_file_arrow_count;

/* The arrow's name, or NULL: no such arrow. */
const char *pl_lease_arrow(enum pinlease_state from, enum pinlease_state to);
const char *pl_file_arrow(enum pl_file_state from, enum pl_file_state to);
const char *pl_lease_state_name(enum pinlease_state state);
const char *pl_file_state_name(enum pl_file_state state);

#endif
