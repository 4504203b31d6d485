/* SPDX-License-Identifier: BSD-3-Clause */
/* Is this JSON (RFC 8259)? For fuzz_ctl. */
#ifndef PL_JSON_CHECK_H
#define PL_JSON_CHECK_H

#include <stdbool.h>
#include <stddef.h>

bool json_check(const char *text, size_t size);	      /* one value, and blanks around it */
bool json_check_lines(const char *text, size_t size); /* one object in each line */

#endif
