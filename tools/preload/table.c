/* SPDX-License-Identifier: BSD-3-Clause */
#include <sched.h>

#include "table.h"

#define SPINS 100

void pre_table_init(struct pre_table *t, struct pre_range *memory, size_t room)
{
	*t = (struct pre_table){ .range = memory, .room = room };
	atomic_init(&t->low, UINTPTR_MAX);
}

/* All fields are relaxed atomics: the sequence number around them says whether they belong together. */
static uintptr_t range_start(const struct pre_range *r)
{
	return atomic_load_explicit(&r->start, memory_order_relaxed);
}

static uintptr_t range_end(const struct pre_range *r)
{
	return atomic_load_explicit(&r->end, memory_order_relaxed);
}

static size_t table_count(const struct pre_table *t)
{
	return atomic_load_explicit(&t->count, memory_order_relaxed);
}

/* The first range that ends behind at; the count if there is none. */
static size_t table_find(const struct pre_table *t, uintptr_t at)
{
	size_t low = 0, high = table_count(t), middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (range_end(&t->range[middle]) <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct pre_part range_get(const struct pre_range *r)
{
	return (struct pre_part){
		.start = range_start(r),
		.end = range_end(r),
		.off = atomic_load_explicit(&r->off, memory_order_relaxed),
		.fd = atomic_load_explicit(&r->fd, memory_order_relaxed),
	};
}

static void range_set(struct pre_range *r, const struct pre_part *part)
{
	atomic_store_explicit(&r->start, part->start, memory_order_relaxed);
	atomic_store_explicit(&r->end, part->end, memory_order_relaxed);
	atomic_store_explicit(&r->off, part->off, memory_order_relaxed);
	atomic_store_explicit(&r->fd, part->fd, memory_order_relaxed);
}

/* Pairs with the readers' acquire of seq, and with their fence before they look at it again. */
static void write_begin(struct pre_table *t)
{
	uint64_t seq = atomic_load_explicit(&t->seq, memory_order_relaxed);

	atomic_store_explicit(&t->seq, seq + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
}

static void write_end(struct pre_table *t)
{
	uint64_t seq = atomic_load_explicit(&t->seq, memory_order_relaxed);

	atomic_store_explicit(&t->seq, seq + 1, memory_order_release);
}

/* Between write_begin and write_end. Makes or closes a gap of one range. */
static bool table_open(struct pre_table *t, size_t at)
{
	size_t i, count = table_count(t);
	struct pre_part part;

	if (count == t->room)
		return false;
	for (i = count; i > at; i--) {
		part = range_get(&t->range[i - 1]);
		range_set(&t->range[i], &part);
	}
	atomic_store_explicit(&t->count, count + 1, memory_order_relaxed);
	return true;
}

static void table_close(struct pre_table *t, size_t at, size_t gone)
{
	size_t i, count = table_count(t) - gone;
	struct pre_part part;

	for (i = at; gone && i < count; i++) {
		part = range_get(&t->range[i + gone]);
		range_set(&t->range[i], &part);
	}
	atomic_store_explicit(&t->count, count, memory_order_relaxed);
}

void pre_table_drop(struct pre_table *t, struct pre_fd *fd)
{
	if (--fd->refs)
		return;
	fd->next = t->dead;
	t->dead = fd;
}

static void table_put(struct pre_table *t, const struct pre_part *part)
{
	size_t at = table_find(t, part->start);

	if (part->start >= part->end || !table_open(t, at))
		return;
	part->fd->refs++;
	range_set(&t->range[at], part);
	if (part->start < atomic_load_explicit(&t->low, memory_order_relaxed))
		atomic_store_explicit(&t->low, part->start, memory_order_relaxed);
	if (part->end > atomic_load_explicit(&t->high, memory_order_relaxed))
		atomic_store_explicit(&t->high, part->end, memory_order_relaxed);
}

static void table_cut(struct pre_table *t, uintptr_t start, uintptr_t end)
{
	size_t at = table_find(t, start), first, i;
	struct pre_part part, tail;

	if (start >= end || at == table_count(t))
		return;
	part = range_get(&t->range[at]);
	if (part.start < start) {
		tail = part;
		tail.start = end;
		tail.off += end - part.start;
		/* First the end: the tail is found a place behind it. */
		part.end = start;
		range_set(&t->range[at++], &part);
		if (tail.start < tail.end) {
			table_put(t, &tail);
			return;
		}
	}
	for (first = at; at < table_count(t); at++) {
		part = range_get(&t->range[at]);
		if (part.end > end)
			break;
	}
	if (at < table_count(t) && part.start < end) {
		part.off += end - part.start;
		part.start = end;
		range_set(&t->range[at], &part);
	}
	for (i = first; i < at; i++)
		pre_table_drop(t, range_get(&t->range[i]).fd);
	table_close(t, first, at - first);
}

void pre_table_insert(struct pre_table *t, uintptr_t start, uintptr_t end, uint64_t off, struct pre_fd *fd)
{
	const struct pre_part part = { .start = start, .end = end, .off = off, .fd = fd };

	write_begin(t);
	table_cut(t, start, end);
	table_put(t, &part);
	write_end(t);
}

void pre_table_remove(struct pre_table *t, uintptr_t start, uintptr_t end)
{
	write_begin(t);
	table_cut(t, start, end);
	write_end(t);
}

/* What part of the first range at or after start lies before end? */
static bool table_look(const struct pre_table *t, uintptr_t start, uintptr_t end, struct pre_part *part)
{
	size_t at = table_find(t, start);

	if (at == table_count(t))
		return false;
	*part = range_get(&t->range[at]);
	if (part->start < start) {
		part->off += start - part->start;
		part->start = start;
	}
	if (part->end > end)
		part->end = end;
	return part->start < part->end;
}

/* The mapping that ends at end has grown, by as much of the file as follows. */
static void table_grow(struct pre_table *t, uintptr_t end, size_t more)
{
	struct pre_part part;

	if (!more || !table_look(t, end - 1, end, &part))
		return;
	part = (struct pre_part){ .start = end, .end = end + more, .off = part.off + 1, .fd = part.fd };
	table_put(t, &part);
}

void pre_table_move(struct pre_table *t, uintptr_t old, size_t old_len, uintptr_t new, size_t new_len,
		    bool keep)
{
	uintptr_t at = old, end = old + (old_len < new_len ? old_len : new_len);
	struct pre_part part;

	write_begin(t);
	if (new != old)
		table_cut(t, new, new + new_len);
	if (!old_len && table_look(t, old, old + 1, &part)) {
		part.start = new;
		part.end = new + new_len;
		table_put(t, &part);
	}
	while (new != old && old_len && table_look(t, at, end, &part)) {
		at = part.end;
		part.end = new + (part.end - old);
		part.start = new + (part.start - old);
		/* Put before it is cut, so that the descriptor is never without a user. */
		table_put(t, &part);
	}
	if (old_len && new_len > old_len)
		table_grow(t, new + old_len, new_len - old_len);
	if (new == old && new_len < old_len)
		table_cut(t, old + new_len, old + old_len);
	else if (new != old && !keep)
		table_cut(t, old, old + old_len);
	write_end(t);
}

bool pre_table_meets(const struct pre_table *t, uintptr_t start, uintptr_t end, struct pre_gap *gap)
{
	struct pre_gap seen = { .seq = atomic_load_explicit(&t->seq, memory_order_acquire),
				.end = UINTPTR_MAX };
	size_t at;

	if (seen.seq & 1)
		return true;
	at = table_find(t, start);
	if (at)
		seen.start = range_end(&t->range[at - 1]);
	if (at < table_count(t))
		seen.end = range_start(&t->range[at]);
	atomic_thread_fence(memory_order_acquire);
	if (seen.end < end || atomic_load_explicit(&t->seq, memory_order_relaxed) != seen.seq)
		return true;
	*gap = seen;
	return false;
}

bool pre_table_next(struct pre_table *t, uintptr_t start, uintptr_t end, struct pre_part *part)
{
	unsigned int spins = 0;
	struct pre_part seen;
	uint64_t seq;
	bool found;

	for (;;) {
		seq = atomic_load_explicit(&t->seq, memory_order_acquire);
		if (!(seq & 1)) {
			found = table_look(t, start, end, &seen);
			atomic_thread_fence(memory_order_acquire);
			if (atomic_load_explicit(&t->seq, memory_order_relaxed) == seq)
				break;
		}
		/* The writer may have lost its processor to us. */
		if (++spins % SPINS == 0)
			sched_yield();
	}
	if (found)
		*part = seen;
	return found;
}
