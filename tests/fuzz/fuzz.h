/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the fuzzers share: an input is eaten byte by byte, and what must hold is required. An
 * input that is eaten up goes on as noughts, so that every prefix of an input is one, too.
 */
#ifndef PL_FUZZ_H
#define PL_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fuzz_input {
	const uint8_t *at, *end;
};

static inline uint8_t fuzz_byte(struct fuzz_input *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

/* Little-endian, so many bytes. */
static inline uint64_t fuzz_int(struct fuzz_input *in, unsigned int bytes)
{
	uint64_t value = 0;
	unsigned int i;

	for (i = 0; i < bytes; i++)
		value |= (uint64_t)fuzz_byte(in) << 8 * i;
	return value;
}

static inline void fuzz_bytes(struct fuzz_input *in, void *to, size_t len)
{
	uint8_t *p = to;

	while (len--)
		*p++ = fuzz_byte(in);
}

/* Not stderr, which a fuzzer may have closed for the code under test. */
#define fuzz_require(what)                                                                        \
	do {                                                                                      \
		if (!(what)) {                                                                    \
			dprintf(STDERR_FILENO, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#endif
