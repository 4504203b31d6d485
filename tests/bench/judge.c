/* SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "bench.h"

uint64_t bench_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double at(const double *sorted, unsigned int n, double q)
{
	double i = q * (n - 1);

	return sorted[(unsigned int)(i < 0 ? 0 : i > n - 1 ? n - 1 : i + 0.5)];
}

static enum bench_verdict judge(const struct bench_row *row, double low, double high)
{
	if (row->higher)
		return low >= row->bar ? BENCH_MET : high < row->bar ? BENCH_MISSED : BENCH_UNDECIDED;
	return high <= row->bar ? BENCH_MET : low > row->bar ? BENCH_MISSED : BENCH_UNDECIDED;
}

/*
 * The ratio is the median of the pairs' own ratios, and its 95 % interval comes from
 * order statistics (n/2 -+ 0.98 sqrt n): no assumption about how the noise is shaped.
 */
void bench_judge(const struct bench_row *row, double *ours, double *floor, unsigned int n,
		 struct bench_result *out)
{
	double *ratio = calloc(n, sizeof(*ratio)), half = 0.98 * sqrt(n) / n;
	unsigned int i;

	out->samples = n;
	for (i = 0; i < n; i++)
		ratio[i] = row->by_value ? ours[i] : ours[i] / floor[i];
	qsort(ratio, n, sizeof(*ratio), compare);
	qsort(ours, n, sizeof(*ours), compare);
	qsort(floor, n, sizeof(*floor), compare);
	out->value = at(ours, n, 0.5);
	out->floor = at(floor, n, 0.5);
	out->p99 = at(ours, n, 0.99);
	out->floor_p99 = at(floor, n, 0.99);
	if (row->best) {
		out->ratio = out->low = out->high = row->higher ? ratio[n - 1] : ratio[0];
	} else {
		out->ratio = at(ratio, n, 0.5);
		out->low = at(ratio, n, 0.5 - half);
		out->high = at(ratio, n, 0.5 + half);
	}
	out->verdict = judge(row, out->low, out->high);
	free(ratio);
}
