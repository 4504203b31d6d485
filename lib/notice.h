/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 2: what happens to the names of files that are held: renamed, unlinked, replaced.
 * No guard of the kernel's tells of that, and it harms no DMA: (file, offset) means the
 * same pages as before. inotify sees it on every kernel, without a privilege
 * (IN_MOVE_SELF; IN_ATTRIB with a link less), and says so by the reserved signal to the
 * breaker's thread, like a lease.
 *
 * When the kernel's queue was full (IN_Q_OVERFLOW), all files are told of: any may be meant.
 *
 * Where no inotify instance or watch can be had (fs.inotify.max_user_*), nobody is told.
 */
#ifndef PL_NOTICE_H
#define PL_NOTICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fileid.h"
#include "list.h"

#define PL_NOTICE_BUCKETS 256u	/* a power of two */

struct pl_notices {
	pthread_mutex_t lock;	/* first in the lock order: held while fn is called */
	_Atomic int fd;		/* of inotify; -1: none */
	struct pl_list bucket[PL_NOTICE_BUCKETS]; /* by watch */
};

/* In each file. */
struct pl_noticed {
	struct pl_list link;
	int fd;			/* the file's; -1: not watched */
	int watch;		/* shared by all that hold the same inode */
	const struct pl_fileid *id;
	uint64_t links;		/* as last seen */
};

void pl_notices_init(struct pl_notices *n);
/* Once the thread exists that is to be signalled. 0, or -errno: nobody will be told. */
int pl_notices_start(struct pl_notices *n, int signo, pid_t tid);
void pl_notices_fini(struct pl_notices *n);

/* 0, or -errno: of this file nobody will be told, and pl_notice_remove is harmless. */
int pl_notice_add(struct pl_notices *n, int fd, const struct pl_fileid *id, struct pl_noticed *who);
/* fn is not called for it any more when this returns. */
void pl_notice_remove(struct pl_notices *n, struct pl_noticed *who);
/* Whose signal is it? */
static inline bool pl_notices_is(struct pl_notices *n, int fd)
{
	return fd >= 0 && fd == atomic_load_explicit(&n->fd, memory_order_relaxed);
}
/* Reads what has come, and calls fn once for each file that it is about and each thing that happened. */
void pl_notices_read(struct pl_notices *n, void (*fn)(struct pl_noticed *who));

#endif
