/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rows of the bench. Each measures the library and its floor in the same run, one
 * sample of each in turn, so that what else the machine does hits both.
 */
#ifndef PL_BENCH_H
#define PL_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bench_verdict { BENCH_MET, BENCH_MISSED, BENCH_UNDECIDED };

struct bench_row {
	const char *name, *unit, *what;
	double bar;
	bool higher;	/* better: "higher" */
	bool by_value;	/* there is no floor: the value itself is judged */
	/* Fills one pair of samples; 0 or -errno. Called with n = 0, 1, ... after set_up. */
	int (*sample)(void *state, unsigned int n, double *ours, double *floor);
	int (*set_up)(void **state);
	void (*tear_down)(void *state);
	unsigned int samples;
	bool best;	/* judged by the best pair, not the median: for rows about what is possible */
};

struct bench_result {
	double value, floor, ratio;	/* medians; ratio: of the pairs' ratios */
	double low, high;		/* 95 % interval of the median ratio */
	double p99, floor_p99;
	unsigned int samples;
	enum bench_verdict verdict;
};

extern const struct bench_row bench_begin_end, bench_begin_end_2t;
extern const struct bench_row bench_mem_lease_pinned, bench_mem_lease_staged, bench_mem_lease_told;
extern const struct bench_row bench_break_ext4, bench_break_tmpfs, bench_break_ext4_polled,
	bench_break_tmpfs_polled;
extern const struct bench_row bench_compare_writeback_0_ext4, bench_compare_writeback_10_ext4,
	bench_compare_writeback_100_ext4, bench_sparse_writeback_ext4;
extern const struct bench_row bench_compare_writeback_0_tmpfs, bench_compare_writeback_10_tmpfs,
	bench_compare_writeback_100_tmpfs, bench_sparse_writeback_tmpfs;

uint64_t bench_now(void);
/* ours and floor: n samples each, paired; both are sorted afterwards. */
void bench_judge(const struct bench_row *row, double *ours, double *floor, unsigned int n,
		 struct bench_result *out);

#endif
