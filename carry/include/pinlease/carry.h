/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libpinlease-carry: carriers for the messages between an owner and its peers.
 *
 * pinlease/peers.h makes and takes messages and leaves it to the application to carry them. These are
 * two ready-made carriers: a stream socket, and SEND and RECV of the queue pair that the peer writes
 * with. A carrier keeps order and bounds of messages, sends what is due for the grants (or peers) it
 * was given, hands in what comes for them, and carries messages of the application besides. When
 * the other side is gone, or does what it must not, the carrier is dead: its grants are disconnected,
 * so that no break waits for them, and every call says why.
 *
 * Over a queue pair RETURNED comes behind the writes that it speaks of, also into the memory:
 * a receive completion is ordered after them. Of a socket's message only the peer's own
 * completions say so, which is enough on soft-RoCE and not promised by every adapter.
 *
 * The conventions are those of <pinlease.h>: 0 or a positive answer, or -errno; outputs untouched
 * on failure; any thread; none is async-signal-safe; -ECHILD in a forked child, where free only
 * frees memory. No call waits for the other side. Overview: pinlease_peers(7).
 */
#ifndef PINLEASE_CARRY_H
#define PINLEASE_CARRY_H

#include <pinlease/peers.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ibv_cq;
struct ibv_qp;
struct ibv_wc;
struct pinlease_carry;

#define PINLEASE_CARRY_MAX   1024u	/* bytes of a message of the application */
#define PINLEASE_CARRY_SENDS 8u		/* of the queue pair's sends, at most, are the carrier's */
#define PINLEASE_CARRY_RECVS 16u	/* of its receives are the carrier's: all */

enum pinlease_carry_kind {
	PINLEASE_CARRY_MESSAGE = 1,	/* of the application: pinlease_carry_send */
	PINLEASE_CARRY_DESCRIPTOR,	/* for pinlease_peer_attach, and then pinlease_carry_add_peer */
};

struct pinlease_carry_opts {
	size_t size;
	uint32_t timeout_ms;		/* for the rest of a message that has begun, and for room for one
					 * of ours at the other side; 0 = 5000 */
	uint32_t flags;			/* 0 */
};

/*
 * Over fd, a connected stream socket, which stays the application's and open until free; the carrier
 * alone reads and writes it. -EINVAL, -E2BIG, -EPROTOTYPE: no stream socket, -EBADF, -ENOMEM.
 */
int pinlease_carry_socket(int fd, const struct pinlease_carry_opts *opts, struct pinlease_carry **carry);
/*
 * Over a queue pair of pd, in three steps: this call; ibv_create_qp (rdma_create_qp) with the carrier's
 * CQ for receives, room for CARRY_RECVS of them and CARRY_SENDS sends more than the application's, each
 * with one sge, and no SRQ; start, before the connection is made. Connect with rnr_retry 7. Its CQ may serve
 * the sends, too, if the application posts none; otherwise completions of sends go through _sent.
 * -EINVAL, -E2BIG, -ENOMEM, what the provider said.
 */
int pinlease_carry_verbs(struct ibv_pd *pd, const struct pinlease_carry_opts *opts,
			 struct pinlease_carry **carry);
/* NULL of a carrier over a socket. */
struct ibv_cq *pinlease_carry_cq(const struct pinlease_carry *carry);
/* Posts the receives; qp is in INIT or later. -EINVAL: a socket's, or started; what the provider said. */
int pinlease_carry_start(struct pinlease_carry *carry, struct ibv_qp *qp);
/* For each completion that the application polled of the queue pair's sends. 1: the carrier's; 0: not. */
int pinlease_carry_sent(struct pinlease_carry *carry, const struct ibv_wc *wc);
/* Its grants are disconnected. Over a queue pair: once that is destroyed. -EBUSY: it is not. */
int pinlease_carry_free(struct pinlease_carry *carry);

/*
 * Owner: send the grant's descriptor (now, or once the lease is ACTIVE), and from here on all that the
 * peer has to be told. -EEXIST: added already; -ENOMEM; as pinlease_grant_descriptor, but -EAGAIN.
 */
int pinlease_carry_add_grant(struct pinlease_carry *carry, struct pinlease_grant *grant);
/* Peer: hand in what comes for it, and send its answers. -EEXIST, -ENOMEM. */
int pinlease_carry_add_peer(struct pinlease_carry *carry, struct pinlease_peer *peer);
/* Before they are freed or detached. -ENOENT. */
int pinlease_carry_del_grant(struct pinlease_carry *carry, struct pinlease_grant *grant);
int pinlease_carry_del_peer(struct pinlease_carry *carry, struct pinlease_peer *peer);

/*
 * Send what is due. Owner: at EV_BREAK, EV_RESTORED and EV_LOST; peer: when pinlease_peer_end answers 1.
 * -EIO: an operation of the peer's failed, so that it can promise nothing: the carrier is dead.
 */
int pinlease_carry_tell(struct pinlease_carry *carry);
/* The application's own. -EMSGSIZE: over CARRY_MAX; -ENOBUFS: too many wait; -ENOTCONN: not started. */
int pinlease_carry_send(struct pinlease_carry *carry, const void *buf, size_t len);
/*
 * Take what has come, send what is due. Bytes, with *kind, of what is for the application; 0: nothing.
 * Call it when fd is ready or the timeout is over, and until it answers 0. cap: CARRY_MAX (-EINVAL).
 * Dead: -ECONNRESET: closed, or lost; -EPROTO: what came is no message; -ETIMEDOUT; -EIO (see tell), ...
 */
int pinlease_carry_recv(struct pinlease_carry *carry, void *buf, size_t cap, uint32_t *kind);

/* For poll: a descriptor and what to wait for (POLLIN, POLLOUT). Owned by the carrier, a socket by you. */
int pinlease_carry_fd(const struct pinlease_carry *carry);
int pinlease_carry_events(struct pinlease_carry *carry);
/* Milliseconds till recv wants to be called anyway; -1: none; 0: at once. */
int pinlease_carry_timeout(struct pinlease_carry *carry);

#ifdef __cplusplus
}
#endif
#endif
