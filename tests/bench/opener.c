/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "opener.h"

#define WAIT_MS 5000

/* Shared with the process. */
struct opener_orders {
	_Atomic unsigned int asked, done;
	_Atomic bool end;
	char path[KT_PATH_MAX];
	uint64_t began, ended;
	int err;
};

static int opener_main(const void *arg)
{
	struct opener_orders *o;
	unsigned int seen = 0;

	memcpy(&o, arg, sizeof(o));
	for (;;) {
		while (atomic_load(&o->asked) == seen)
			usleep(20);
		seen++;
		if (atomic_load(&o->end))
			return 0;
		o->began = bench_now();
		o->err = truncate(o->path, OPENER_BYTES) ? -errno : 0;
		o->ended = bench_now();
		atomic_store(&o->done, seen);
	}
}

int opener_start(struct opener *o)
{
	o->orders = kt_shared(sizeof(*o->orders));
	if (!o->orders)
		return -ENOMEM;
	*o->orders = (struct opener_orders){ .err = 0 };
	o->call = kt_call_start(opener_main, &o->orders, sizeof(o->orders));
	return o->call ? 0 : -EAGAIN;
}

int opener_truncate(struct opener *o, const char *path, double *us)
{
	unsigned int n = atomic_load(&o->orders->asked) + 1;
	uint64_t until = bench_now() + WAIT_MS * 1000000ull;

	strncpy(o->orders->path, path, KT_PATH_MAX - 1);
	atomic_store(&o->orders->asked, n);
	while (atomic_load(&o->orders->done) != n) {
		if (bench_now() > until)
			return -ETIMEDOUT;
		usleep(20);
	}
	*us = (double)(o->orders->ended - o->orders->began) / 1e3;
	return o->orders->err;
}

void opener_span(const struct opener *o)
{
	bench_span(o->orders->began, o->orders->ended);
}

void opener_end(struct opener *o)
{
	atomic_store(&o->orders->end, true);
	atomic_fetch_add(&o->orders->asked, 1);
	kt_call_end(o->call);
}
