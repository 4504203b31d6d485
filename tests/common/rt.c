/* SPDX-License-Identifier: BSD-3-Clause */
/* The peer's process, and the judge of what it wrote. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kt.h"
#include "rt.h"

#define PEER_FRESH    0x6b6b6b6b6b6b6b6bull	/* what kt_file fills a file with */
#define PEER_NAP_US   100
#define PEER_LONG_NS  (KT_LONG * 1000000ull)

struct peer_write {
	uint64_t posted_ns;
	uint32_t slot, seq;
};

struct peer_end {
	struct rt_peer *books;
	struct kt_rdma dev;
	struct kt_qp qp;
	struct ibv_mr *mr;
	uint64_t *buf;			/* RT_DEPTH slots */
	struct peer_write flight[RT_DEPTH];
	uint32_t head, tail;		/* posted, completed; RC completes in order */
	uint32_t next;			/* slot */
};

void rt_die(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "%s:%d: ", file, line);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

void rt_require(void)
{
	struct ibv_device **list;
	int count = 0;

	list = ibv_get_device_list(&count);
	if (list)
		ibv_free_device_list(list);
	if (!count)
		kt_skip("no RDMA device");
}

void rt_open(struct kt_rdma *dev)
{
	int r = kt_rdma_open(dev);

	rt_assert(!r, "the RDMA device cannot be opened: %s", strerror(-r));
}

/* A queue pair that has seen an error is of no use any more: a new one takes its place. */
static void rt_qp_new(const struct kt_rdma *dev, struct kt_qp *qp)
{
	int r;

	if (qp->qp)
		kt_qp_drop(qp);
	r = kt_qp_make(dev, qp, RT_DEPTH);
	rt_assert(!r, "no queue pair: %s", strerror(-r));
}

uint64_t rt_word(uint32_t slot, uint32_t seq)
{
	return (uint64_t)seq << 32 | slot;
}

/* The books first: a write that is in flight may be in the file. */
static int peer_post(struct peer_end *e)
{
	struct peer_write *w = &e->flight[e->head % RT_DEPTH];
	uint64_t *src = e->buf + (e->head % RT_DEPTH) * (RT_SLOT / sizeof(uint64_t));
	struct ibv_sge sge = { .addr = (uintptr_t)src, .length = RT_SLOT, .lkey = e->mr->lkey };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_RDMA_WRITE,
				  .send_flags = IBV_SEND_SIGNALED }, *bad;
	size_t i;

	w->slot = e->next++ % e->books->slots;
	w->seq = atomic_load(&e->books->slot[w->slot].posted) + 1;
	for (i = 0; i < RT_SLOT / sizeof(uint64_t); i++)
		src[i] = rt_word(w->slot, w->seq);
	wr.wr.rdma.remote_addr = e->books->addr + (uint64_t)w->slot * RT_SLOT;
	wr.wr.rdma.rkey = e->books->rkey;
	atomic_store(&e->books->slot[w->slot].posted, w->seq);
	w->posted_ns = kt_now();
	e->head++;
	return ibv_post_send(e->qp.qp, &wr, &bad);
}

static void peer_completed(struct peer_end *e, const struct ibv_wc *wc)
{
	struct peer_write *w = &e->flight[e->tail++ % RT_DEPTH];
	struct rt_peer *p = e->books;

	if (wc->status != IBV_WC_SUCCESS) {
		if (!atomic_load(&p->error))
			atomic_store(&p->error, wc->status);
		return;
	}
	atomic_store(&p->slot[w->slot].acked_ns, kt_now());
	atomic_store(&p->slot[w->slot].acked, w->seq);
	atomic_store(&p->log[atomic_load(&p->logged) % RT_LOG], w->posted_ns);
	atomic_fetch_add(&p->logged, 1);
	atomic_fetch_add(&p->acked, 1);
}

static void peer_poll(struct peer_end *e)
{
	struct ibv_wc wc[RT_DEPTH];
	int n, i;

	n = ibv_poll_cq(e->qp.cq, RT_DEPTH, wc);
	rt_assert(n >= 0, "ibv_poll_cq");
	for (i = 0; i < n; i++)
		peer_completed(e, &wc[i]);
}

/* Until ordered to rest or a completion is bad; then everything in flight is waited for. */
static void peer_stream(struct peer_end *e)
{
	struct rt_peer *p = e->books;
	uint64_t until;

	atomic_store(&p->state, RT_STREAMING);
	while (atomic_load(&p->order) == RT_STREAM && !atomic_load(&p->error)) {
		while (e->head - e->tail < RT_DEPTH)
			rt_assert(!peer_post(e), "ibv_post_send: %s", strerror(errno));
		peer_poll(e);
	}
	until = kt_now() + PEER_LONG_NS;
	while (e->head != e->tail) {
		peer_poll(e);
		rt_assert(kt_now() < until, "%u writes never completed", e->head - e->tail);
	}
	atomic_store(&p->state, atomic_load(&p->error) ? RT_DEAD : RT_READY);
}

static void peer_connect(struct peer_end *e)
{
	struct rt_peer *p = e->books;

	rt_qp_new(&e->dev, &e->qp);
	p->self = e->qp.ep;
	rt_assert(!kt_qp_connect(&e->dev, &e->qp, &p->owner), "the peer cannot connect");
	atomic_store(&p->error, 0);
	atomic_store(&p->state, RT_READY);
	atomic_store(&p->order, RT_REST);
	atomic_fetch_add(&p->connects, 1);
}

static void peer_open(struct peer_end *e)
{
	size_t len = (size_t)RT_DEPTH * RT_SLOT;

	rt_open(&e->dev);
	e->dev.patient = e->books->patient;
	e->buf = aligned_alloc(RT_SLOT, len);
	rt_assert(e->buf, "out of memory");
	memset(e->buf, 0, len);
	e->mr = ibv_reg_mr(e->dev.pd, e->buf, len, 0);
	rt_assert(e->mr, "ibv_reg_mr: %s", strerror(errno));
}

static int peer_main(const void *arg)
{
	struct peer_end e = { .books = *(struct rt_peer *const *)arg };
	struct rt_peer *p = e.books;

	peer_open(&e);
	atomic_store(&p->state, RT_READY);
	for (;;) {
		switch (atomic_load(&p->order)) {
		case RT_CONNECT:
			peer_connect(&e);
			break;
		case RT_STREAM:
			if (!atomic_load(&p->error))
				peer_stream(&e);
			break;
		case RT_LEAVE:
			atomic_store(&p->state, RT_GONE);
			return 0;
		}
		usleep(PEER_NAP_US);
	}
}

struct kt_call *rt_peer_start(struct rt_peer *peer)
{
	struct kt_call *call;

	call = kt_call_start(peer_main, &peer, sizeof(peer));
	rt_assert(call, "no process for the peer");
	rt_assert(rt_peer_reached(peer, RT_READY, KT_LONG), "the peer did not start");
	return call;
}

void rt_peer_order(struct rt_peer *peer, enum rt_order order)
{
	atomic_store(&peer->order, order);
}

bool rt_peer_reached(struct rt_peer *peer, enum rt_peer_state state, unsigned int ms)
{
	uint64_t until = kt_now() + ms * 1000000ull;

	while (atomic_load(&peer->state) != state) {
		if (kt_now() > until)
			return false;
		usleep(PEER_NAP_US);
	}
	return true;
}

void rt_peer_rest(struct rt_peer *peer)
{
	rt_peer_order(peer, RT_REST);
	rt_assert(rt_peer_reached(peer, RT_READY, KT_LONG), "the peer does not rest: status %u",
		  atomic_load(&peer->error));
}

void rt_peer_connect(struct rt_peer *peer, struct kt_rdma *dev, struct kt_qp *qp)
{
	uint32_t before = atomic_load(&peer->connects);
	uint64_t until = kt_now() + PEER_LONG_NS;

	rt_qp_new(dev, qp);
	peer->owner = qp->ep;
	rt_peer_order(peer, RT_CONNECT);
	while (atomic_load(&peer->connects) == before) {
		rt_assert(kt_now() < until, "the peer does not connect");
		usleep(PEER_NAP_US);
	}
	rt_assert(!kt_qp_connect(dev, qp, &peer->self), "cannot connect to the peer");
}

uint64_t rt_peer_late(struct rt_peer *peer, uint64_t ns)
{
	uint64_t n = atomic_load(&peer->logged), late = 0, i;

	for (i = n > RT_LOG ? n - RT_LOG : 0; i < n; i++)
		late += atomic_load(&peer->log[i % RT_LOG]) > ns;
	return late;
}

/*
 * Every word is of a write at or after the last acknowledged one, or, where nothing is
 * due, as it was at first, or zero since the slot was removed.
 */
static bool judge_slot(const struct rt_slot *s, uint32_t slot, const uint64_t *words)
{
	const uint32_t acked = atomic_load(&s->acked), base = atomic_load(&s->base);
	const uint32_t least = acked ? acked : base + 1;
	uint32_t seq;
	size_t i;

	for (i = 0; i < RT_SLOT / sizeof(*words); i++) {
		if (!acked && words[i] == (base ? 0 : PEER_FRESH))
			continue;
		seq = (uint32_t)(words[i] >> 32);
		if ((uint32_t)words[i] != slot || seq < least || seq > atomic_load(&s->posted))
			return false;
	}
	return true;
}

static void judge_tell(const struct rt_slot *s, uint32_t slot, const uint64_t *words)
{
	printf("  slot %u: acknowledged %u, posted %u, the file ", slot, atomic_load(&s->acked),
	       atomic_load(&s->posted));
	if (words)
		printf("has %u..%u\n", (uint32_t)(words[0] >> 32),
		       (uint32_t)(words[RT_SLOT / sizeof(*words) - 1] >> 32));
	else
		printf("ends before it\n");
}

unsigned int rt_missing(struct rt_peer *peer, const void *image, size_t size, uint64_t cut, uint64_t cut_ns,
			unsigned int *held)
{
	const uint64_t *words;
	unsigned int missing = 0;
	struct rt_slot *s;
	uint32_t slot;
	size_t at;
	bool there;

	*held = 0;
	for (slot = 0; slot < RT_SLOTS; slot++) {
		s = &peer->slot[slot];
		at = (size_t)slot * RT_SLOT;
		if (!atomic_load(&s->posted))
			continue;
		if (at >= cut && atomic_load(&s->acked_ns) <= cut_ns) {
			atomic_store(&s->acked, 0);
			atomic_store(&s->base, atomic_load(&s->posted));
		}
		words = at + RT_SLOT <= size ? (const uint64_t *)image + at / sizeof(*words) : NULL;
		there = words ? judge_slot(s, slot, words) : !atomic_load(&s->acked);
		if (!there && missing++ < 4 && !peer->quiet)
			judge_tell(s, slot, words);
		if (there && atomic_load(&s->acked))
			(*held)++;
	}
	return missing;
}
