/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rt: what a test needs that meets a real RDMA device.
 *
 * The peer is a process of its own that streams RDMA writes, knows nothing of the
 * library, and keeps its books in memory shared with the test: for every slot of the
 * target the last sequence number posted and acknowledged, and when. Every 64-bit
 * word of a slot carries the slot's number and the write's sequence number, so that a
 * file's content says by itself which write is in it, and whether it is torn.
 *
 * rt_missing is the judge. A write is missing when its completion succeeded, no later
 * acknowledged write covers it, and the file does not hold it, except where the change
 * itself removed that range and the completion was polled before the change returned.
 */
#ifndef PL_TEST_RT_H
#define PL_TEST_RT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kt_rdma.h"

#define RT_SLOT	 4096u	 /* bytes a write */
#define RT_SLOTS 256u	 /* at most */
#define RT_DEPTH 16u	 /* writes in flight */
#define RT_LOG	 65536u	 /* post times of the last successful writes */
#define RT_ALL	 UINT64_MAX

/* A test cannot go on: says where and why, and exits with 1. */
__attribute__((noreturn, format(printf, 3, 4))) void rt_die(const char *file, int line, const char *fmt, ...);
#define rt_assert(cond, ...) ((cond) ? (void)0 : rt_die(__FILE__, __LINE__, __VA_ARGS__))

/* Leaves with 77 when there is no RDMA device. Opens none. */
void rt_require(void);
void rt_open(struct kt_rdma *dev);	/* or dies: rt_require was asked before */

enum rt_order { RT_REST, RT_CONNECT, RT_STREAM, RT_LEAVE };
enum rt_peer_state { RT_NEW, RT_READY, RT_STREAMING, RT_DEAD, RT_GONE };

struct rt_slot {
	_Atomic uint32_t posted, acked;	/* sequence numbers, 0: none, or removed by a change */
	_Atomic uint32_t base;		/* the last one posted before its removal: may not show again */
	_Atomic uint64_t acked_ns;	/* when that completion was polled */
};

struct rt_peer {			/* in kt_shared memory */
	_Atomic uint32_t order, state;
	_Atomic uint32_t connects;	/* counts RT_CONNECT orders carried out */
	struct kt_ep owner, self;
	uint64_t addr;			/* the target, set while the peer is at rest */
	uint32_t rkey, slots;		/* slots: it writes to the first so many */
	bool quiet;			/* the judge names no writes */
	bool patient;			/* as kt_rdma.patient; set before the peer is started */
	_Atomic uint32_t error;		/* first bad completion status since it was connected */
	_Atomic uint64_t acked;		/* writes acknowledged in all */
	_Atomic uint64_t logged;
	_Atomic uint64_t log[RT_LOG];	/* when each successful write was posted */
	struct rt_slot slot[RT_SLOTS];
};

struct kt_call *rt_peer_start(struct rt_peer *peer);	/* the process; at rest, its device open */
void rt_peer_order(struct rt_peer *peer, enum rt_order order);
bool rt_peer_reached(struct rt_peer *peer, enum rt_peer_state state, unsigned int ms);
void rt_peer_rest(struct rt_peer *peer);	/* ordered, and reached: dies otherwise */
/* A new connection between dev and the peer; what was in *qp (zeroed at first) is dropped. */
void rt_peer_connect(struct rt_peer *peer, struct kt_rdma *dev, struct kt_qp *qp);
/* What each word of a slot is, once write seq is in it. */
uint64_t rt_word(uint32_t slot, uint32_t seq);
/* Successful writes that were posted after ns. */
uint64_t rt_peer_late(struct rt_peer *peer, uint64_t ns);

/*
 * Judge what a file held, size bytes of it, with the peer at rest: what lay at or behind cut was
 * removed by a change that returned at cut_ns (RT_ALL: nothing was). Slots that were removed start
 * anew. Answers how many writes are missing, and names the first; *held: acknowledged ones found.
 */
unsigned int rt_missing(struct rt_peer *peer, const void *image, size_t size, uint64_t cut, uint64_t cut_ns,
			unsigned int *held);

#endif
