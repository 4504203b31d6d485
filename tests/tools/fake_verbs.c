/* SPDX-License-Identifier: BSD-3-Clause */
#include "fake_verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>

#define ROOM 4096

/* As providers have it: what follows struct ibv_mr is read by those that bind windows. */
struct fake_mr {
	struct ibv_mr mr;
	int type, access;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fake_mr *regions[ROOM];
static unsigned int live, registered;
static int refuse_reg, refuse_dereg;
static struct ibv_context context;
static struct ibv_pd pd;

struct ibv_pd *fake_pd(void)
{
	pthread_mutex_lock(&lock);
	if (!pd.context) {
		context.cmd_fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
		context.async_fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
		pd.context = &context;
	}
	pthread_mutex_unlock(&lock);
	return &pd;
}

unsigned int fake_live(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = live;
	pthread_mutex_unlock(&lock);
	return n;
}

unsigned int fake_registered(void)
{
	return registered;
}

bool fake_made(const struct ibv_mr *mr)
{
	unsigned int i;

	for (i = 0; i < ROOM; i++)
		if (regions[i] && &regions[i]->mr == mr)
			return true;
	return false;
}

bool fake_has(uint32_t rkey)
{
	unsigned int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < ROOM && (!regions[i] || regions[i]->mr.rkey != rkey);)
		i++;
	pthread_mutex_unlock(&lock);
	return i < ROOM;
}

void fake_refuse(int reg, int dereg)
{
	refuse_reg = reg;
	refuse_dereg = dereg;
}

static struct ibv_mr *reg(struct ibv_pd *in, void *addr, size_t len, unsigned int access)
{
	struct fake_mr *new = refuse_reg ? NULL : calloc(1, sizeof(*new));
	unsigned int i;

	if (!new) {
		errno = refuse_reg ? refuse_reg : ENOMEM;
		return NULL;
	}
	pthread_mutex_lock(&lock);
	for (i = 0; i < ROOM - 1 && regions[i];)
		i++;
	regions[i] = new;
	live++;
	new->mr = (struct ibv_mr){ .context = in->context, .pd = in, .addr = addr, .length = len };
	new->mr.lkey = new->mr.rkey = ++registered << 8;
	new->access = (int)access;
	pthread_mutex_unlock(&lock);
	return &new->mr;
}

FAKE_EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *in, void *addr, size_t len, uint64_t iova,
					    unsigned int access)
{
	(void)iova;
	return reg(in, addr, len, access);
}

FAKE_EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *in, void *addr, size_t len, int access)
{
	return ibv_reg_mr_iova2(in, addr, len, (uintptr_t)addr, (unsigned int)access);
}

FAKE_EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *in, void *addr, size_t len, uint64_t iova,
					   int access)
{
	return ibv_reg_mr_iova2(in, addr, len, iova, (unsigned int)access);
}

FAKE_EXPORT int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *in, void *addr, size_t len,
			     int access)
{
	(void)flags;
	(void)in;
	(void)addr;
	(void)len;
	(void)access;
	return fake_made(mr) ? 0 : IBV_REREG_MR_ERR_CMD;
}

FAKE_EXPORT int ibv_dereg_mr(struct ibv_mr *mr)
{
	unsigned int i;

	if (refuse_dereg)
		return refuse_dereg;
	pthread_mutex_lock(&lock);
	for (i = 0; i < ROOM && (!regions[i] || &regions[i]->mr != mr);)
		i++;
	/* A copy, or one that is gone: what a real provider would crash on. */
	if (i == ROOM)
		abort();
	free(regions[i]);
	regions[i] = NULL;
	live--;
	pthread_mutex_unlock(&lock);
	return 0;
}
