/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 2: the registry: from the fd that a signal names to the object, and all objects
 * for the slow pass. An object starts with one reference, its creator's. Who gets one
 * by pl_registry_get or pl_registry_each puts it, and frees the object when told to.
 */
#ifndef PL_REGISTRY_H
#define PL_REGISTRY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "list.h"

struct pl_registered {
	struct pl_list link;
	int fd;
	unsigned int refs;
};

struct pl_registry {
	pthread_mutex_t lock;	/* protects everything here and in the objects; first in the lock order */
	struct pl_registered **by_fd;
	size_t cap, count;
	struct pl_list objects;
};

void pl_registry_init(struct pl_registry *reg);
void pl_registry_fini(struct pl_registry *reg);
/* 0, -ENOMEM. An object registered under the same fd before is found by pl_registry_each only. */
int pl_registry_add(struct pl_registry *reg, int fd, struct pl_registered *obj);
/* It is found no more; references are what they were. Of an object that is not in: nothing. */
void pl_registry_remove(struct pl_registry *reg, struct pl_registered *obj);
size_t pl_registry_count(struct pl_registry *reg);
/* With a reference, or NULL. Allocates nothing. */
struct pl_registered *pl_registry_get(struct pl_registry *reg, int fd);
/* Drops a reference. True: it was the last one, and the object is the caller's to free. */
bool pl_registry_put(struct pl_registry *reg, struct pl_registered *obj);
/*
 * Calls fn for each object, with a reference that fn puts and with no lock held: objects
 * may be added and removed meanwhile.
 */
void pl_registry_each(struct pl_registry *reg, void (*fn)(void *arg, struct pl_registered *obj), void *arg);

#endif
