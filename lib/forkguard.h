/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 2: fork. A child that kept what it inherits would break two promises when the
 * parent dies: the leased description (the fd, the anchor) would keep an opener
 * waiting until lease-break-time, and the verbs device, through its fds and through
 * every mapping made of it, would keep the memory regions alive and the device writing,
 * after the lease is gone (measured: 32,904 late writes in two seconds with the fds
 * closed and a mapping kept; none with both gone).
 *
 * So before a fork every mapping of a known device is marked MADV_DONTFORK; at that
 * moment, since queues are mapped at any time after a registration. The child first
 * puts /dev/null over the device's fds, then closes the leased ones: in this order,
 * memory regions are never the last thing left. Raw clone() runs no handler.
 * Process-global: all contexts of a process share it.
 */
#ifndef PL_FORKGUARD_H
#define PL_FORKGUARD_H

#include <stdint.h>

#include "list.h"

struct pl_fork_file {
	struct pl_list link;
	int fd, anchor;		/* anchor -1: none */
};

/* One more in every child. An object made in another generation belongs to the parent. */
extern uint32_t pl_fork_generation_now;

static inline uint32_t pl_fork_generation(void)
{
	return pl_fork_generation_now;
}

/* Any number of times. 0, -ENOMEM. */
int pl_forkguard_setup(void);
void pl_fork_file_add(struct pl_fork_file *file);
void pl_fork_file_remove(struct pl_fork_file *file);
/* Counted by cmd_fd. 0, -ENOMEM, -EBADF. */
int pl_fork_device_add(int cmd_fd, int async_fd);
void pl_fork_device_remove(int cmd_fd);

#endif
