/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 5: what would file_open and acquire say, for every guard, mode and access? Asked of
 * themselves: each cell is a trial (trial.h), opened, acquired and released again.
 */
#ifndef PL_PROBE_H
#define PL_PROBE_H

#include "objects.h"

/* Of path, or, if that is NULL, of fd. opts are normalised; out is complete but for its size. */
int pl_probe(struct pl_env *env, const char *path, int fd, const struct pinlease_probe_opts *opts,
	     struct pinlease_why *why, struct pinlease_probe_result *out);

/* What a probe had to leave behind is asked for again. Nothing may be probing. */
void pl_probe_clean(struct pl_env *env);

#endif
