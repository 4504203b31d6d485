/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tell.h"

#define LINE 512

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void tell_at(uint64_t ns, const char *fmt, ...)
{
	char line[LINE];
	int n, m;
	va_list ap;

	n = snprintf(line, sizeof(line), "%" PRIu64 " ", ns);
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n = n + m < LINE - 2 ? n + m : LINE - 2;
	line[n++] = '\n';
	/* Nobody reads any more: demo.py is gone, and nothing is left to be told. */
	if (write(STDOUT_FILENO, line, (size_t)n) < 0)
		_exit(1);
}

void give_up(const char *what, int err)
{
	tell("failed %s: %s", what, strerror(abs(err)));
	exit(1);
}
