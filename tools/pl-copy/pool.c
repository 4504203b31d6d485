/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "pool.h"

#define THREADS_MAX 8u

struct queue {
	struct job *first, **last;
};

struct pool {
	pthread_mutex_t lock; /* protects all but threads and fd, which are constant */
	pthread_cond_t more;
	struct queue todo, done;
	bool end;
	int fd;
	unsigned int count;
	pthread_t thread[THREADS_MAX];
};

static void queue_init(struct queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

static void queue_push(struct queue *q, struct job *job)
{
	job->next = NULL;
	*q->last = job;
	q->last = &job->next;
}

static struct job *queue_pop(struct queue *q)
{
	struct job *job = q->first;

	if (job)
		q->first = job->next;
	if (!q->first)
		q->last = &q->first;
	return job;
}

static void pool_wake(struct pool *pool)
{
	uint64_t one = 1;
	ssize_t n = write(pool->fd, &one, sizeof(one));

	(void)n; /* full: it is readable then, which is what this is for */
}

static void *work(void *arg)
{
	struct pool *pool = arg;
	struct job *job;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (!pool->todo.first && !pool->end)
			pthread_cond_wait(&pool->more, &pool->lock);
		job = queue_pop(&pool->todo);
		if (!job)
			break;
		pthread_mutex_unlock(&pool->lock);
		job->run(job);
		pthread_mutex_lock(&pool->lock);
		queue_push(&pool->done, job);
		pool_wake(pool);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

int pool_new(unsigned int threads, struct pool **pool)
{
	struct pool *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->more, NULL);
	queue_init(&p->todo);
	queue_init(&p->done);
	p->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->fd < 0)
		r = -errno;
	while (!r && p->count < threads && p->count < THREADS_MAX) {
		r = -pthread_create(&p->thread[p->count], NULL, work, p);
		p->count += !r;
	}
	if (r)
		pool_free(p);
	else
		*pool = p;
	return r;
}

int pool_fd(const struct pool *pool)
{
	return pool->fd;
}

void pool_submit(struct pool *pool, struct job *job)
{
	pthread_mutex_lock(&pool->lock);
	queue_push(&pool->todo, job);
	pthread_cond_signal(&pool->more);
	pthread_mutex_unlock(&pool->lock);
}

void pool_collect(struct pool *pool)
{
	struct job *job;
	uint64_t count;
	ssize_t n = read(pool->fd, &count, sizeof(count));

	(void)n; /* what is done is looked for in the list */
	for (;;) {
		pthread_mutex_lock(&pool->lock);
		job = queue_pop(&pool->done);
		pthread_mutex_unlock(&pool->lock);
		if (!job)
			return;
		job->done(job);
	}
}

void pool_free(struct pool *pool)
{
	unsigned int i;

	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->end = true;
	pthread_cond_broadcast(&pool->more);
	pthread_mutex_unlock(&pool->lock);
	for (i = 0; i < pool->count; i++)
		pthread_join(pool->thread[i], NULL);
	if (pool->fd >= 0) {
		pool_collect(pool);
		close(pool->fd);
	}
	pthread_cond_destroy(&pool->more);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}
