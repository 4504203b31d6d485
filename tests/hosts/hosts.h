/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two hosts: an owner that leases a file, and peers on the other host that stream RDMA writes into their
 * halves of it. They are connected by rdma_cm, and the queue pair carries the messages of the grants, too.
 *
 * A peer keeps the books of rt.h in a file, so that they outlive it, and with them what it was
 * promised: after some writes it asks (HOSTS_SYNC), and what the owner answers to is durable. Everybody says
 * what happens to it, a line each; scene.sh says what happens next.
 */
#ifndef PL_HOSTS_H
#define PL_HOSTS_H

#include <netinet/in.h>
#include <pinlease/carry.h>
#include <rdma/rdma_cma.h>

#include "rt.h"

#define HOSTS_PORT  7471
#define HOSTS_LINKS 2u
#define HOSTS_SLOTS 64u /* of a half */
#define HOSTS_HALF  (HOSTS_SLOTS * (uint64_t)RT_SLOT)
#define HOSTS_FULL  (HOSTS_LINKS * HOSTS_HALF)

struct hosts_books {
	struct rt_peer rt;
	_Atomic uint32_t returned[RT_SLOTS]; /* acked when the grant was given back last */
	_Atomic uint32_t durable[RT_SLOTS];  /* acked before a sync that was answered with 0 */
};

struct hosts_note {	/* a message of ours; both hosts are of one kind */
	uint32_t count; /* of the question, and so of its answer */
	int32_t status; /* of the answer: that of pinlease_sync */
};

/* A queue pair that the carrier may use, on an id whose device is known. cq NULL: nothing but the carrier
 * posts. */
int hosts_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct pinlease_carry *carry, struct ibv_cq *cq);
struct rdma_conn_param hosts_param(void);
/* The next event and its id within ms; -ETIMEDOUT. */
int hosts_cm(struct rdma_event_channel *events, int ms, struct rdma_cm_id **id);
struct sockaddr_in hosts_address(const char *name); /* of an environment variable */
struct hosts_books *hosts_books(const char *path, bool make);

#endif
