/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "registry.h"
#include "sys.h"

#define REGISTRY_CAP_MIN 64

void pl_registry_init(struct pl_registry *reg)
{
	*reg = (struct pl_registry){ .by_fd = NULL };
	pthread_mutex_init(&reg->lock, NULL);
	pl_list_init(&reg->objects);
}

void pl_registry_fini(struct pl_registry *reg)
{
	pl_sys_free(reg->by_fd);
	pthread_mutex_destroy(&reg->lock);
}

static int registry_grow(struct pl_registry *reg, size_t fd)
{
	size_t cap = reg->cap ? reg->cap : REGISTRY_CAP_MIN;
	struct pl_registered **by_fd;

	while (cap <= fd)
		cap *= 2;
	if (cap == reg->cap)
		return 0;
	by_fd = pl_sys_alloc(cap * sizeof(*by_fd));
	if (!by_fd)
		return -ENOMEM;
	if (reg->cap)
		memcpy(by_fd, reg->by_fd, reg->cap * sizeof(*by_fd));
	pl_sys_free(reg->by_fd);
	reg->by_fd = by_fd;
	reg->cap = cap;
	return 0;
}

/*
 * The number can be taken only if the application has closed the other object's fd. The
 * kernel gave the number to the new one, so signals that name it are the new one's.
 */
int pl_registry_add(struct pl_registry *reg, int fd, struct pl_registered *obj)
{
	int r;

	pthread_mutex_lock(&reg->lock);
	r = registry_grow(reg, (size_t)fd);
	if (!r) {
		obj->fd = fd;
		obj->refs = 1;
		reg->by_fd[fd] = obj;
		pl_list_add_tail(&reg->objects, &obj->link);
		reg->count++;
	}
	pthread_mutex_unlock(&reg->lock);
	return r;
}

void pl_registry_remove(struct pl_registry *reg, struct pl_registered *obj)
{
	pthread_mutex_lock(&reg->lock);
	if (!pl_list_empty(&obj->link)) {
		if (reg->by_fd[obj->fd] == obj)
			reg->by_fd[obj->fd] = NULL;
		pl_list_del(&obj->link);
		reg->count--;
	}
	pthread_mutex_unlock(&reg->lock);
}

size_t pl_registry_count(struct pl_registry *reg)
{
	size_t count;

	pthread_mutex_lock(&reg->lock);
	count = reg->count;
	pthread_mutex_unlock(&reg->lock);
	return count;
}

struct pl_registered *pl_registry_get(struct pl_registry *reg, int fd)
{
	struct pl_registered *obj = NULL;

	pthread_mutex_lock(&reg->lock);
	if (fd >= 0 && (size_t)fd < reg->cap)
		obj = reg->by_fd[fd];
	if (obj)
		obj->refs++;
	pthread_mutex_unlock(&reg->lock);
	return obj;
}

bool pl_registry_put(struct pl_registry *reg, struct pl_registered *obj)
{
	bool last;

	pthread_mutex_lock(&reg->lock);
	last = --obj->refs == 0;
	pthread_mutex_unlock(&reg->lock);
	return last;
}

/* A cursor (fd -1) stands in the list while the lock is dropped, so it cannot lose its place. */
void pl_registry_each(struct pl_registry *reg, void (*fn)(void *arg, struct pl_registered *obj), void *arg)
{
	struct pl_registered cursor = { .fd = -1 }, *obj;
	struct pl_list *next;

	pthread_mutex_lock(&reg->lock);
	pl_list_add_tail(reg->objects.next, &cursor.link);
	while ((next = cursor.link.next) != &reg->objects) {
		obj = pl_container(next, struct pl_registered, link);
		pl_list_del(&cursor.link);
		pl_list_add_tail(next->next, &cursor.link);
		if (obj->fd < 0)
			continue;
		obj->refs++;
		pthread_mutex_unlock(&reg->lock);
		fn(arg, obj);
		pthread_mutex_lock(&reg->lock);
	}
	pl_list_del(&cursor.link);
	pthread_mutex_unlock(&reg->lock);
}
