/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PLC_DIAL_H
#define PLC_DIAL_H

#include "conn.h"

/*
 * Connect to host, trying each of its addresses. 0: conn is up, and *events, which belongs to the
 * caller, tells of its end; -errno, and *what says which step failed.
 */
int dial(const char *host, uint16_t port, struct conn *conn, struct rdma_event_channel **events,
	 const char **what);

#endif
