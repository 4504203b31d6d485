/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdbool.h>

#include "stats.h"

/* Bucket i has what took less than 2^i us, and no less than half of that; the last one, all the rest. */
static unsigned int stats_bucket(uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned int i = us ? 64 - (unsigned int)__builtin_clzll(us) : 0;

	return i < PINLEASE_STATS_BUCKETS ? i : PINLEASE_STATS_BUCKETS - 1;
}

static uint64_t stats_read(_Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void pl_stats_event(struct pl_stats *stats, const struct pinlease_event *ev)
{
	if (ev->type < PINLEASE_STATS_EVENTS)
		pl_stats_add(&stats->events[ev->type], 1);
	pl_stats_add(&stats->cut_off, ev->in_flight);
}

void pl_stats_break(struct pl_stats *stats, uint64_t ns, bool expired)
{
	uint64_t max = stats_read(&stats->break_ns_max);

	pl_stats_add(&stats->answered, 1);
	if (expired)
		pl_stats_add(&stats->expired, 1);
	pl_stats_add(&stats->break_ns_sum, ns);
	pl_stats_add(&stats->break_hist[stats_bucket(ns)], 1);
	while (ns > max && !atomic_compare_exchange_weak_explicit(&stats->break_ns_max, &max, ns,
								  memory_order_relaxed, memory_order_relaxed))
		;
}

void pl_stats_get(struct pl_stats *stats, struct pinlease_ctx_stats *out)
{
	unsigned int i;

	/* In this order: a lease that is released meanwhile must not make the difference negative. */
	out->released = stats_read(&stats->released);
	out->acquired = stats_read(&stats->acquired);
	out->leases = out->acquired - out->released;
	out->cut_off = stats_read(&stats->cut_off);
	out->answered = stats_read(&stats->answered);
	out->expired = stats_read(&stats->expired);
	out->break_ns_sum = stats_read(&stats->break_ns_sum);
	out->break_ns_max = stats_read(&stats->break_ns_max);
	for (i = 0; i < PINLEASE_STATS_EVENTS; i++)
		out->events[i] = stats_read(&stats->events[i]);
	for (i = 0; i < PINLEASE_STATS_BUCKETS; i++)
		out->break_hist[i] = stats_read(&stats->break_hist[i]);
}
