/* SPDX-License-Identifier: BSD-3-Clause */
/* What 10,000 breaks at once ask for, as break-counts counted it: it stands beside this program. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define BREAKS 10000

struct counted {
	const char *name;	/* of the number that this row is about */
	char command[512];
};

static int counts_up(const struct bench_row *row, void **state)
{
	struct counted *c = calloc(1, sizeof(*c));
	char self[400] = "";
	char *end;

	*state = c;
	c->name = row->fs;
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return -errno;
	end = strrchr(self, '/');
	*end = '\0';
	snprintf(c->command, sizeof(c->command), "'%s/break-counts' %d", self, BREAKS);
	return 0;
}

/* For 1,000 breaks. */
static int counts_sample(void *state, unsigned int n, double *ours, double *floor)
{
	const struct counted *c = state;
	char line[256] = "", *word, *at = line;
	FILE *f = popen(c->command, "r");
	int r = -EPROTO;

	(void)n;
	if (!f)
		return -errno;
	fgets(line, sizeof(line), f);
	if (pclose(f))
		return -EIO;
	*floor = 0;
	while ((word = strtok_r(at, " \n", &at)))
		if (!strcmp(word, c->name) && (word = strtok_r(at, " \n", &at))) {
			*ours = strtod(word, NULL) * 1000 / BREAKS;
			r = 0;
		}
	return r;
}

static void counts_down(void *state)
{
	free(state);
}

#define ROW(id, number, limit, text)                                                                      \
	{                                                                                                 \
		.name = "break_10k_" id, .unit = "per 1,000", .what = text, .bar = limit, .by_value = true, \
		.samples = 5, .fs = number, .set_up = counts_up, .sample = counts_sample,                 \
		.tear_down = counts_down                                                                  \
	}

const struct bench_row bench_counts[] = {
	ROW("allocations", "allocations", 0, "allocations by the threads that answer 10,000 breaks at once"),
	ROW("opens", "opens", 0, "files they open, of /proc or any other"),
	ROW("lock_waits", "waits", 10, "locks that another thread had when they wanted them"),
	{ .name = NULL },
};
