/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 2: guards, one file each behind one ops table. A guard makes the kernel tell
 * us before the layout of the file changes, and holds the change up until let go.
 */
#ifndef PL_GUARD_H
#define PL_GUARD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <pinlease.h>

#include "fileid.h"

struct pl_guard_ops;

struct pl_guard {
	const struct pl_guard_ops *ops;
	int fd;
	uint32_t access;	/* the file's */
	int signo;
	pid_t tid;		/* of the breaker */
	int held;		/* guard_lease: F_WRLCK, F_RDLCK */
	bool trial;		/* probe asks: take only what let_go gives back, answer the same */
};

struct pl_guard_ops {
	uint32_t kind;		/* enum pinlease_guard */
	bool breaks;		/* the kernel may ask for it back */
	bool changes;		/* our own layout changes are possible under it */
	/* May this guard be on this file? by_name: the application named it. 0, -errno and *reason. */
	int (*allows)(const struct pl_guard *g, const struct pl_fileid *id, bool by_name, uint32_t *reason);
	/* Take it, or take it again in full. 0; -EAGAIN: somebody has the file open. */
	int (*take)(struct pl_guard *g, uint32_t *reason);
	/* Is a break pending? 0 no, enum pinlease_cause, -errno: not our fd any more. Never blocks. */
	int (*pending)(const struct pl_guard *g);
	/* 0; -EAGAIN: the kernel had let the change go on already. */
	int (*let_go)(struct pl_guard *g);
};

extern const struct pl_guard_ops pl_guard_lease, pl_guard_seal, pl_guard_static, pl_guard_none;

/* The ops for kind; AUTO: static for device-dax, seal for a memfd, else lease. NULL and *reason: none. */
const struct pl_guard_ops *pl_guard_find(const struct pl_guard *g, uint32_t kind, const struct pl_fileid *id,
					 uint32_t *reason, int *err);
/* For the ops of a guard that the kernel never asks back. */
int pl_guard_nothing_to_take(struct pl_guard *g, uint32_t *reason);
int pl_guard_nothing_pending(const struct pl_guard *g);
int pl_guard_nothing_to_let_go(struct pl_guard *g);
/* The seals are on already: no new writable mapping can be made. */
bool pl_guard_came_sealed(int fd);

#endif
