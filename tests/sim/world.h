/* SPDX-License-Identifier: BSD-3-Clause */
/* A ctx, a device, a file, leases: what most simulated tests start from. Failures end the test. */
#ifndef PL_SIM_WORLD_H
#define PL_SIM_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pinlease.h>

#include "sim.h"

#define WORLD_LEASES 16
#define WORLD_SIZE   (16 * SIM_PAGE) /* of the file */

struct world {
	struct pinlease_ctx *ctx;
	struct ibv_pd *pd;
	const char *path;
	struct pinlease_file *file;
	uint32_t access; /* the file's */
	struct pinlease *lease[WORLD_LEASES];
	unsigned int leases;
};

struct world_case {
	void (*fn)(struct world *w); /* w is zeroed */
};

/* cmocka: once for an executable, and each test between sim_begin and sim_end. */
int world_group(void **state);
void world_run(void **state);

#define world_test(f)                                                                     \
	{                                                                                 \
		.name = #f, .test_func = world_run, .initial_state = &(struct world_case) \
		{                                                                         \
			f                                                                 \
		}                                                                         \
	}

/* ctx, device (no ODP), file of WORLD_SIZE bytes on tmpfs or what sim_file_system said, opened with access.
 */
void world_open(struct world *w, uint32_t access);
/*
 * Another lease of the file. o: what differs from the usual: the device's PD unless a
 * backend is given, remote write for a WRITE lease; pd of an lease without a registration: WORLD_NO_PD.
 */
#define WORLD_NO_PD ((struct ibv_pd *)-1)
struct pinlease *world_lease(struct world *w, uint64_t off, uint64_t len, const struct pinlease_opts *o);
int world_acquire(struct world *w, uint64_t off, uint64_t len, const struct pinlease_opts *o,
		  struct pinlease_why *why, struct pinlease **lease);
/* Releases what is not released, closes the file, frees the ctx. */
void world_close(struct world *w);
void world_forget(struct world *w, struct pinlease *lease); /* the test has released it */

/* The next event is of this type; waits 200 s at most. */
struct pinlease_event world_event(struct world *w, uint32_t type);
void world_no_event(struct world *w);
void world_take_events(struct world *w); /* all there are */

struct pinlease_view world_view(struct pinlease *lease);
struct pinlease_lease_info world_info(struct pinlease *lease);
uint32_t world_state(struct pinlease *lease);
void world_reach(struct pinlease *lease, uint32_t state); /* waits 200 s at most */
uint32_t world_begin(struct pinlease *lease, uint32_t n); /* the generation */
/* The peer writes len bytes of seed's pattern at off of the lease, and they are there when it returns. */
void world_write(struct pinlease *lease, uint64_t off, uint32_t len, unsigned int seed);
/* And tells the library of it: for leases with DIRTY_TOLD. */
void world_write_told(struct pinlease *lease, uint64_t off, uint32_t len, unsigned int seed);
int world_sync(struct pinlease *lease);	/* all of it */
/* An opener is let on within ns, not by the kernel's own clock; ends it. */
void world_opener_in(struct sim_opener *o, uint64_t ns);

#endif
