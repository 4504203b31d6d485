/* SPDX-License-Identifier: BSD-3-Clause */
/* What samples come to, and what several rows need. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define WAIT_NS 5000000000ull
#define NOISE	0.2	/* of a floor's spread */

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

static enum bench_verdict judge(const struct bench_row *row, double ratio, double low, double high)
{
	if (row->reach)
		return high - low > 0.04 * ratio ? BENCH_UNDECIDED
						 : high >= row->bar ? BENCH_MET : BENCH_MISSED;
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
	out->p99 = at(ours, n, row->higher ? 0.01 : 0.99);
	out->floor_p99 = at(floor, n, row->higher ? 0.01 : 0.99);
	out->spread = row->by_value ? 0 : (at(floor, n, 0.75) - at(floor, n, 0.25)) / out->floor;
	if (row->best) {
		/* Of each on its own: a pair may have met other load in one half only. */
		i = row->higher ? n - 1 : 0;
		out->value = ours[i];
		out->floor = floor[i];
		out->ratio = out->low = out->high = ours[i] / floor[i];
	} else {
		out->ratio = at(ratio, n, 0.5);
		out->low = at(ratio, n, 0.5 - half);
		out->high = at(ratio, n, 0.5 + half);
	}
	out->verdict = judge(row, out->ratio, out->low, out->high);
	/* The best of few says nothing bad where the floor alone is all over the place. */
	if (row->best && out->verdict == BENCH_MISSED && out->spread > NOISE)
		out->verdict = BENCH_UNDECIDED;
	free(ratio);
}

int bench_nofile(unsigned long count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return -errno;
	if (limit.rlim_cur >= count)
		return 0;
	limit.rlim_cur = count;
	if (limit.rlim_max < count)
		limit.rlim_max = count;
	return setrlimit(RLIMIT_NOFILE, &limit) ? -errno : 0;
}

/* The child leaves without tidying up: the kernel does. */
int bench_apart(int (*one)(void *arg, unsigned int n, double *ours, double *floor), void *arg, unsigned int n,
		double *ours, double *floor)
{
	struct {
		double ours, floor;
		int r;
	} said = { .r = -EPIPE };
	int fds[2];
	pid_t child;

	if (pipe(fds))
		return -errno;
	child = fork();
	if (!child) {
		said.r = one(arg, n, &said.ours, &said.floor);
		_exit(write(fds[1], &said, sizeof(said)) != sizeof(said));
	}
	close(fds[1]);
	if (child < 0 || read(fds[0], &said, sizeof(said)) != sizeof(said))
		said.r = -EPIPE;
	close(fds[0]);
	if (child > 0)
		waitpid(child, NULL, 0);
	*ours = said.ours;
	*floor = said.floor;
	return said.r;
}

int bench_in_turns(void *state, unsigned int n, double *ours, double *floor,
		   int (*our_one)(void *state, double *figure), int (*bare_one)(void *state, double *figure))
{
	bool first = n & 1;
	int r;

	bench_turn(first);
	r = first ? our_one(state, ours) : bare_one(state, floor);
	if (r)
		return r;
	bench_turn(!first);
	return first ? bare_one(state, floor) : our_one(state, ours);
}

int bench_state(struct pinlease *lease, enum pinlease_state state)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };
	uint64_t until = bench_now() + WAIT_NS;

	while (bench_now() < until) {
		pinlease_lease_info(lease, &info);
		if (info.state == (uint32_t)state)
			return 0;
		usleep(50);
	}
	return -ETIMEDOUT;
}
