/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

#define LOG_LINE 256

/* arg is the level. One call of stdio's, so that lines of several threads do not mix. */
static void log_stderr(void *arg, int level, const char *msg)
{
	if (level <= (intptr_t)arg)
		fprintf(stderr, "libpinlease[%d]: %s\n", level, msg);
}

void pl_log_init(struct pl_log *log, void (*fn)(void *arg, int level, const char *msg), void *arg)
{
	/* A set-user-ID program does not let its caller read along. */
	const char *level = fn ? NULL : secure_getenv("PINLEASE_LOG");

	log->fn = fn;
	log->arg = arg;
	if (level && level[0] >= '0' && level[0] <= '7' && !level[1]) {
		log->fn = log_stderr;
		log->arg = (void *)(intptr_t)(level[0] - '0');
	}
}

void pl_log_write(const struct pl_log *log, int level, const char *fmt, ...)
{
	char line[LOG_LINE];
	va_list ap;

	if (!log->fn)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	log->fn(log->arg, level, line);
}
