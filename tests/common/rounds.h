/* SPDX-License-Identifier: BSD-3-Clause */
/* Counts of the tier that runs, from tests/rounds.h. */
#ifndef PL_TEST_ROUNDS_H
#define PL_TEST_ROUNDS_H

enum pl_round {
#define PL_ROUNDS(name, ci, full) PL_R_##name,
#include "../rounds.h"
#undef PL_ROUNDS
	PL_R_COUNT
};

unsigned int pl_rounds(enum pl_round which);

#endif
