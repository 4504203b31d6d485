/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads for what waits for a disk, beside a loop that must not: messages are answered, and breaks
 * handed on, however slow a file is.
 */
#ifndef PLC_POOL_H
#define PLC_POOL_H

struct job {
	void (*run)(struct job *job);  /* on a thread of the pool */
	void (*done)(struct job *job); /* on the loop's thread, by pool_collect; may free the job */
	struct job *next;
};

struct pool;

int pool_new(unsigned int threads, struct pool **pool);
/* Readable when there is something to collect. */
int pool_fd(const struct pool *pool);
void pool_submit(struct pool *pool, struct job *job);
void pool_collect(struct pool *pool);
/* What was submitted is run, and done, before. NULL is nothing. */
void pool_free(struct pool *pool);

#endif
