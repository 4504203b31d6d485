/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PLC_DIAL_H
#define PLC_DIAL_H

#include "conn.h"

#define DIAL_WHY 120

/*
 * Connect to host, trying each of its addresses. 0: conn is up, and *events, which belongs to the
 * caller, tells of its end; -errno, and why is for people. -EPROTO and -EPROTONOSUPPORT: who listens
 * there is no pl-copy, or of another version; -EBUSY: it has no room for one more now.
 */
int dial(const char *host, uint16_t port, struct conn *conn, struct rdma_event_channel **events,
	 char why[DIAL_WHY]);

#endif
