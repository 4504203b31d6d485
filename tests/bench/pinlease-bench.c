/* SPDX-License-Identifier: BSD-3-Clause */
/* pinlease-bench [--json FILE] [--only NAME] [--list]: measures the rows and prints a table. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench.h"
#include "kt.h"

static const struct bench_row *const rows[] = {
	&bench_begin_end,
	&bench_begin_end_2t,
	&bench_break_ext4,
	&bench_break_tmpfs,
	&bench_break_ext4_polled,
	&bench_break_tmpfs_polled,
	&bench_mem_lease_pinned,
	&bench_mem_lease_staged,
	&bench_mem_lease_told,
	&bench_compare_writeback_0_ext4,
	&bench_compare_writeback_10_ext4,
	&bench_compare_writeback_100_ext4,
	&bench_sparse_writeback_ext4,
	&bench_compare_writeback_0_tmpfs,
	&bench_compare_writeback_10_tmpfs,
	&bench_compare_writeback_100_tmpfs,
	&bench_sparse_writeback_tmpfs,
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const char *const verdicts[] = { "met", "missed", "undecided" };

static int measure(const struct bench_row *row, struct bench_result *out)
{
	double *ours = calloc(row->samples, sizeof(*ours)), *floor = calloc(row->samples, sizeof(*floor));
	unsigned int i, last = 0;
	void *state = NULL;
	int r = row->set_up(&state);

	/* The first pairs warm caches and the scheduler's idea of us; they do not count. */
	for (i = 0; i < row->samples / 20 && !r; i++)
		r = row->sample(state, i, &ours[0], &floor[0]);
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
	row->tear_down(state);
	free(ours);
	free(floor);
	return r;
}

static void print_table(const struct bench_result *results, const bool *have)
{
	size_t i;

	printf("| row | unit | value (p99) | floor (p99) | ratio [95 %%] | bar | verdict |\n");
	printf("|---|---|---|---|---|---|---|\n");
	for (i = 0; i < ROWS; i++) {
		const struct bench_result *r = &results[i];

		if (!have[i])
			continue;
		printf("| %s | %s | %.2f (%.2f) | ", rows[i]->name, rows[i]->unit, r->value, r->p99);
		if (rows[i]->by_value)
			printf("- | - | ");
		else
			printf("%.2f (%.2f) | %.3f [%.3f, %.3f] | ", r->floor, r->floor_p99, r->ratio, r->low,
			       r->high);
		printf("%s %.2f | %s |\n", rows[i]->higher ? ">=" : "<=", rows[i]->bar, verdicts[r->verdict]);
	}
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

static int write_json(const char *path, const struct bench_result *results, const bool *have)
{
	FILE *f = fopen(path, "w");
	const char *comma = "";
	size_t i;

	if (!f)
		return -errno;
	fprintf(f, "[");
	for (i = 0; i < ROWS; i++) {
		if (!have[i])
			continue;
		fprintf(f, "%s\n", comma);
		write_row(f, rows[i], &results[i]);
		comma = ",";
	}
	fprintf(f, "\n]\n");
	return fclose(f) ? -errno : 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: pinlease-bench [--json FILE] [--only NAME] [--list]\n");
	return 2;
}

static int list(void)
{
	size_t i;

	for (i = 0; i < ROWS; i++)
		printf("%s: %s\n", rows[i]->name, rows[i]->what);
	return 0;
}

static int run(const char *json, const char *only)
{
	struct bench_result results[ROWS];
	bool have[ROWS] = { false };
	struct utsname uts;
	unsigned int n = 0;
	size_t i;
	int r;

	uname(&uts);
	printf("%s %s, %ld CPUs\n\n", uts.sysname, uts.release, sysconf(_SC_NPROCESSORS_ONLN));
	for (i = 0; i < ROWS; i++) {
		if (only && strcmp(only, rows[i]->name))
			continue;
		r = measure(rows[i], &results[i]);
		if (r) {
			fprintf(stderr, "%s: %s\n", rows[i]->name, strerror(-r));
			return 1;
		}
		have[i] = true;
		n++;
	}
	if (!n)
		return usage();
	print_table(results, have);
	r = json ? write_json(json, results, have) : 0;
	if (r)
		fprintf(stderr, "%s: %s\n", json, strerror(-r));
	return r ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *json = NULL, *only = NULL;
	int i;

	kt_init();
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list"))
			return list();
		if (i + 1 == argc)
			return usage();
		if (!strcmp(argv[i], "--json"))
			json = argv[++i];
		else if (!strcmp(argv[i], "--only"))
			only = argv[++i];
		else
			return usage();
	}
	return run(json, only);
}
