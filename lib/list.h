/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 0: intrusive circular doubly linked lists; an unlinked node points to itself. */
#ifndef PL_LIST_H
#define PL_LIST_H

#include <stdbool.h>

#include "util.h"

struct pl_list {
	struct pl_list *prev, *next;
};

static inline void pl_list_init(struct pl_list *n)
{
	n->prev = n->next = n;
}

static inline bool pl_list_empty(const struct pl_list *head)
{
	return head->next == head;
}

static inline void pl_list_add_tail(struct pl_list *head, struct pl_list *n)
{
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}

static inline void pl_list_del(struct pl_list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	pl_list_init(n);
}

#define pl_list_for_each(pos, head) for ((pos) = (head)->next; (pos) != (head); (pos) = (pos)->next)
#define pl_list_for_each_safe(pos, tmp, head)                                                                \
	for ((pos) = (head)->next, (tmp) = (pos)->next; (pos) != (head); (pos) = (tmp), (tmp) = (pos)->next)

#endif
