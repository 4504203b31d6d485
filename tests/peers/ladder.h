/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Peers that hold grants, and their owner. A peer is a process of its own with one connection: it
 * streams RDMA writes through it while its grant allows them, and keeps the books of rt.h in shared memory.
 * It hears its owner over a carrier, which is the same connection or a TCP socket. The opener is
 * a process that opens the leased file by its path and judges what is in it before it closes.
 */
#ifndef PL_PEERS_LADDER_H
#define PL_PEERS_LADDER_H

#include <pinlease/carry.h>

#include "kt.h"
#include "rt.h"

#define LADDER_PEERS   4u
#define LADDER_LONG_NS 30000000000u	/* nothing takes so long */

enum ladder_order {
	LADDER_WRITE,	/* as fast as it can, and hears */
	LADDER_LISTEN,	/* hears, writes nothing */
	LADDER_DEAF,	/* writes, hears nothing */
	LADDER_LEAVE,
};

struct ladder_peer {			/* in kt_shared memory */
	struct rt_peer books;		/* acked, error, slot; slots: how many of its grant it writes to */
	_Atomic uint32_t order, ready;
	_Atomic uint32_t grants;	/* keys it was given: descriptors and RESTORED */
	_Atomic uint32_t quiet;		/* since the order LISTEN: nothing in flight */
	_Atomic int32_t ended;		/* what its carrier said */
	struct kt_ep owner, self;
	_Atomic uint32_t connect;	/* owner is set */
	uint16_t port;			/* of the owner's TCP socket; 0: SEND and RECV carry */
};

struct ladder_link {
	struct ladder_peer *peer;
	struct kt_call *call;		/* the peer's process */
	struct kt_qp qp;
	int sock;			/* -1 */
	struct pinlease_carry *carry;
	struct pinlease_grant *grant;
	int dead;			/* what the carrier said, or 0 */
};

struct ladder_opener {			/* in kt_shared memory */
	char path[KT_PATH_MAX];
	struct ladder_peer *peer[LADDER_PEERS];
	uint64_t off[LADDER_PEERS], full;
	uint32_t peers;
	uint32_t missing, held;
};

struct ladder {
	struct kt_rdma dev;
	struct kt_fs fs;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct ladder_link link[LADDER_PEERS];
	struct ladder_opener *opener;
	uint32_t links;
	unsigned int broken, revoked, restored;	/* events so far */
	uint64_t cut;				/* in flight at the last REVOKED */
	uint64_t revoked_ns, restored_ns;	/* when the last of them was taken */
	uint64_t pause_ns;			/* how long the lease was away */
};

/* Before anything else: the file system, a file of full bytes, the processes of peers (port: over TCP). */
void ladder_setup(struct ladder *l, const char *fs, uint32_t peers, uint64_t full, bool tcp);
/* The lease, and a grant of an equal share for each peer, which writes when this returns. */
void ladder_open(struct ladder *l, uint32_t flags, uint32_t deadline_ms);
/* One turn of the owner's loop, a millisecond at most. */
void ladder_turn(struct ladder *l);
/*
 * Opens the file; does not wait till it is open. Not sooner after the last restore than that came after its
 * break: the library would take longer and longer to restore (pinlease_states(7)), and the test to end.
 */
struct kt_call *ladder_break(struct ladder *l);
/* Till it has closed the file again: ms that its open took. It must have found nothing missing. */
unsigned int ladder_opener_ms(struct ladder *l, struct kt_call *call);
/* Each peer that lives has that many more writes acknowledged. */
void ladder_load(struct ladder *l, uint64_t writes);
/* The order, and for LISTEN that nothing is in flight. */
void ladder_order(struct ladder *l, uint32_t peer, enum ladder_order order);
bool ladder_lives(const struct ladder_link *k);	/* its connection was never lost, at either end */
/* Peers leave; the lease is released; the file is judged. */
void ladder_close(struct ladder *l);

#define ladder_until(l, cond, what)                                                        \
	do {                                                                               \
		uint64_t until_ns = kt_now() + LADDER_LONG_NS;                             \
		while (!(cond)) {                                                          \
			ladder_turn(l);                                                    \
			rt_assert(kt_now() < until_ns, "waited in vain for: %s", what);    \
		}                                                                          \
	} while (0)

#endif
