/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The log: records one behind the other from the start of a file, each with its place and a
 * checksum. Whoever reads it stops at the first one that is not whole, so nothing but the
 * records has to be written, and a crash in the middle of one leaves the log as long as before.
 */
#ifndef PMEM_LOG_H
#define PMEM_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_TEXT_MAX 4096u	   /* bytes in a record */
#define LOG_SPACE_MAX (4ull << 20)  /* of the file that the log may take */

struct log_record {
	uint32_t magic, len; /* len: of text */
	uint64_t at;	     /* this record's own place in the file */
	uint64_t sum;	     /* over all but sum itself */
	char text[];
};

/* How much of the file a record takes: a multiple of 8. */
uint64_t log_size(uint32_t len);
/* Makes the record for place at in memory of log_size(len). */
void log_make(struct log_record *record, uint64_t at, const char *text, uint32_t len);
/* Is there a whole record at place at of a log of size bytes? */
bool log_whole(const void *log, uint64_t size, uint64_t at);
/* The end of the last whole record. */
uint64_t log_end(const void *log, uint64_t size);

/* What the log may take of a file, or of a device-dax. -errno */
int log_space(const char *path, uint64_t *space);

#endif
