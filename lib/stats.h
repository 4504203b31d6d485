/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: what has happened in a ctx, counted. Counting takes no lock and allocates nothing,
 * so it may be done anywhere on the break path; begin and end are not counted here at all,
 * their account is the leases'. Each number is right by itself, and a reader may find one
 * counted and another, of the same moment, not yet.
 */
#ifndef PL_STATS_H
#define PL_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include <pinlease.h>

struct pl_stats {
	_Atomic uint64_t acquired, released;
	_Atomic uint64_t events[PINLEASE_STATS_EVENTS];
	_Atomic uint64_t cut_off;
	_Atomic uint64_t answered, expired;
	_Atomic uint64_t break_ns_sum, break_ns_max;
	_Atomic uint64_t break_hist[PINLEASE_STATS_BUCKETS];
};

static inline void pl_stats_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* What an event tells: of every kind how often, also if nobody has taken it. */
void pl_stats_event(struct pl_stats *stats, const struct pinlease_event *ev);
/* A break of a file was answered after so long, or the kernel had let the opener on. */
void pl_stats_break(struct pl_stats *stats, uint64_t ns, bool expired);
/* All but size and files. */
void pl_stats_get(struct pl_stats *stats, struct pinlease_ctx_stats *out);

#endif
