/* SPDX-License-Identifier: BSD-3-Clause */
#include <stddef.h>

#include "range.h"
#include "util.h"

static uint64_t range_end(const struct pl_range *n)
{
	return pl_add_sat(n->off, n->len);
}

/* The shape must only not follow the order of insertion: Fibonacci hashing of where the node lies. */
static uint64_t range_prio(const struct pl_range *n)
{
	uint64_t x = (uintptr_t)n * 0x9e3779b97f4a7c15u;

	return (x ^ x >> 32) * 0x9e3779b97f4a7c15u;
}

static void range_update(struct pl_range *n)
{
	n->max_end = range_end(n);
	if (n->left)
		n->max_end = pl_max_u64(n->max_end, n->left->max_end);
	if (n->right)
		n->max_end = pl_max_u64(n->max_end, n->right->max_end);
}

/* Ranges may be equal: the address decides, so that every node can be found again. */
static bool range_before(const struct pl_range *a, const struct pl_range *b)
{
	return a->off != b->off ? a->off < b->off : (uintptr_t)a < (uintptr_t)b;
}

/* Everything before key goes to *left, the rest to *right. */
static void range_split(struct pl_range *n, const struct pl_range *key, struct pl_range **left,
			struct pl_range **right)
{
	if (!n) {
		*left = *right = NULL;
	} else if (range_before(n, key)) {
		range_split(n->right, key, &n->right, right);
		*left = n;
		range_update(n);
	} else {
		range_split(n->left, key, left, &n->left);
		*right = n;
		range_update(n);
	}
}

static struct pl_range *range_join(struct pl_range *left, struct pl_range *right)
{
	if (!left || !right)
		return left ? left : right;
	if (range_prio(left) >= range_prio(right)) {
		left->right = range_join(left->right, right);
		range_update(left);
		return left;
	}
	right->left = range_join(left, right->left);
	range_update(right);
	return right;
}

static struct pl_range *range_put(struct pl_range *n, struct pl_range *node)
{
	if (!n || range_prio(node) > range_prio(n)) {
		range_split(n, node, &node->left, &node->right);
		range_update(node);
		return node;
	}
	if (range_before(node, n))
		n->left = range_put(n->left, node);
	else
		n->right = range_put(n->right, node);
	range_update(n);
	return n;
}

static struct pl_range *range_drop(struct pl_range *n, struct pl_range *node)
{
	if (n == node)
		return range_join(n->left, n->right);
	if (range_before(node, n))
		n->left = range_drop(n->left, node);
	else
		n->right = range_drop(n->right, node);
	range_update(n);
	return n;
}

void pl_range_insert(struct pl_range_tree *tree, struct pl_range *node, uint64_t off, uint64_t len)
{
	node->off = off;
	node->len = len;
	node->left = node->right = NULL;
	tree->root = range_put(tree->root, node);
}

void pl_range_remove(struct pl_range_tree *tree, struct pl_range *node)
{
	tree->root = range_drop(tree->root, node);
	node->left = node->right = NULL;
}

static int range_visit(struct pl_range *n, uint64_t off, uint64_t end,
		       int (*fn)(void *arg, struct pl_range *node), void *arg)
{
	int r;

	if (!n || n->max_end <= off)
		return 0;
	r = range_visit(n->left, off, end, fn, arg);
	if (!r && n->off < end && range_end(n) > off)
		r = fn(arg, n);
	if (!r && n->off < end)
		r = range_visit(n->right, off, end, fn, arg);
	return r;
}

int pl_range_each(const struct pl_range_tree *tree, uint64_t off, uint64_t end,
		  int (*fn)(void *arg, struct pl_range *node), void *arg)
{
	return range_visit(tree->root, off, end, fn, arg);
}
