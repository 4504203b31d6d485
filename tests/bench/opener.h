/* SPDX-License-Identifier: BSD-3-Clause */
/* A process of its own that truncates a file when it is told to, and says how long it was blocked. */
#ifndef PL_BENCH_OPENER_H
#define PL_BENCH_OPENER_H

#include "kt.h"

#define OPENER_BYTES (2 << 20)	/* what it truncates to: the size the file has */

struct opener_orders;

struct opener {
	struct kt_call *call;
	struct opener_orders *orders;
};

int opener_start(struct opener *o);
/* The time of truncate(path), in us: 0, -errno, -ETIMEDOUT. */
int opener_truncate(struct opener *o, const char *path, double *us);
/* It is what was measured: to the spans (bench.h). */
void opener_span(const struct opener *o);
void opener_end(struct opener *o);

#endif
