/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checksums: XXH3 of 128 bits, of libxxhash. They find what went wrong, not who made it: a
 * malicious sender could have written anything in the first place.
 */
#ifndef PLC_SUM_H
#define PLC_SUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct sum {
	uint8_t bytes[16];
};

#define SUM_TEXT 33

struct sum sum_of(const void *data, size_t len);
/* Of so many zeros, CHUNK_BYTES at most: holes are not read. */
struct sum sum_of_hole(size_t len);

/* The sum of a file is that of its chunks' sums: the first one, and the others, each stride bytes behind.
 * -ENOMEM. */
int sum_total(const struct sum *first, size_t stride, uint64_t count, struct sum *total);

static inline bool sum_equal(const struct sum *a, const struct sum *b)
{
	return !memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

void sum_text(const struct sum *sum, char text[SUM_TEXT]);

#endif
