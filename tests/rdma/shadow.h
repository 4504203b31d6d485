/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Persistent memory that can lose what was not persisted. What a guest has instead loses
 * nothing, so of each file there is a shadow that holds what was persisted and nothing else.
 * The linker (--wrap) puts shadow.c between the library and its seam to libpmem2:
 * pl_pmem_copy and pl_pmem_persist bring the shadow up to date; stores that neither of them
 * covered are not in it, as if they had stayed in the processor's caches.
 */
#ifndef PL_RDMA_SHADOW_H
#define PL_RDMA_SHADOW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "kt.h"

struct pl_pmem;

struct shadow {
	const char *name;
	bool careless;	   /* stores, and persists nothing */
	struct stat st;	   /* the file's */
	uint64_t off, len; /* what of it the lease covers */
	unsigned char *bytes;
	unsigned int persists;
	struct kt_extent extent[KT_EXTENTS];
	int extents;		    /* 0: it has no place in an image */
	const struct pl_pmem *pmem; /* the library's mapping */
	struct shadow *next;
};

/* name, careless, st, off, len are set. All bytes are persisted now, and fill. Before the file is leased. */
void shadow_add(struct shadow *s, int fill);
/* A memfd with what is on the first size bytes of /dev/pmem0, the shadows in place of the files. */
int shadow_image(uint64_t size);

#endif
