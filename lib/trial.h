/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 3: what is different when pinlease_probe opens and acquires. A trial walks the
 * code that an application's call walks, so its answer is that call's answer; only what
 * would change the file is left out, and it must not matter to the answer:
 *
 *   seals			stay off: guard_seal.c answers what F_ADD_SEALS would
 *   blocks, faults for writing	left out: so a full disk is not foreseen
 *   pins of tmpfs, hugetlbfs	of a scratch file of the same kind: a pin faults pages in, and GUP
 *				looks at the kind of the mapping, not at what is in the file
 *   writeback			none: staged memory of a trial was written by nobody
 *   events			none: the application does not know the lease
 */
#ifndef PL_TRIAL_H
#define PL_TRIAL_H

#include "objects.h"

/* The memory of this lease is a scratch file's. */
bool pl_trial_scratch(const struct pinlease *lease);
/* Puts it in place of what is mapped. 0, -errno. */
int pl_trial_map(struct pinlease *lease);
/* Nothing is to be allocated and faulted in for this lease. */
bool pl_trial_leaves_pages(const struct pinlease *lease);

#endif
