/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 0: an intrusive pairing heap; smallest key first, no allocation. */
#ifndef PL_HEAP_H
#define PL_HEAP_H

#include <stdbool.h>
#include <stdint.h>

struct pl_heap_node {
	uint64_t key;
	/* prev: left sibling, or the parent of a first child; the root's is itself; NULL: in no heap */
	struct pl_heap_node *child, *next, *prev;
};

struct pl_heap {
	struct pl_heap_node *root;
};

void pl_heap_push(struct pl_heap *heap, struct pl_heap_node *node, uint64_t key);
void pl_heap_remove(struct pl_heap *heap, struct pl_heap_node *node);

static inline bool pl_heap_queued(const struct pl_heap_node *node)
{
	return node->prev;
}

static inline struct pl_heap_node *pl_heap_first(const struct pl_heap *heap)
{
	return heap->root;
}

#endif
