/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory as x86 has it (TSO): a store waits in its thread's buffer, first in, first out, where
 * only that thread sees it; what locks, reads and writes at once, or is a full fence,
 * empties it; and membarrier(2) empties everybody's. What is not atomic is written at once:
 * it is read behind a lock or an acquire load only (ThreadSanitizer's matter).
 */
#include <string.h>

#include "atomics.h"
#include "explore.h"

void x_buffer_drain_one(struct x_buffer *b)
{
	struct x_store s = b->store[0];

	memmove(b->store, b->store + 1, --b->count * sizeof(s));
	/* Little endian: the low bytes come first. */
	memcpy((void *)(uintptr_t)s.at, &s.value, s.size);
}

void x_buffer_drain(struct x_buffer *b)
{
	while (b->count)
		x_buffer_drain_one(b);
}

void explore_load(const volatile void *p, void *value, size_t size)
{
	struct x_buffer *b;
	unsigned int i;

	x_point("load");
	b = x_fiber_buffer();
	for (i = b->count; i; i--) {
		if (b->store[i - 1].at != p)
			continue;
		memcpy(value, &b->store[i - 1].value, size);
		return;
	}
	memcpy(value, (const void *)(uintptr_t)p, size);
}

void explore_store(volatile void *p, const void *value, size_t size, int ordered)
{
	struct x_store s = { .at = p, .size = (uint32_t)size };
	struct x_buffer *b;

	x_point("store");
	b = x_fiber_buffer();
	memcpy(&s.value, value, size);
	if (b->count == X_STORES)
		x_buffer_drain_one(b);
	b->store[b->count++] = s;
	if (ordered || !x_plan.buffers)
		x_buffer_drain(b);
}

void explore_rmw(void)
{
	x_point("rmw");
	x_buffer_drain(x_fiber_buffer());
}

void explore_fence(int ordered)
{
	x_point("fence");
	if (ordered)
		x_buffer_drain(x_fiber_buffer());
}
