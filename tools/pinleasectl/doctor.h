/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DOCTOR_H
#define DOCTOR_H

#include "ctl.h"

#define DOCTOR_LINES 64

enum doctor_verdict { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_PROBLEM };

struct doctor_line {
	char name[72], value[160], text[512];
	enum doctor_verdict verdict;
};

struct doctor {
	char kernel[72];
	struct doctor_line line[DOCTOR_LINES];
	unsigned int count, problems, devices;
};

void doctor_say(struct doctor *d, const char *name, const char *value, enum doctor_verdict verdict,
		const char *text);
/* doctor_try.c: what can only be found out by trying: leases, the library's own threads, each device. */
void doctor_try(struct doctor *d);

#endif
