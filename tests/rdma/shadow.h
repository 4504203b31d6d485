/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Persistent memory that can lose what was not persisted. What a guest has instead loses
 * nothing, so of each file there is a shadow that holds what was persisted and nothing else.
 * The linker (--wrap) puts shadow.c between the library and its seam to libpmem2:
 * pl_pmem_copy and pl_pmem_persist bring the shadow up to date; stores that neither of them
 * covered are not in it, as if they had stayed in the processor's caches. A shadow that is
 * deep has what they gave it in a queue, as a memory controller does, from which only
 * pl_pmem_deep_flush takes it on.
 */
#ifndef PL_RDMA_SHADOW_H
#define PL_RDMA_SHADOW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "kt.h"

struct pl_pmem;

/* What the seam does not do for a control. */
enum shadow_left_out { SHADOW_NOTHING, SHADOW_PERSIST, SHADOW_DEEP_FLUSH };

struct shadow {
	const char *name;
	bool deep;	   /* only a deep flush makes it durable */
	enum shadow_left_out left_out;
	struct stat st;	   /* the file's */
	uint64_t off, len; /* what of it the lease covers */
	unsigned char *bytes;	 /* what is durable */
	unsigned char *queue;	 /* deep: and what is to be */
	unsigned int persists, flushes;
	struct kt_extent extent[KT_EXTENTS];
	int extents;		    /* 0: it has no place in an image */
	const struct pl_pmem *pmem; /* the library's mapping */
	struct shadow *next;
};

/* name, deep, left_out, st, off, len are set. All bytes are durable, and fill. Before the file is leased. */
void shadow_add(struct shadow *s, int fill);
/* A memfd with what is on the first size bytes of /dev/pmem0, the shadows in place of the files. */
int shadow_image(uint64_t size);

#endif
