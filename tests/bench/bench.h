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

#include <pinlease.h>

enum bench_verdict { BENCH_MET, BENCH_MISSED, BENCH_UNDECIDED };

struct bench_row {
	const char *name, *unit, *what;
	double bar;
	bool higher;	/* better: "higher" */
	bool by_value;	/* there is no floor: the value itself is judged */
	bool best;	/* the best of ours by the best of the floor, for rows about what is possible */
	bool reach;	/* met when the interval, narrower than +-2 %, reaches the bar */
	bool guest;	/* needs an RDMA device: measured in a guest */
	unsigned int samples;
	const char *fs;	/* these are the row's own, for its functions */
	long arg;
	int (*set_up)(const struct bench_row *row, void **state);
	/* Fills one pair of samples; 0 or -errno. Called with n = 0, 1, ... after set_up. */
	int (*sample)(void *state, unsigned int n, double *ours, double *floor);
	void (*tear_down)(void *state);
};

struct bench_result {
	double value, floor, ratio;	/* medians; ratio: of the pairs' ratios */
	double low, high;		/* 95 % interval of the median ratio */
	double p99, floor_p99;
	double spread;			/* the floor against itself: quartiles of it, by its median */
	unsigned int samples;
	enum bench_verdict verdict;
};

/* Each ends with a row without a name. */
extern const struct bench_row bench_begin_end[], bench_break[], bench_break_10k[], bench_counts[],
	bench_acquire[], bench_scale[], bench_memory[], bench_write_bw[], bench_sync[],
	bench_writeback[], bench_bystander[];

uint64_t bench_now(void);
/* ns since then, which is what is measured of the side whose turn it is. */
uint64_t bench_took(uint64_t began);
void bench_turn(bool ours);
/* The same where another process has looked at the clock. */
void bench_span(uint64_t began, uint64_t ended);
/* Keeps and writes when that was: a line each, "ours" or "floor", from and to, in ns. */
int bench_spans_keep(void);
void bench_spans_forget(void);
int bench_spans_write(const char *path);
/* ours and floor: n samples each, paired; both are sorted afterwards. */
void bench_judge(const struct bench_row *row, double *ours, double *floor, unsigned int n,
		 struct bench_result *out);

/* The soft limit of open files is at least that from now on: -EPERM, -EMFILE. */
int bench_nofile(unsigned long count);
/* Calls one(arg, n, ours, floor) in a process of its own; its answer and figures. */
int bench_apart(int (*one)(void *arg, unsigned int n, double *ours, double *floor), void *arg, unsigned int n,
		double *ours, double *floor);
/*
 * A pair of samples, ours first in every second one: what comes first warms caches for the other,
 * or has the disk to itself. 0, or what failed first.
 */
int bench_in_turns(void *state, unsigned int n, double *ours, double *floor,
		   int (*our_one)(void *state, double *figure), int (*bare_one)(void *state, double *figure));
/* Waits until the lease has that state: 0, -ETIMEDOUT. */
int bench_state(struct pinlease *lease, enum pinlease_state state);

#endif
