/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the uring tests share: a context with a ring, leases of its buffers, events
 * waited for, and a pump, which writes known blocks into a lease as fast as it is let.
 * The asserting ones fail the running cmocka test; use them in its thread only.
 */
#ifndef UT_H
#define UT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pinlease/uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "kt.h"

#define UT_BLOCK  4096u
#define UT_BLOCKS 64u			/* of a test file, unless said otherwise */
#define UT_LEN	  (UT_BLOCK * UT_BLOCKS)
#define UT_LONG	  KT_LONG

struct ut {
	struct pinlease_ctx *ctx;
	struct pinlease_uring *ring;
};

void ut_start(struct ut *u, uint32_t entries, uint32_t buffers);
void ut_stop(struct ut *u);		/* asserts that nothing is left */

/* What each main begins with. Skips without root, and where io_uring is off, by sysctl or seccomp. */
void ut_begin(void);
/* And mounts what fs is to be; skips where that cannot be. */
void ut_begin_on(struct kt_fs *fs, const char *type, unsigned int mib);
void ut_need_uring(void);

/* These assert success. flags: PINLEASE_F_*, PINLEASE_L_*; mode 0: AUTO. */
struct pinlease_file *ut_open(struct ut *u, const char *path, uint32_t access, uint32_t flags);
struct pinlease *ut_lease(struct ut *u, struct pinlease_file *file, uint64_t len, uint32_t flags,
			  uint32_t deadline_ms);
void ut_drop(struct pinlease *lease, struct pinlease_file *file);	/* release and close */
struct pinlease_view ut_view(struct pinlease *lease);
struct pinlease_lease_info ut_info(struct pinlease *lease);
struct pinlease_uring_info ut_ring_info(struct ut *u);
void ut_restore(struct pinlease *lease); /* until it is ACTIVE again: an opener may still be on its way out */

/* The next event of this type within ms, those before it dropped: true and *ev. */
bool ut_event(struct ut *u, uint32_t type, unsigned int ms, struct pinlease_event *ev);
/* One completion, asserted to come. */
struct pinlease_uring_completion ut_take(struct ut *u);

/* Has anybody a lease of it? From /proc/locks. */
bool ut_leased(const char *path);

/* A file of blocks blocks on dir, block i filled with stamp 0. */
void ut_file(char path[KT_PATH_MAX], const char *dir, const char *name, uint32_t blocks);
/* The stamp that a whole block of a file is filled with, -1 when it is not uniform; by an fd of its own. */
int64_t ut_stamp_at(const char *path, uint32_t block);
int64_t ut_stamp_of(const void *block);
void ut_stamp(void *block, uint64_t stamp);

/* The pump. Block slot k % slots gets stamp k % UT_STAMPS + 1, for k = 0, 1, ... */
#define UT_STAMPS 251u

struct ut_pump {
	struct ut *u;
	struct pinlease *lease;
	uint32_t slots;
	int source;			/* memfd of stamped blocks */
	pthread_t thread;
	bool running;
	_Atomic bool stop;
	_Atomic uint64_t acked;		/* completed with all bytes */
	_Atomic uint64_t refused;	/* submissions answered -EAGAIN */
	_Atomic int error;		/* the first that is neither */
	_Atomic int64_t last[UT_BLOCKS]; /* stamp of the last completed write; -1: one was cut off */
	bool busy[UT_BLOCKS];		/* the pump's thread only */
	uint32_t out;
};

void ut_pump_start(struct ut_pump *p, struct ut *u, struct pinlease *lease, uint32_t slots);
void ut_pump_end(struct ut_pump *p);	/* in a teardown: no asserts, no harm when it does not run */
void ut_pump_stop(struct ut_pump *p);	/* asserts that it saw no error */
void ut_pump_more(struct ut_pump *p, uint64_t n); /* wait until n more have completed */
/* While the lease refuses: wait until all that the pump had asked for is accounted for. */
void ut_pump_settle(struct ut_pump *p);
/* Blocks of path before end whose stamp is not the last one completed. */
uint32_t ut_pump_missing(struct ut_pump *p, const char *path, uint32_t end);

#endif
