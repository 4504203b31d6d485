/* SPDX-License-Identifier: BSD-3-Clause */
/* What most fuzzers of calls begin with: a simulated device, a file, and a lease of its first pages. */
#ifndef PL_FUZZ_SIM_H
#define PL_FUZZ_SIM_H

#include <infiniband/verbs.h>

#include <pinlease.h>

#include "fuzz.h"
#include "sim.h"

struct fuzz_sim {
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct ibv_pd *pd;
};

static inline struct fuzz_sim fuzz_sim_make(void)
{
	struct pinlease_opts o = { .size = sizeof(o), .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct fuzz_sim s;
	const char *path;

	sim_begin();
	s.pd = o.pd = sim_device(SIM_ODP_NONE);
	path = sim_file("file", 16 * SIM_PAGE);
	fuzz_require(!pinlease_ctx_new(NULL, &s.ctx));
	fuzz_require(!pinlease_file_open(s.ctx, path, NULL, NULL, &s.file));
	fuzz_require(!pinlease_acquire(s.file, 0, 4 * SIM_PAGE, &o, NULL, &s.lease));
	return s;
}

#endif
