/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The opener of the rounds: a process that changes a leased file by its path, the
 * ordinary way, and then watches the file through the leased open file description
 * itself (pidfd_getfd), since looking through another open would be one more break.
 * It uses nothing of the library.
 */
#ifndef PL_RDMA_WATCH_H
#define PL_RDMA_WATCH_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "kt.h"
#include "rt.h"

enum watch_change { WATCH_HALVE, WATCH_OPEN, WATCH_REGROW, WATCH_CHANGES };
enum watch_order { WATCH_REST, WATCH_GO, WATCH_LEAVE };
enum watch_state { WATCH_READY, WATCH_IN_CALL, WATCH_LOOKING, WATCH_TOLD };

struct watch {				/* in kt_shared memory */
	_Atomic uint32_t order, state;
	_Atomic uint32_t may_change;	/* set by the owner: what the file holds is its business again */
	char path[KT_PATH_MAX];
	struct rt_peer *peer;
	pid_t owner;
	int fd;				/* the owner's number for the leased description */
	uint32_t change;		/* enum watch_change */
	uint32_t judge_last;		/* judge the last look, not the first (nothing stops the peer) */
	uint64_t full;			/* the file's whole size; half of it is kept by HALVE and REGROW */
	_Atomic uint64_t called_ns, returned_ns;
	/* What it tells, valid in WATCH_TOLD: */
	uint32_t missing, held, looks;
	uint64_t changed;		/* bytes that changed between the return and may_change */
};

struct kt_call *watch_start(struct watch *watch);
const char *watch_name(enum watch_change change);

#endif
