/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 7: a ctx is what files and leases need, and the threads that serve them. */
#ifndef PL_CTX_H
#define PL_CTX_H

#include "breaker.h"
#include "objects.h"
#include "worker.h"

struct pinlease_ctx {
	struct pl_env env;
	struct pl_breaker breaker;
	struct pl_workers workers;
};

int pl_ctx_new(const struct pinlease_ctx_opts *opts, struct pinlease_ctx **out);
int pl_ctx_free(struct pinlease_ctx *ctx);
int pl_ctx_next_event(struct pinlease_ctx *ctx, struct pinlease_event *ev);

#endif
