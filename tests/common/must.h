/* SPDX-License-Identifier: BSD-3-Clause */
/* For programs that link nothing of tests/common: what must hold, or exit status 1 and its place. */
#ifndef PL_TEST_MUST_H
#define PL_TEST_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define must(cond)                                                                 \
	do {                                                                       \
		if (!(cond)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1);                                                   \
		}                                                                  \
	} while (0)

#endif
