/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pinlease-bench [--guest] [--json FILE] [--only NAME] [--spans FILE] [--list]: measures the rows of
 * this machine, or with --guest those that need an RDMA device, and prints a table. --spans: when
 * each side was measured, as CLOCK_MONOTONIC has it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench.h"
#include "kt.h"

static const struct bench_row *const groups[] = { bench_begin_end,  bench_break,   bench_break_10k,
						  bench_counts,	    bench_acquire, bench_scale,
						  bench_memory,	    bench_write_bw, bench_sync,
						  bench_writeback,  bench_bystander };

#define GROUPS	 (sizeof(groups) / sizeof(groups[0]))
#define ROWS_MAX 100u

static const char *const verdicts[] = { "met", "missed", "undecided" };

struct measured {
	const struct bench_row *row;
	struct bench_result result;
};

struct wanted {
	const char *json, *only, *spans;
	bool guest;
};

static int measure(const struct bench_row *row, struct bench_result *out)
{
	double *ours = calloc(row->samples, sizeof(*ours)), *floor = calloc(row->samples, sizeof(*floor));
	unsigned int i, last = 0;
	void *state = NULL;
	int r = row->set_up(row, &state);
	bool up = !r;

	/* The first pairs warm caches and the scheduler's idea of us; they do not count. */
	for (i = 0; i < row->samples / 20 && !r; i++)
		r = row->sample(state, i, &ours[0], &floor[0]);
	bench_spans_forget();
	for (i = 0; i < row->samples && !r; i++) {
		r = row->sample(state, i, &ours[i], &floor[i]);
		if (i * 10 / row->samples != last && isatty(STDERR_FILENO)) {
			last = i * 10 / row->samples;
			fprintf(stderr, "\r%s: %u0 %%", row->name, last);
		}
	}
	fprintf(stderr, isatty(STDERR_FILENO) ? "\r%-40s\r" : "%s done\n",
		isatty(STDERR_FILENO) ? "" : row->name);
	if (!r)
		bench_judge(row, ours, floor, row->samples, out);
	if (up)
		row->tear_down(state);
	free(ours);
	free(floor);
	return r;
}

static void cpu_model(char *model, size_t size)
{
	FILE *f = fopen("/proc/cpuinfo", "r");
	char line[256], *at;

	snprintf(model, size, "unknown");
	while (f && fgets(line, sizeof(line), f)) {
		at = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !at)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(model, size, "%s", at + 2);
		break;
	}
	if (f)
		fclose(f);
}

/* p99: what is worse than all but one in a hundred; spread: half of the floors lie within it. */
static void print_head(const struct wanted *w)
{
	double load[1] = { -1 };
	struct utsname uts;
	char model[80];

	uname(&uts);
	cpu_model(model, sizeof(model));
	getloadavg(load, 1);
	printf("%s: %s %s, %ld CPUs (%s), load %.1f\n\n", w->guest ? "guest" : "native", uts.sysname,
	       uts.release, sysconf(_SC_NPROCESSORS_ONLN), model, load[0]);
	printf("| row | unit | value (p99) | floor (p99, spread) | ratio [95 %%] | bar | verdict |\n");
	printf("|---|---|---|---|---|---|---|\n");
}

static void print_row(const struct bench_row *row, const struct bench_result *r)
{
	printf("| %s | %s | %.2f (%.2f) | ", row->name, row->unit, r->value, r->p99);
	if (row->by_value)
		printf("- | - | ");
	else
		printf("%.2f (%.2f, %.0f %%) | %.3f [%.3f, %.3f] | ", r->floor, r->floor_p99, 100 * r->spread,
		       r->ratio, r->low, r->high);
	printf("%s %.2f | %s |\n", row->higher ? ">=" : "<=", row->bar, verdicts[r->verdict]);
	fflush(stdout);
}

static void write_row(FILE *f, const struct bench_row *row, const struct bench_result *r)
{
	fprintf(f, "  {\"name\": \"%s\", \"unit\": \"%s\", \"value\": %.4f, ", row->name, row->unit,
		r->value);
	if (row->by_value)
		fprintf(f, "\"floor\": null, \"ratio\": null, ");
	else
		fprintf(f, "\"floor\": %.4f, \"ratio\": %.4f, ", r->floor, r->ratio);
	fprintf(f, "\"bar\": %.2f, \"better\": \"%s\", \"verdict\": \"%s\", \"samples\": %u}", row->bar,
		row->higher ? "higher" : "lower", verdicts[r->verdict], r->samples);
}

static int write_json(const char *path, const struct measured *m, unsigned int count)
{
	FILE *f = fopen(path, "w");
	unsigned int i;

	if (!f)
		return -errno;
	fprintf(f, "[");
	for (i = 0; i < count; i++) {
		fprintf(f, "%s\n", i ? "," : "");
		write_row(f, m[i].row, &m[i].result);
	}
	fprintf(f, "\n]\n");
	return fclose(f) ? -errno : 0;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: pinlease-bench [--guest] [--json FILE] [--only NAME] [--spans FILE] [--list]\n");
	return 2;
}

/* One line a row: its name, where it is measured, what it is. */
static int list(void)
{
	const struct bench_row *row;
	size_t g;

	for (g = 0; g < GROUPS; g++)
		for (row = groups[g]; row->name; row++)
			printf("%s %s %s\n", row->name, row->guest ? "guest" : "native", row->what);
	return 0;
}

static bool is_row(const struct bench_row *row, const char *name)
{
	return !strcmp(row->name, name);
}

/* The row of that name, or if there is none, its variants: NAME_something. */
static bool is_wanted(const struct wanted *w, const struct bench_row *row, bool named)
{
	size_t n = w->only ? strlen(w->only) : 0;

	if (row->guest != w->guest)
		return false;
	return !w->only || is_row(row, w->only) ||
	       (!named && !strncmp(row->name, w->only, n) && row->name[n] == '_');
}

static bool is_named(const char *name)
{
	const struct bench_row *row;
	size_t g;

	for (g = 0; name && g < GROUPS; g++)
		for (row = groups[g]; row->name; row++)
			if (is_row(row, name))
				return true;
	return false;
}

/* A row that cannot be measured does not cost the others theirs; the number of such rows. */
static int measure_all(const struct wanted *w, struct measured *m, unsigned int *count)
{
	bool named = is_named(w->only);
	const struct bench_row *row;
	int failed = 0, r;
	size_t g;

	for (g = 0; g < GROUPS; g++) {
		for (row = groups[g]; row->name; row++) {
			if (!is_wanted(w, row, named))
				continue;
			r = *count < ROWS_MAX ? measure(row, &m[*count].result) : -ENOSPC;
			if (r) {
				fprintf(stderr, "%s: not measured: %s\n", row->name, strerror(-r));
				failed++;
				continue;
			}
			print_row(row, &m[*count].result);
			m[(*count)++].row = row;
		}
	}
	return failed;
}

static int run(const struct wanted *w)
{
	static struct measured m[ROWS_MAX];
	unsigned int count = 0;
	int failed;

	print_head(w);
	if (w->spans && bench_spans_keep())
		return 1;
	failed = measure_all(w, m, &count);
	if (!count && !failed)
		return usage();
	if (w->json && write_json(w->json, m, count)) {
		fprintf(stderr, "%s cannot be written\n", w->json);
		return 1;
	}
	if (w->spans && bench_spans_write(w->spans)) {
		fprintf(stderr, "%s cannot be written\n", w->spans);
		return 1;
	}
	return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct wanted w = { .json = NULL };
	int i;

	kt_init();
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list"))
			return list();
		if (!strcmp(argv[i], "--guest"))
			w.guest = true;
		else if (!strcmp(argv[i], "--json") && i + 1 < argc)
			w.json = argv[++i];
		else if (!strcmp(argv[i], "--only") && i + 1 < argc)
			w.only = argv[++i];
		else if (!strcmp(argv[i], "--spans") && i + 1 < argc)
			w.spans = argv[++i];
		else
			return usage();
	}
	return run(&w);
}
