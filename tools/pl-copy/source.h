/* SPDX-License-Identifier: BSD-3-Clause */
/* The file that is copied: read chunk by chunk, its holes left out, and watched for changes. */
#ifndef PLC_SOURCE_H
#define PLC_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "frame.h"

struct source {
	int fd;
	struct stat st; /* when it was opened */
	uint64_t size, chunks;
	uint64_t data; /* bytes that are no holes */
};

/* -errno; -EISDIR, -EINVAL: no regular file. */
int source_open(struct source *source, const char *path);
void source_close(struct source *source);
/* Which blocks of a chunk have data. */
uint64_t source_map(const struct source *source, uint64_t chunk);
/* All of the chunk, holes as zeros. -ESTALE: the file has become shorter. */
int source_read(const struct source *source, uint64_t chunk, uint64_t map, char *buf);
/* Another size, time or file than when it was opened. */
bool source_changed(const struct source *source);

#endif
