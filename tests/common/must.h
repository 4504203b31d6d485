/* SPDX-License-Identifier: BSD-3-Clause */
/* For small programs that link nothing of tests/common: what must hold, or the place where it does not, and 1. */
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
