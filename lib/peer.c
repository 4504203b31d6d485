/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 3: the peer's side of a grant: no ctx, no lease, no thread. One lock; the account is
 * a count, since whoever posts a work request pays far more than a mutex.
 *
 * Only a successful completion proves that a write is over. After one that failed (flushed, say)
 * the data may land yet, so the grant cannot be returned any more in this generation: the
 * owner has to fence it, which is what it does with a peer that does not answer.
 */
#include <errno.h>
#include <pthread.h>

#include <pinlease/peers.h>

#include "api_export.h"
#include "forkguard.h"
#include "opts.h"
#include "sys.h"
#include "wire.h"

enum peer_state { PEER_ACTIVE, PEER_RECALLED, PEER_RETURNED, PEER_GONE };

struct pinlease_peer {
	pthread_mutex_t lock;	/* leaf; protects all but fork_gen */
	uint32_t fork_gen;	/* constant */
	enum peer_state state;
	struct pl_wire grant;	/* the descriptor of this generation */
	struct pl_wire wrote;	/* the answer, growing with each write begun */
	uint64_t in_flight;	/* of this generation */
	uint64_t failed;
};

static bool peer_forked(const struct pinlease_peer *peer)
{
	return pl_unlikely(peer->fork_gen != pl_fork_generation());
}

static void peer_adopt(struct pinlease_peer *peer, const struct pl_wire *w)
{
	peer->grant = *w;
	peer->wrote = (struct pl_wire){
		.type = PL_WIRE_RETURNED, .gen = w->gen, .lease = w->lease, .grant = w->grant
	};
	peer->state = PEER_ACTIVE;
	peer->in_flight = peer->failed = 0;
}

PL_API int pinlease_peer_attach(const void *buf, size_t len, struct pinlease_peer **peer)
{
	struct pinlease_peer *p;
	struct pl_wire w;
	int r;

	if (!buf || !peer)
		return -EINVAL;
	r = pl_wire_decode(buf, len, &w);
	if (!r && w.type != PL_WIRE_GRANT && w.type != PL_WIRE_RESTORED)
		r = -EPROTO;
	if (!r)
		r = pl_forkguard_setup();
	if (r)
		return r;
	p = pl_sys_alloc(sizeof(*p));
	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	p->fork_gen = pl_fork_generation();
	peer_adopt(p, &w);
	*peer = p;
	return 0;
}

/* Locked. */
static int peer_refuses(const struct pinlease_peer *peer, uint32_t access, uint64_t off, uint64_t len)
{
	if (peer->state == PEER_GONE)
		return -ESTALE;
	if (peer->state != PEER_ACTIVE)
		return -EAGAIN;
	if (access > peer->grant.access)
		return -EACCES;
	return off > peer->grant.len || len > peer->grant.len - off ? -ERANGE : 0;
}

PL_API int pinlease_peer_begin(struct pinlease_peer *peer, uint32_t access, uint64_t off, uint64_t len,
			       struct pinlease_peer_key *key)
{
	struct pinlease_peer_key k = { .size = sizeof(k) };
	int r;

	if (!peer || !key || !len || (access != PINLEASE_READ && access != PINLEASE_WRITE) ||
	    !pl_opts_fits(sizeof(k), key))
		return -EINVAL;
	if (peer_forked(peer))
		return -ECHILD;
	pthread_mutex_lock(&peer->lock);
	r = peer_refuses(peer, access, off, len);
	if (!r) {
		peer->in_flight++;
		if (access == PINLEASE_WRITE)
			pl_wire_add(&peer->wrote, off, len);
		k.addr = peer->grant.addr + off;
		k.rkey = peer->grant.rkey;
		k.gen = peer->grant.gen;
		k.align = peer->grant.align;
	}
	pthread_mutex_unlock(&peer->lock);
	return r ? r : pl_opts_out(&k, sizeof(k), sizeof(k), key);
}

PL_API int pinlease_peer_end(struct pinlease_peer *peer, uint32_t gen, int ok)
{
	int due = 0;

	if (!peer)
		return -EINVAL;
	if (peer_forked(peer))
		return -ECHILD;
	pthread_mutex_lock(&peer->lock);
	/* Of an older generation: its rkey is fenced, and it holds up nothing. */
	if (gen == peer->grant.gen && peer->in_flight) {
		peer->in_flight--;
		peer->failed += !ok;
		due = !peer->in_flight && peer->state == PEER_RECALLED;
	}
	pthread_mutex_unlock(&peer->lock);
	return due;
}

/* Locked. */
static int peer_take(struct pinlease_peer *peer, const struct pl_wire *w)
{
	int32_t newer = (int32_t)(w->gen - peer->grant.gen);

	if (w->lease != peer->grant.lease || w->grant != peer->grant.grant)
		return -EPROTO;
	if (peer->state == PEER_GONE || newer < 0)
		return -ESTALE;
	switch (w->type) {
	case PL_WIRE_RECALL:
		if (newer)
			return -EPROTO;
		peer->state = PEER_RECALLED;
		return 1;
	case PL_WIRE_RESTORED:
		if (!newer)
			return -ESTALE;
		peer_adopt(peer, w);
		return 0;
	case PL_WIRE_GONE:
		peer->state = PEER_GONE;
		return 0;
	default:
		return -EPROTO;
	}
}

PL_API int pinlease_peer_message(struct pinlease_peer *peer, const void *buf, size_t len)
{
	struct pl_wire w;
	int r;

	if (!peer || !buf)
		return -EINVAL;
	if (peer_forked(peer))
		return -ECHILD;
	r = pl_wire_decode(buf, len, &w);
	if (r)
		return r;
	pthread_mutex_lock(&peer->lock);
	r = peer_take(peer, &w);
	pthread_mutex_unlock(&peer->lock);
	return r;
}

PL_API int pinlease_peer_answer(struct pinlease_peer *peer, void *buf, size_t cap)
{
	int r = 0;

	if (!peer || !buf)
		return -EINVAL;
	if (peer_forked(peer))
		return -ECHILD;
	pthread_mutex_lock(&peer->lock);
	if (peer->state == PEER_RECALLED) {
		if (peer->in_flight)
			r = -EAGAIN;
		else if (peer->failed)
			r = -EIO;
		else
			r = pl_wire_encode(&peer->wrote, buf, cap);
		if (r > 0)
			peer->state = PEER_RETURNED;
	}
	pthread_mutex_unlock(&peer->lock);
	return r;
}

PL_API int pinlease_peer_detach(struct pinlease_peer *peer)
{
	if (!peer)
		return 0;
	if (!peer_forked(peer)) {
		bool busy;

		pthread_mutex_lock(&peer->lock);
		busy = peer->in_flight;
		pthread_mutex_unlock(&peer->lock);
		if (busy)
			return -EBUSY;
		pthread_mutex_destroy(&peer->lock);
	}
	pl_sys_free(peer);
	return 0;
}
