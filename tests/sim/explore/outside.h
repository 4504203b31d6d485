/* SPDX-License-Identifier: BSD-3-Clause */
/* An opener that is waiting, or in; props.c looks how long. */
#ifndef PL_EXPLORE_OUTSIDE_H
#define PL_EXPLORE_OUTSIDE_H

#include "explore.h"

struct x_comer {
	struct sim_opener *o; /* NULL: not there */
	uint32_t file;
};
extern struct x_comer x_comers[X_OPENERS];

void x_props_expired(const struct x_comer *c);
void x_props_insisting(const struct x_comer *c, uint64_t since);
void x_props_continued(void); /* after a stop */

#endif
