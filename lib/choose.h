/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 3: which modes to try for a lease, best first, and why not the better ones. */
#ifndef PL_CHOOSE_H
#define PL_CHOOSE_H

#include <pinlease.h>

#include "objects.h"

struct pl_choice {
	uint32_t mode;
	int err;		/* 0: try it; else refused, for reason */
	uint32_t reason;
	const struct pinlease_backend *backend;	/* NULL: no registration */
	void *arg;
};

/*
 * The i-th choice, best first; false: there is none. One at a time, since asking the
 * device about ODP may run the data check, milliseconds of it. What was asked for by
 * name is the only choice.
 */
bool pl_choose(const struct pinlease_file *file, uint32_t access, const struct pinlease_opts *opts,
	       unsigned int i, struct pl_choice *c);
/* An error after which AUTO goes on to the next mode: the kernel, device or backend said no to this kind. */
bool pl_choose_goes_on(int err, uint32_t reason);

#endif
