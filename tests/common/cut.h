/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Power cuts. Arms write to files of one file system on a recorded disk and sync them,
 * each in a thread of its own, over and over. Before each sync an arm notes what had been
 * acknowledged: the promise; when the sync has returned 0, the log gets a mark. Then
 * power is cut at points of the log: an image is made of what the disk may hold there,
 * mounted, which replays the journal, and every file must hold what the last mark before
 * that point promised. Later writes may be there, whole or torn.
 *
 * The control is an arm whose sync only pretends. It must lose, or the disk showed nothing.
 */
#ifndef PL_TEST_CUT_H
#define PL_TEST_CUT_H

#include <pthread.h>
#include <stdbool.h>

#include "recdisk.h"
#include "rt.h"

#define CUT_ARMS   4u
#define CUT_SLOTS  64u
#define CUT_BYTES  (CUT_SLOTS * (uint64_t)RT_SLOT)
#define CUT_ROUNDS 128u /* at most */

/* A writer in a thread of this process: one slot after the other, one write at a time. */
struct cut_writer {
	/* The device's write of RT_SLOT bytes at words into the slot: 0 when it is acknowledged, or -errno.
	 */
	int (*write)(void *arg, uint32_t slot, const uint64_t *words);
	void *arg;
	struct rt_peer *books;
	uint64_t *words;
	_Atomic bool stop;
	pthread_t thread;
};

/* Allocates the books, and words, RT_SLOT bytes on a page of their own. */
void cut_writer_make(struct cut_writer *w);
/* By hand: one write. */
void cut_writer_step(struct cut_writer *w, uint32_t slot);
void cut_writer_start(struct cut_writer *w);
void cut_writer_stop(struct cut_writer *w);

struct cut_promise {
	uint32_t arm;
	uint32_t acked[CUT_SLOTS];
};

/* The control's: fdatasync of this thread does nothing, and says 0. */
extern _Thread_local bool cut_pretend;

struct cut;

struct cut_arm {
	const char *name;
	bool control, unwritten; /* unwritten: blocks are allocated and hold nothing yet */
	int (*sync)(void *arg);	 /* 0: it is durable */
	void *arg;
	struct rt_peer *books; /* who writes keeps these */
	struct cut *cut;
	pthread_t thread;
	uint32_t number;
	char path[KT_PATH_MAX];
	unsigned int held, missing, lost_points;
};

struct cut {
	const char *type;
	struct rec_disk disk;
	struct kt_fs fs;
	unsigned int rounds;
	uint32_t arms;
	struct cut_arm arm[CUT_ARMS];
	_Atomic uint32_t promises;
	struct cut_promise *promise; /* CUT_ARMS * CUT_ROUNDS */
	unsigned int points;
};

/* The disk with an empty file system of that type, mounted, and a file for each arm. Dies, or skips. */
void cut_begin(struct cut *cut, const char *type, enum rec_kind kind, unsigned int rounds);
struct cut_arm *cut_arm_add(struct cut *cut, const struct cut_arm *like);
/* All arms write and sync, rounds times each. */
void cut_run(struct cut *cut);
/* The files must be closed. Cuts power as often as there were rounds, and judges. */
void cut_judge(struct cut *cut);

#endif
