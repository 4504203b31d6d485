/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 2: who stands in the way of a lease? Looks through /proc: slow, never on the break path. */
#ifndef PL_CULPRIT_H
#define PL_CULPRIT_H

#include <stdint.h>

#include "fileid.h"

/*
 * After F_SETLEASE on our_fd said EAGAIN. *reason OWN_FD, OPENER with *pid, OWN_MAPPING
 * when nobody has it open but this process maps it, or OPENER with *pid 0: not found,
 * gone already, or another user's.
 */
void pl_culprit_find(const struct pl_fileid *id, int our_fd, uint32_t *reason, int32_t *pid);

#endif
