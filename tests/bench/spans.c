/* SPDX-License-Identifier: BSD-3-Clause */
/* When each side ran, for who samples this process from outside: scripts/bench-profile. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

#define ROOM 16384u /* more than any row has samples */

struct span {
	uint64_t began, ended;
	bool ours;
};

static struct {
	struct span *span; /* NULL: nobody asked for them */
	size_t count, room;
	bool ours;
} spans;

int bench_spans_keep(void)
{
	spans.room = ROOM;
	spans.span = calloc(spans.room, sizeof(*spans.span));
	return spans.span ? 0 : -ENOMEM;
}

void bench_spans_forget(void)
{
	spans.count = 0;
}

void bench_turn(bool ours)
{
	spans.ours = ours;
}

/* Nothing is allocated here: it is called while things are measured. */
void bench_span(uint64_t began, uint64_t ended)
{
	if (spans.span && spans.count < spans.room)
		spans.span[spans.count++] = (struct span){ began, ended, spans.ours };
}

uint64_t bench_took(uint64_t began)
{
	uint64_t ended = bench_now();

	bench_span(began, ended);
	return ended - began;
}

int bench_spans_write(const char *path)
{
	FILE *f = fopen(path, "w");
	size_t i;

	if (!f)
		return -errno;
	for (i = 0; i < spans.count; i++)
		fprintf(f, "%s %llu %llu\n", spans.span[i].ours ? "ours" : "floor",
			(unsigned long long)spans.span[i].began, (unsigned long long)spans.span[i].ended);
	return fclose(f) ? -errno : 0;
}
