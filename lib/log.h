/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 0: messages for people. Levels are those of syslog(3): 3 error, 4 warning, 6 information, 7 debug. */
#ifndef PL_LOG_H
#define PL_LOG_H

struct pl_log {
	void (*fn)(void *arg, int level, const char *msg);	/* NULL: nobody listens */
	void *arg;
};

/* Without fn, PINLEASE_LOG=LEVEL in the environment sends what is at most that level to standard error. */
void pl_log_init(struct pl_log *log, void (*fn)(void *arg, int level, const char *msg), void *arg);
/* Longer messages are cut. Calls the application: not with a lock held that its callback could need. */
void pl_log_write(const struct pl_log *log, int level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
