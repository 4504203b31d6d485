/* SPDX-License-Identifier: BSD-3-Clause */
/* pl-copy: what its two halves, the sender and the receiver, have in common with main. See pl-copy(1). */
#ifndef PLC_COPY_H
#define PLC_COPY_H

#include <stdbool.h>
#include <stdint.h>

enum status { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2 };

struct serve_options {
	const char *root, *address; /* address NULL: all */
	uint16_t port;		    /* 0: any that is free */
	bool quiet;
};

struct send_options {
	const char *file;
	const char *to; /* as it was written: host:path */
	char host[256], path[1025];
	uint16_t port;
	uint32_t retry_s; /* go on trying for so long after a lost connection */
	bool preserve, quiet, json;
};

/* "pl-copy: ..." to stderr; ends a line of progress first. */
__attribute__((format(printf, 1, 2))) void say(const char *fmt, ...);
/* Both: an exit status; send_file dies of the signal that interrupts it. */
int serve(const struct serve_options *options);
int send_file(const struct send_options *options);

#endif
