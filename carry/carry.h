/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A carrier: a queue of frames going out, whatever brings frames in, and the grants and
 * peers that it serves.
 *
 *	               plc_queue          transport              transport
 *	(nothing) ────────────────▶ queued ────────▶ on the way ──────────▶ (free again)
 *	                             head              posted                tail
 *
 * A frame: the letters PLCY, its kind, 0, and the length of what follows in two bytes,
 * little-endian. It says its own bounds on a stream, and is checked against those of a SEND.
 * Kind 3 is a message of pinlease/peers.h; the other two are public.
 *
 * All is under carry->lock, which is taken before the locks of libpinlease and never within
 * them: that library calls nobody. A carrier that is dead stays so; the frames are left.
 */
#ifndef PLC_CARRY_H
#define PLC_CARRY_H

#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include <pinlease/carry.h>

#define PLC_API __attribute__((visibility("default"))) /* what leaves the library, with the symbol map */

#define PLC_HEAD       8u
#define PLC_FRAME      (PLC_HEAD + PINLEASE_CARRY_MAX)
#define PLC_OUT	       16u	/* frames going out at most */
#define PLC_RESERVED   4u	/* of those, not for messages of the application */
#define PLC_LEASE      3u	/* the kind that is ours */
#define PLC_TIMEOUT_MS 5000u
#define PLC_LATE       4u	/* that part of the timeout is added when it is noticed to be over */
#define PLC_BURST      64u	/* messages handed in by one call: a flood does not keep its caller */
#define PLC_NS_PER_MS  1000000u

struct plc_frame {
	unsigned char data[PLC_FRAME];
	uint32_t len;		/* with its head */
};

struct plc_client {		/* a grant or a peer */
	struct plc_client *next;
	struct pinlease_grant *grant;
	struct pinlease_peer *peer;
	bool described;		/* grant: its descriptor was sent */
};

struct plc_transport {
	/* Send what is queued, as far as it goes: 0, or why the carrier is dead. */
	int (*send)(struct pinlease_carry *c);
	/* 1: *frame (valid till the next call) has come whole; 0: none now; or why the carrier is dead. */
	int (*recv)(struct pinlease_carry *c, const unsigned char **frame, uint32_t *len);
	int (*fd)(const struct pinlease_carry *c);
	int (*free)(struct pinlease_carry *c);	/* 0, or -errno and nothing has happened */
};

struct pinlease_carry {
	pthread_mutex_t lock;
	pid_t pid;				/* constant, with what follows */
	uint64_t timeout_ns;
	const struct plc_transport *transport;
	int sock;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_mr *mr;			/* of this structure */
	struct ibv_qp *qp;			/* lock, with what follows; set by start */
	int dead;				/* 0, or why */
	bool more;				/* a burst ended before what had come did */
	struct plc_client *clients;
	uint32_t head, posted, tail;		/* of out, counting on and on */
	uint64_t out_since;			/* when tail became the oldest; 0: none */
	uint64_t in_since;			/* when in began; 0: it has not */
	uint64_t late, late_until;		/* what was noticed to be overdue then has time until */
	uint32_t out_done;			/* socket: bytes of posted that are sent */
	uint32_t in_len;			/* socket: bytes in in */
	struct plc_frame in;
	struct plc_frame out[PLC_OUT];
	struct plc_frame rx[PINLEASE_CARRY_RECVS]; /* verbs */
	struct plc_frame *taken;		/* verbs: of rx, given out by recv and not posted again */
};

/* carry.c */
uint64_t plc_now(void);
int plc_new(const struct pinlease_carry_opts *opts, const struct plc_transport *transport,
	    struct pinlease_carry **carry);
void plc_free(struct pinlease_carry *c);	/* the memory */
/* Locked. Dead from here on, if it was not: r (< 0) is why. Answers why. */
int plc_die(struct pinlease_carry *c, int r);

/* queue.c; locked */
uint32_t plc_room(const struct pinlease_carry *c);
void plc_queue(struct pinlease_carry *c, uint32_t kind, const void *buf, size_t len);	/* there is room */
void plc_completed(struct pinlease_carry *c);	/* the oldest frame has gone */
/* The length that a frame's head gives it, or -EPROTO. */
int plc_frame_len(const unsigned char *head);
uint32_t plc_frame_kind(const unsigned char *head);

/* bind.c; locked */
int plc_tell(struct pinlease_carry *c);		/* queue what is due: 0, or why the carrier is dead */
void plc_hand_in(struct pinlease_carry *c, const void *buf, size_t len);
void plc_disconnect(struct pinlease_carry *c);
void plc_forget(struct pinlease_carry *c);

#endif
