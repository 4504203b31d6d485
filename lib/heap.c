/* SPDX-License-Identifier: BSD-3-Clause */
#include <stddef.h>

#include "heap.h"

static struct pl_heap_node *heap_meld(struct pl_heap_node *a, struct pl_heap_node *b)
{
	struct pl_heap_node *t;

	if (!a || !b)
		return a ? a : b;
	if (b->key < a->key) {
		t = a;
		a = b;
		b = t;
	}
	b->next = a->child;
	if (b->next)
		b->next->prev = b;
	b->prev = a;
	a->child = b;
	a->next = a->prev = NULL;
	return a;
}

/*
 * The two passes of a pairing heap: meld neighbours left to right, then all of them
 * right to left. Iterative, since 10,000 leases broken at once make 10,000 siblings.
 */
static struct pl_heap_node *heap_merge_siblings(struct pl_heap_node *first)
{
	struct pl_heap_node *pairs = NULL, *root = NULL, *a, *b, *rest;

	while (first) {
		a = first;
		b = a->next;
		rest = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		a = heap_meld(a, b);
		a->next = pairs;
		pairs = a;
		first = rest;
	}
	while (pairs) {
		rest = pairs->next;
		pairs->next = NULL;
		root = heap_meld(root, pairs);
		pairs = rest;
	}
	return root;
}

static void heap_set_root(struct pl_heap *heap, struct pl_heap_node *root)
{
	heap->root = root;
	if (root)
		root->prev = root;
}

void pl_heap_push(struct pl_heap *heap, struct pl_heap_node *node, uint64_t key)
{
	node->key = key;
	node->child = node->next = node->prev = NULL;
	heap_set_root(heap, heap_meld(heap->root, node));
}

void pl_heap_remove(struct pl_heap *heap, struct pl_heap_node *node)
{
	if (node == heap->root) {
		heap_set_root(heap, heap_merge_siblings(node->child));
	} else {
		if (node->prev->child == node)
			node->prev->child = node->next;
		else
			node->prev->next = node->next;
		if (node->next)
			node->next->prev = node->prev;
		heap_set_root(heap, heap_meld(heap->root, heap_merge_siblings(node->child)));
	}
	node->child = node->next = node->prev = NULL;
}
