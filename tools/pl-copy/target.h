/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The file at the receiver, below a root it cannot leave. It grows as ".NAME.pl-copy" beside its place, with
 * nobody's rights but ours, and takes its name when all of it is checked and on the disk: until
 * then whatever had the name is untouched. What is left of a try that ended early is gone on with.
 *
 * These calls wait for the disk: they are for the pool's threads.
 */
#ifndef PLC_TARGET_H
#define PLC_TARGET_H

#include <pinlease.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "frame.h"

#define TARGET_TEMP_MAX 256

struct target {
	struct target *next; /* of those that are open in this process */
	struct hello hello;
	uint64_t size, chunks;
	int dir, fd; /* fd: of the partial file; its description carries the guard */
	char name[256], temp[TARGET_TEMP_MAX];
	char dest[1300]; /* for people */
	uint32_t mask;	 /* umask of this process */
	uint32_t mode;	 /* it will have */
	uint64_t there;	 /* bytes that an earlier try left */
	bool claimed;
	atomic_bool leaving;	    /* its session is over: soon it is not claimed any more */
	struct pinlease_file *file; /* NULL: empty, there is nothing to lease */
};

/* What went wrong: for people at the other end. */
struct trouble {
	int err;
	bool again; /* of itself, or of others: to be tried again soon */
	char text[200];
};

/*
 * hello, size and mask are set, dir and fd -1. -EAGAIN with trouble->again; -EALREADY: the same sender's last
 * connection still has it; -EBUSY: another sender; and what the file system says.
 */
int target_open(struct target *t, int root, struct pinlease_ctx *ctx, struct trouble *trouble);
/* off..off+len of the file, as it reads. */
int target_read(const struct target *t, uint64_t off, uint32_t len, void *buf);
uint64_t target_length(const struct target *t);
/* There is nothing but a hole. */
bool target_is_hole(const struct target *t, uint64_t off, uint64_t len);
/* Make a hole of it, if there is anything. -EAGAIN: a break is being answered. */
int target_punch(struct target *t, uint64_t off, uint64_t len);
/* Mode, time, and all of it on the disk. */
int target_seal(struct target *t, struct trouble *trouble);
/* Its name, on the disk. */
int target_name(struct target *t, struct trouble *trouble);
/* A disk that is full is not made fuller by what can never be finished. */
void target_discard(struct target *t);
void target_close(struct target *t);

__attribute__((format(printf, 3, 4))) int trouble_say(struct trouble *trouble, int err, const char *fmt, ...);

#endif
