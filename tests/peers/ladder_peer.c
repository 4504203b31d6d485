/* SPDX-License-Identifier: BSD-3-Clause */
/* The peer's process: writes what its grant allows, and nothing else knows of the owner's file. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ladder_peer.h"

#define NAP_US 100

struct flight {
	uint32_t slot, seq, gen;
};

struct end {
	struct ladder_peer *p;
	struct kt_rdma dev;
	struct kt_qp qp;
	struct ibv_mr *mr;
	uint64_t *buf; /* RT_DEPTH slots */
	struct pinlease_carry *carry;
	struct pinlease_peer *peer;
	struct flight flight[RT_DEPTH];
	uint32_t head, tail, next; /* posted, completed; the next slot */
	uint32_t gen;
};

int ladder_qp(const struct kt_rdma *dev, struct pinlease_carry *carry, bool poll, struct kt_qp *q)
{
	struct ibv_qp_init_attr init = {
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = RT_DEPTH + PINLEASE_CARRY_SENDS,
			 .max_recv_wr = PINLEASE_CARRY_RECVS,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
	};

	memset(q, 0, sizeof(*q));
	q->cq = poll ? ibv_create_cq(dev->ctx, RT_DEPTH + PINLEASE_CARRY_SENDS, NULL, NULL, 0) : NULL;
	init.recv_cq = pinlease_carry_cq(carry) ? pinlease_carry_cq(carry) : q->cq;
	init.send_cq = q->cq ? q->cq : init.recv_cq;
	q->qp = ibv_create_qp(dev->pd, &init);
	if (!q->qp)
		return -errno;
	q->ep = (struct kt_ep){ .qpn = q->qp->qp_num, .psn = q->qp->qp_num & 0xfffff, .gid = dev->gid };
	return 0;
}

static int dial(uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	rt_assert(fd >= 0 && !connect(fd, (struct sockaddr *)&to, sizeof(to)), "connect: %s",
		  strerror(errno));
	return fd;
}

static void end_open(struct end *e)
{
	struct ladder_peer *p = e->p;
	size_t len = (size_t)RT_DEPTH * RT_SLOT;
	int r;

	rt_open(&e->dev);
	/* Its owner is never away: what takes long is a busy machine. */
	e->dev.stubborn = true;
	e->buf = aligned_alloc(RT_SLOT, len);
	rt_assert(e->buf, "out of memory");
	memset(e->buf, 0, len);
	e->mr = ibv_reg_mr(e->dev.pd, e->buf, len, 0);
	rt_assert(e->mr, "ibv_reg_mr: %s", strerror(errno));
	r = p->port ? pinlease_carry_socket(dial(p->port), NULL, &e->carry)
		    : pinlease_carry_verbs(e->dev.pd, NULL, &e->carry);
	rt_assert(!r, "no carrier: %s", strerror(-r));
	r = ladder_qp(&e->dev, e->carry, true, &e->qp);
	rt_assert(!r, "no queue pair: %s", strerror(-r));
	p->self = e->qp.ep;
	atomic_store(&p->ready, 1);
	while (!atomic_load(&p->connect))
		usleep(NAP_US);
	rt_assert(!kt_qp_connect(&e->dev, &e->qp, &p->owner), "the peer cannot connect");
	if (!p->port)
		rt_assert(!pinlease_carry_start(e->carry, e->qp.qp), "carry_start");
	atomic_store(&p->ready, 2);
}

static void end_descriptor(struct end *e, const void *buf, size_t len)
{
	int r = pinlease_peer_attach(buf, len, &e->peer);

	if (!r)
		r = pinlease_carry_add_peer(e->carry, e->peer);
	rt_assert(!r, "attach: %s", strerror(-r));
}

static void end_listen(struct end *e)
{
	unsigned char buf[PINLEASE_CARRY_MAX];
	uint32_t kind;
	int r;

	while ((r = pinlease_carry_recv(e->carry, buf, sizeof(buf), &kind)) > 0)
		if (kind == PINLEASE_CARRY_DESCRIPTOR)
			end_descriptor(e, buf, (size_t)r);
	if (r)
		atomic_store(&e->p->ended, r);
}

/* The books first: a write that is in flight may be in the file. 0, or -errno of begin. */
static int end_post(struct end *e)
{
	struct pinlease_peer_key key = { .size = sizeof(key) };
	struct flight *f = &e->flight[e->head % RT_DEPTH];
	uint64_t *src = e->buf + (e->head % RT_DEPTH) * (RT_SLOT / sizeof(uint64_t));
	struct rt_slot *s;
	size_t i;
	int r;

	f->slot = e->next % e->p->books.slots;
	r = pinlease_peer_begin(e->peer, PINLEASE_WRITE, (uint64_t)f->slot * RT_SLOT, RT_SLOT, &key);
	if (r)
		return r;
	if (key.gen != e->gen)
		atomic_fetch_add(&e->p->grants, 1);
	e->gen = f->gen = key.gen;
	s = &e->p->books.slot[f->slot];
	f->seq = atomic_load(&s->posted) + 1;
	for (i = 0; i < RT_SLOT / sizeof(uint64_t); i++)
		src[i] = rt_word(f->slot, f->seq);
	atomic_store(&s->posted, f->seq);
	e->head++;
	e->next++;
	r = kt_post(&e->qp, IBV_WR_RDMA_WRITE, 0, src, e->mr->lkey, RT_SLOT, key.addr, key.rkey);
	rt_assert(!r, "ibv_post_send: %s", strerror(-r));
	return 0;
}

static void end_completed(struct end *e, const struct ibv_wc *wc)
{
	struct rt_peer *books = &e->p->books;
	bool ok = wc->status == IBV_WC_SUCCESS;
	struct flight *f;

	if (pinlease_carry_sent(e->carry, wc))
		return;
	f = &e->flight[e->tail++ % RT_DEPTH];
	if (ok) {
		atomic_store(&books->slot[f->slot].acked_ns, kt_now());
		atomic_store(&books->slot[f->slot].acked, f->seq);
		atomic_fetch_add(&books->acked, 1);
	} else if (!atomic_load(&books->error)) {
		atomic_store(&books->error, wc->status);
	}
	if (pinlease_peer_end(e->peer, f->gen, ok) == 1)
		pinlease_carry_tell(e->carry);
}

static void end_poll(struct end *e)
{
	struct ibv_wc wc[RT_DEPTH];
	int n = ibv_poll_cq(e->qp.cq, RT_DEPTH, wc), i;

	rt_assert(n >= 0, "ibv_poll_cq");
	for (i = 0; i < n; i++)
		end_completed(e, &wc[i]);
}

static void end_turn(struct end *e, uint32_t order)
{
	bool writes = order == LADDER_WRITE || order == LADDER_DEAF;

	if (order != LADDER_DEAF && !atomic_load(&e->p->ended))
		end_listen(e);
	while (e->peer && writes && !atomic_load(&e->p->books.error) && e->head - e->tail < RT_DEPTH)
		if (end_post(e))
			break;
	end_poll(e);
	if (e->head == e->tail)
		usleep(NAP_US);
	atomic_store(&e->p->quiet, !writes && e->head == e->tail);
}

static int peer_main(const void *arg)
{
	struct end e = { .p = *(struct ladder_peer *const *)arg };
	uint32_t order;

	end_open(&e);
	while ((order = atomic_load(&e.p->order)) != LADDER_LEAVE || e.head != e.tail)
		end_turn(&e, order);
	return 0;
}

struct kt_call *ladder_peer_start(struct ladder_peer *p)
{
	struct kt_call *call = kt_call_start(peer_main, &p, sizeof(p));
	uint64_t until = kt_now() + LADDER_LONG_NS;

	rt_assert(call, "no process for a peer");
	while (!atomic_load(&p->ready) && !p->port) {
		rt_assert(kt_now() < until, "a peer did not start");
		usleep(NAP_US);
	}
	return call;
}
