/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>
#include <xxhash.h>

#include "frame.h"

/* Big-endian, as xxhsum prints it. */
static struct sum sum_from(XXH128_hash_t hash)
{
	XXH128_canonical_t canonical;
	struct sum sum;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(sum.bytes, canonical.digest, sizeof(sum.bytes));
	return sum;
}

struct sum sum_of(const void *data, size_t len)
{
	return sum_from(XXH3_128bits(data, len));
}

static struct sum sum_of_zeros(size_t len)
{
	static const char zeros[CHUNK_BYTES];

	return sum_of(zeros, len);
}

/* Nearly all holes are whole chunks. */
static struct sum hole_sum;

static void make_hole_sum(void)
{
	hole_sum = sum_of_zeros(CHUNK_BYTES);
}

struct sum sum_of_hole(size_t len)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (len != CHUNK_BYTES)
		return sum_of_zeros(len);
	pthread_once(&once, make_hole_sum);
	return hole_sum;
}

int sum_total(const struct sum *first, size_t stride, uint64_t count, struct sum *total)
{
	XXH3_state_t *state = XXH3_createState();
	const char *at = (const char *)first;

	if (!state)
		return -ENOMEM;
	XXH3_128bits_reset(state);
	for (; count; count--, at += stride)
		XXH3_128bits_update(state, ((const struct sum *)(const void *)at)->bytes,
				    sizeof(first->bytes));
	*total = sum_from(XXH3_128bits_digest(state));
	XXH3_freeState(state);
	return 0;
}

void sum_text(const struct sum *sum, char text[SUM_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	size_t i;

	for (i = 0; i < sizeof(sum->bytes); i++) {
		text[2 * i] = digits[sum->bytes[i] >> 4];
		text[2 * i + 1] = digits[sum->bytes[i] & 15];
	}
	text[2 * i] = '\0';
}
