/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The queue pair of an rc_conn by rdma_cm, which knows which device and path lead to an address. The
 * accepting side tells on the socket at which port it waits; the rest is the connection manager's.
 *
 * Over soft-RoCE it resolves no route to a loopback address (ENODEV): there rc.c connects by hand.
 */
#ifndef EXAMPLES_CM_H
#define EXAMPLES_CM_H

#include "common/rc.h"

/* Both: conn has its socket and its completion queue, and is for rc_close whatever the answer is. */
int cm_accept(const struct rc_dev *dev, struct rc_conn *conn, struct ibv_qp_init_attr *init);
int cm_connect(const struct rc_dev *dev, struct rc_conn *conn, struct ibv_qp_init_attr *init);
void cm_close(struct rc_conn *conn);

#endif
