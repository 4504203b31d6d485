/* SPDX-License-Identifier: BSD-3-Clause */
/* Peers that are told to stop before their rkey goes: pinlease_peers(7). Conventions: pinlease.h. */
#ifndef PINLEASE_PEERS_H
#define PINLEASE_PEERS_H

#include <pinlease.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pinlease_grant;
struct pinlease_peer;

#define PINLEASE_GRANT_END	(1u << 0)	/* grant_message: the grant is being taken back for good */
#define PINLEASE_MESSAGE_MAX	552		/* no message and no descriptor is longer, in bytes */

/*
 * Grants, the owner's side; pinlease_peers(7) has messages and wire format. A grant is one
 * peer's right to a range of a lease; it counts as an operation in flight from the moment its
 * descriptor was read, until it is returned or disconnected, or its generation is fenced. The
 * library sends nothing: at EV_BREAK, EV_RESTORED and EV_LOST of a lease the application walks
 * its grants (grant_next) and sends each peer what grant_message gives, over any channel
 * that keeps order. None of these calls blocks, but free and received as pinlease_dma_end does.
 */
struct pinlease_grant_opts {
	size_t size;
	uint64_t off, len;		/* relative to the lease; len 0 = to its end */
	uint32_t access;		/* 0 = the lease's */
	uint32_t align;			/* wanted of the peer's operations: a power of two, 0 = 1 */
	uint32_t mr_index;		/* the registration whose rkey it gets */
	uint32_t reserved;		/* 0 */
	void *user;			/* comes back from pinlease_grant_next: the peer's connection */
};

/* -EINVAL (also of a lease with FILL_NONE), -E2BIG, -EACCES, -ERANGE (range, mr_index), -ENOMEM. */
int pinlease_grant_new(struct pinlease *lease, const struct pinlease_grant_opts *opts,
		       struct pinlease_grant **grant);
/*
 * What pinlease_peer_attach takes; answers its bytes. From here on the grant is out. -EAGAIN
 * unless ACTIVE, -ENODATA: the file has become too short, -ENOTCONN: disconnected, or told GONE; -ENOSPC.
 */
int pinlease_grant_descriptor(struct pinlease_grant *grant, void *buf, size_t cap);
/*
 * What the peer has to be told now: bytes, once each, or 0. RECALL: a break; RESTORED: out
 * again, with new keys, once it has answered the RECALL; GONE: LOST, or beyond the file's new end.
 * flags 0, or GRANT_END: RECALL
 * though ACTIVE, and GONE once it is returned. -ENOSPC: it is due still.
 */
int pinlease_grant_message(struct pinlease_grant *grant, uint32_t flags, void *buf, size_t cap);
/*
 * What came from the peer: RETURNED. With L_GRANTED, when every grant for writing of this generation
 * has come back and the owner has begun no operation, only the ranges in them are written back.
 * -EPROTO: no message, or not this grant's; -ESTALE: not out in that generation, or too late (but
 * from now on RESTORED is due).
 */
int pinlease_grant_received(struct pinlease_grant *grant, const void *buf, size_t len);
/* The peer is gone: no break waits for it any more, the fence stops what it has in flight. 0. */
int pinlease_grant_disconnected(struct pinlease_grant *grant);
/* Its grants: 1, *next and *user (may be NULL) of the first one (after NULL), or the one behind; 0. */
int pinlease_grant_next(struct pinlease *lease, struct pinlease_grant *after, struct pinlease_grant **next,
			void **user);
/* As disconnected, and forgets it; a peer that still has the rkey is stopped by the next fence only. */
int pinlease_grant_free(struct pinlease_grant *grant);

/*
 * The peer's side: needs no ctx, lease or thread. begin before an operation is posted, end when
 * it has completed; none of these calls blocks for longer than a mutex.
 */
struct pinlease_peer_key {		/* for one operation */
	size_t size;
	uint64_t addr;			/* remote address of off */
	uint32_t rkey, gen, align;
	uint32_t reserved;
};

/* A descriptor. -EPROTO: it is none; -ENOMEM. */
int pinlease_peer_attach(const void *buf, size_t len, struct pinlease_peer **peer);
/*
 * Set key->size. WRITE: off..off+len counts as written. -EAGAIN: recalled; -ESTALE: GONE; -EACCES,
 * -ERANGE: not granted.
 */
int pinlease_peer_begin(struct pinlease_peer *peer, uint32_t access, uint64_t off, uint64_t len,
			struct pinlease_peer_key *key);
/* ok: completed with success; flushed proves nothing. 1: the last one, the answer can be given. */
int pinlease_peer_end(struct pinlease_peer *peer, uint32_t gen, int ok);
/* What came from the owner. 1: an answer is due; 0: none. -EPROTO; -ESTALE: of an older generation. */
int pinlease_peer_message(struct pinlease_peer *peer, const void *buf, size_t len);
/*
 * RETURNED: bytes; 0: none is due. -EAGAIN: operations are in flight; -EIO: one of them failed, so
 * nothing can be promised: close the connection; -ENOSPC.
 */
int pinlease_peer_answer(struct pinlease_peer *peer, void *buf, size_t cap);
/* -EBUSY while operations are in flight. */
int pinlease_peer_detach(struct pinlease_peer *peer);

#ifdef __cplusplus
}
#endif
#endif
