/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "budget.h"
#include "sys.h"
#include "util.h"

/* Of lease-break-time, kept back for fencing, the last piece and a late wake-up of ours. */
#define MARGIN_MIN_NS (250 * PL_NS_PER_MS)
#define MARGIN_MAX_NS (5 * PL_NS_PER_S)
#define SLACK_NS      (500 * PL_NS_PER_MS)
/* Of the budget, for all told leases together, however much the others want. */
#define TOLD_PART 8

void pl_disks_init(struct pl_disks *disks)
{
	pl_list_init(&disks->list);
	pthread_mutex_init(&disks->lock, NULL);
}

void pl_disks_fini(struct pl_disks *disks)
{
	pthread_mutex_destroy(&disks->lock);
}

void pl_disks_forget(struct pl_disks *disks)
{
	struct pl_list *pos, *next;

	pl_list_for_each_safe(pos, next, &disks->list)
		pl_sys_free(pl_container(pos, struct pl_disk, link));
}

static struct pl_disk *disk_find(struct pl_disks *disks, uint64_t dev)
{
	struct pl_list *pos;

	pl_list_for_each(pos, &disks->list)
		if (pl_container(pos, struct pl_disk, link)->dev == dev)
			return pl_container(pos, struct pl_disk, link);
	return NULL;
}

struct pl_disk *pl_disk_get(struct pl_disks *disks, uint64_t dev)
{
	struct pl_disk *disk;

	pthread_mutex_lock(&disks->lock);
	disk = disk_find(disks, dev);
	if (!disk) {
		disk = pl_sys_alloc(sizeof(*disk));
		if (disk) {
			disk->dev = dev;
			pl_list_add_tail(&disks->list, &disk->link);
		}
	}
	if (disk)
		disk->users++;
	pthread_mutex_unlock(&disks->lock);
	return disk;
}

void pl_disk_put(struct pl_disks *disks, struct pl_disk *disk)
{
	if (!disk)
		return;
	pthread_mutex_lock(&disks->lock);
	if (!--disk->users)
		pl_list_del(&disk->link);
	else
		disk = NULL;
	pthread_mutex_unlock(&disks->lock);
	pl_sys_free(disk);
}

uint64_t pl_budget_margin(uint64_t break_time)
{
	return pl_min_u64(pl_min_u64(pl_max_u64(break_time / 4, MARGIN_MIN_NS), MARGIN_MAX_NS),
			  break_time / 2);
}

static uint64_t budget_left(uint64_t break_time)
{
	return break_time - pl_budget_margin(break_time);
}

/* Slack, and what an application may count on for draining. */
static uint64_t budget_least(uint64_t left, uint64_t deadline)
{
	uint64_t slack = pl_min_u64(SLACK_NS, left / 3);

	return slack + pl_min_u64(deadline, (left - slack) / 2);
}

uint64_t pl_budget_window(uint64_t break_time, uint64_t deadline)
{
	if (break_time == PL_NEVER)
		return PL_NEVER;
	return budget_left(break_time) - budget_least(budget_left(break_time), deadline);
}

static uint64_t disk_rate(const struct pl_disk *disk)
{
	uint64_t rate = atomic_load_explicit(&disk->rate, memory_order_relaxed);

	return rate ? rate : PL_RATE_SLOWEST;
}

/* a * b / c, as much as fits; large ones need not be exact. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t product;
	double n;

	if (!__builtin_mul_overflow(a, b, &product))
		return product / c;
	n = (double)a * (double)b / (double)c;
	return n < (double)UINT64_MAX ? (uint64_t)n : UINT64_MAX;
}

uint64_t pl_disk_bytes(const struct pl_disk *disk, uint64_t ns)
{
	return ns == PL_NEVER ? UINT64_MAX : scale(disk_rate(disk), ns, PL_NS_PER_S);
}

/* What told leases need at least of a budget. */
static uint64_t told_least(uint64_t told, uint64_t budget)
{
	return pl_min_u64(told, budget / TOLD_PART);
}

uint64_t pl_budget_drain(const struct pl_disk *disk, uint64_t break_time, uint64_t deadline)
{
	uint64_t left = budget_left(break_time), bytes;

	bytes = pl_add_sat(atomic_load_explicit(&disk->whole, memory_order_relaxed),
			   atomic_load_explicit(&disk->told, memory_order_relaxed));
	/* What then does not fit was reserved under a longer lease-break-time, or is told and kept small. */
	return pl_max_u64(budget_least(left, deadline),
			  pl_sub_sat(left, scale(bytes, PL_NS_PER_S, disk_rate(disk))));
}

void pl_disk_measured(struct pl_disks *disks, struct pl_disk *disk, uint64_t bytes, uint64_t ns, bool synced)
{
	uint64_t sample = pl_max_u64(1, scale(bytes, PL_NS_PER_S, pl_max_u64(ns, 1))), rate;

	if (!disk || bytes < PL_SAMPLE_BYTES)
		return;
	pthread_mutex_lock(&disks->lock);
	rate = atomic_load_explicit(&disk->rate, memory_order_relaxed);
	if (!synced && sample >= disk_rate(disk))
		sample = rate;
	else if (!rate)
		;
	else if (!synced || sample > rate)
		sample = rate / 2 + sample / 2;
	else
		sample = rate - (rate - sample) / 8;
	atomic_store_explicit(&disk->rate, sample, memory_order_relaxed);
	pthread_mutex_unlock(&disks->lock);
}

static void disk_add(_Atomic uint64_t *sum, uint64_t len)
{
	atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + len,
			      memory_order_relaxed);
}

int pl_disk_reserve(struct pl_disks *disks, struct pl_disk *disk, uint64_t len, bool told, uint64_t window)
{
	uint64_t budget = pl_disk_bytes(disk, window), whole, sum;
	int r = -EFBIG;

	pthread_mutex_lock(&disks->lock);
	whole = atomic_load_explicit(&disk->whole, memory_order_relaxed);
	sum = atomic_load_explicit(&disk->told, memory_order_relaxed);
	if (told)
		sum = pl_add_sat(sum, len);
	else
		whole = pl_add_sat(whole, len);
	if (pl_add_sat(whole, told_least(sum, budget)) <= budget) {
		disk_add(told ? &disk->told : &disk->whole, len);
		r = 0;
	}
	pthread_mutex_unlock(&disks->lock);
	return r;
}

void pl_disk_return(struct pl_disks *disks, struct pl_disk *disk, uint64_t len, bool told)
{
	pthread_mutex_lock(&disks->lock);
	disk_add(told ? &disk->told : &disk->whole, 0 - len);
	pthread_mutex_unlock(&disks->lock);
}

uint64_t pl_disk_share(const struct pl_disk *disk, uint64_t len, uint64_t window)
{
	uint64_t told = pl_max_u64(atomic_load_explicit(&disk->told, memory_order_relaxed), len);
	uint64_t budget = pl_disk_bytes(disk, window);
	uint64_t left = pl_sub_sat(budget, atomic_load_explicit(&disk->whole, memory_order_relaxed));

	left = pl_max_u64(left, told_least(told, budget));
	return left >= told ? len : scale(left, len, told);
}

bool pl_disks_fit(struct pl_disks *disks, uint64_t window)
{
	const struct pl_disk *disk;
	struct pl_list *pos;
	bool fit = true;

	pthread_mutex_lock(&disks->lock);
	pl_list_for_each(pos, &disks->list) {
		disk = pl_container(pos, struct pl_disk, link);
		fit &= atomic_load_explicit(&disk->whole, memory_order_relaxed) <=
		       pl_disk_bytes(disk, window);
	}
	pthread_mutex_unlock(&disks->lock);
	return fit;
}

static uint64_t chunk_clamp(uint64_t bytes)
{
	return pl_min_u64(pl_max_u64(bytes, PL_CHUNK_MIN), PL_CHUNK_BYTES);
}

uint64_t pl_chunk_first(const struct pl_disk *disk)
{
	uint64_t rate = disk ? atomic_load_explicit(&disk->rate, memory_order_relaxed) : 0;

	return rate ? chunk_clamp(scale(rate, PL_CHUNK_NS, PL_NS_PER_S)) : PL_CHUNK_BYTES;
}

/* Up again only when there is room to spare, so that it does not swing. */
uint64_t pl_chunk_next(uint64_t bytes, uint64_t took_ns)
{
	if (took_ns > PL_CHUNK_NS)
		return chunk_clamp(scale(bytes, PL_CHUNK_NS / 2, took_ns));
	return took_ns < PL_CHUNK_NS / 4 ? chunk_clamp(2 * bytes) : bytes;
}
