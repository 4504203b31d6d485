/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 1: the byte ranges leased of a file: an intrusive treap; a node knows the furthest end below. */
#ifndef PL_RANGE_H
#define PL_RANGE_H

#include <stdbool.h>
#include <stdint.h>

struct pl_range {
	uint64_t off, len;
	uint64_t max_end;
	struct pl_range *left, *right;
};

struct pl_range_tree {
	struct pl_range *root;
};

void pl_range_insert(struct pl_range_tree *tree, struct pl_range *node, uint64_t off, uint64_t len);
void pl_range_remove(struct pl_range_tree *tree, struct pl_range *node);
/* Calls fn for each range that overlaps off..end until it answers non-zero, and returns that. */
int pl_range_each(const struct pl_range_tree *tree, uint64_t off, uint64_t end,
		  int (*fn)(void *arg, struct pl_range *node), void *arg);

#endif
