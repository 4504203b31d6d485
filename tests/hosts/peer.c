/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hosts_peer BOOKS: writes while its grant allows it, each time all that may be in flight, until SIGTERM (0)
 * or the end of the connection (1). Its books are made anew. SIGUSR1: stops (SIGSTOP) where it has most to
 * look at when it goes on: all writes that may be in flight are, and so is a question.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts.h"

#define STEP_MS	   20000 /* of connecting */
#define SYNC_EVERY 64u	 /* writes acknowledged since the last question */
#define NAP_US	   200
#define PACE_US	   30000 /* what has no processor to spare takes seconds to start a process */

struct flight {
	uint32_t slot, seq, gen;
};

struct asked {		/* what the books said when we asked */
	uint32_t count; /* 0: nothing is asked */
	uint32_t acked[RT_SLOTS];
};

static struct {
	struct hosts_books *books;
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_cq *cq; /* of what is sent */
	struct ibv_mr *mr;
	uint64_t *buf; /* RT_DEPTH slots */
	struct pinlease_carry *carry;
	struct pinlease_peer *peer;
	struct flight flight[RT_DEPTH];
	uint32_t head, tail, gen;
	uint64_t last; /* acked at the last question */
	struct asked asked;
	uint32_t questions;
	bool asking;	/* the question's SEND has not been seen to be over */
	bool recalled;
	int over; /* why the connection is at its end */
} p;

static volatile sig_atomic_t ending, stopping;

static void end(int signo)
{
	(void)signo;
	ending = 1;
}

static void stop(int signo)
{
	(void)signo;
	stopping = 1;
}

static void step(int r, enum rdma_cm_event_type type)
{
	struct rdma_cm_id *id;
	int event;

	rt_assert(!r, "before event %d: %s", (int)type, strerror(errno));
	event = hosts_cm(p.events, STEP_MS, &id);
	rt_assert(event == (int)type, "event %d in place of %d", event, (int)type);
}

static void start(const char *path)
{
	struct rdma_conn_param param = hosts_param();
	struct sockaddr_in to = hosts_address("PINLEASE_PEER");
	size_t len = (size_t)RT_DEPTH * RT_SLOT;
	int r;

	p.books = hosts_books(path, true);
	p.events = rdma_create_event_channel();
	rt_assert(p.events && !rdma_create_id(p.events, &p.id, NULL, RDMA_PS_TCP), "rdma_cm: %s",
		  strerror(errno));
	step(rdma_resolve_addr(p.id, NULL, (struct sockaddr *)&to, STEP_MS), RDMA_CM_EVENT_ADDR_RESOLVED);
	step(rdma_resolve_route(p.id, STEP_MS), RDMA_CM_EVENT_ROUTE_RESOLVED);
	p.pd = ibv_alloc_pd(p.id->verbs);
	p.buf = aligned_alloc(RT_SLOT, len);
	rt_assert(p.pd && p.buf, "out of memory");
	memset(p.buf, 0, len);
	p.mr = ibv_reg_mr(p.pd, p.buf, len, 0);
	p.cq = ibv_create_cq(p.id->verbs, RT_DEPTH + PINLEASE_CARRY_SENDS, NULL, NULL, 0);
	rt_assert(p.mr && p.cq, "verbs: %s", strerror(errno));
	r = pinlease_carry_verbs(p.pd, NULL, &p.carry);
	if (!r)
		r = hosts_qp(p.id, p.pd, p.carry, p.cq);
	rt_assert(!r, "queue pair: %s", strerror(-r));
	step(rdma_connect(p.id, &param), RDMA_CM_EVENT_ESTABLISHED);
	printf("connected\n");
}

static void take_answer(const struct hosts_note *note)
{
	uint32_t i;

	rt_assert(note->count == p.asked.count && !note->status, "answer %u to question %u: %d", note->count,
		  p.asked.count, note->status);
	for (i = 0; i < RT_SLOTS; i++)
		atomic_store(&p.books->durable[i], p.asked.acked[i]);
	if (note->count == 1)
		printf("durable\n");
	p.asked.count = 0;
}

static void listen_to_owner(void)
{
	unsigned char buf[PINLEASE_CARRY_MAX];
	struct hosts_note note;
	uint32_t kind;
	int r;

	while ((r = pinlease_carry_recv(p.carry, buf, sizeof(buf), &kind)) > 0) {
		if (kind == PINLEASE_CARRY_DESCRIPTOR) {
			rt_assert(!pinlease_peer_attach(buf, (size_t)r, &p.peer), "attach");
			pinlease_carry_add_peer(p.carry, p.peer);
			continue;
		}
		rt_assert(r == sizeof(note), "a message of %d bytes", r);
		memcpy(&note, buf, sizeof(note));
		take_answer(&note);
	}
	if (r)
		p.over = r;
}

/* What was acknowledged before the question is durable when it is answered. */
static void ask(void)
{
	struct hosts_note note = { .count = ++p.questions };
	uint32_t i;

	for (i = 0; i < RT_SLOTS; i++)
		p.asked.acked[i] = atomic_load(&p.books->rt.slot[i].acked);
	if (!pinlease_carry_send(p.carry, &note, sizeof(note))) {
		p.asked.count = note.count;
		p.asking = true;
		p.last = atomic_load(&p.books->rt.acked);
	}
}

/* The grant is given back when the last one that was in flight has completed; books are right from then on.
 */
static void given_back(void)
{
	uint32_t i;

	for (i = 0; i < RT_SLOTS; i++)
		atomic_store(&p.books->returned[i], atomic_load(&p.books->rt.slot[i].acked));
	printf("returned\n");
	p.recalled = true;
}

/* The books first: a write that is in flight may be in the file. 0, or -errno of begin. */
static int post(void)
{
	struct pinlease_peer_key key = { .size = sizeof(key) };
	struct flight *f = &p.flight[p.head % RT_DEPTH];
	uint64_t *src = p.buf + (p.head % RT_DEPTH) * (RT_SLOT / sizeof(uint64_t));
	struct ibv_sge sge = { .addr = (uintptr_t)src, .length = RT_SLOT, .lkey = p.mr->lkey };
	struct ibv_send_wr wr = { .sg_list = &sge,
				  .num_sge = 1,
				  .opcode = IBV_WR_RDMA_WRITE,
				  .send_flags = IBV_SEND_SIGNALED },
			   *bad;
	struct rt_slot *s;
	size_t i;
	int r;

	f->slot = p.head % HOSTS_SLOTS;
	r = pinlease_peer_begin(p.peer, PINLEASE_WRITE, (uint64_t)f->slot * RT_SLOT, RT_SLOT, &key);
	if (r)
		return r;
	if (p.recalled)
		printf("restored\n");
	p.recalled = false;
	f->gen = key.gen;
	s = &p.books->rt.slot[f->slot];
	f->seq = atomic_load(&s->posted) + 1;
	for (i = 0; i < RT_SLOT / sizeof(uint64_t); i++)
		src[i] = rt_word(f->slot, f->seq);
	atomic_store(&s->posted, f->seq);
	p.head++;
	wr.wr.rdma.remote_addr = key.addr;
	wr.wr.rdma.rkey = key.rkey;
	rt_assert(!ibv_post_send(p.id->qp, &wr, &bad), "ibv_post_send");
	return 0;
}

static void completed(const struct ibv_wc *wc)
{
	bool ok = wc->status == IBV_WC_SUCCESS;
	struct flight *f;

	if (!ok && !p.over)
		p.over = -1000 - (int)wc->status;
	if (pinlease_carry_sent(p.carry, wc)) {
		p.asking = false;
		return;
	}
	f = &p.flight[p.tail++ % RT_DEPTH];
	if (ok) {
		atomic_store(&p.books->rt.slot[f->slot].acked, f->seq);
		atomic_fetch_add(&p.books->rt.acked, 1);
	}
	if (pinlease_peer_end(p.peer, f->gen, ok) == 1) {
		pinlease_carry_tell(p.carry);
		given_back();
	}
}

static void stop_here(void)
{
	stopping = 0;
	printf("stopped\n");
	raise(SIGSTOP);
}

static void turn(void)
{
	struct ibv_wc wc[RT_DEPTH];
	struct rdma_cm_id *id;
	int i, n, r = 0;

	if (hosts_cm(p.events, 0, &id) == RDMA_CM_EVENT_DISCONNECTED)
		rdma_disconnect(id); /* what is in flight is flushed, and that is seen below */
	listen_to_owner();
	while (p.peer && !p.over && !ending && p.head - p.tail < RT_DEPTH && !r)
		r = post();
	if (stopping && p.asking && p.head - p.tail == RT_DEPTH) {
		stop_here();
		return; /* and the carrier is asked before the completions are polled */
	}
	n = ibv_poll_cq(p.cq, RT_DEPTH, wc);
	rt_assert(n >= 0, "ibv_poll_cq");
	for (i = 0; i < n; i++)
		completed(&wc[i]);
	/* Nothing was in flight when it was recalled: the carrier has answered by itself. */
	if (r == -EAGAIN && p.head == p.tail && !p.recalled && !p.over)
		given_back();
	if (!p.asked.count && atomic_load(&p.books->rt.acked) - p.last >= SYNC_EVERY)
		ask();
	usleep(n ? PACE_US : NAP_US);
}

int main(int argc, char **argv)
{
	rt_assert(argc == 2, "usage: hosts_peer BOOKS");
	setlinebuf(stdout);
	signal(SIGTERM, end);
	signal(SIGUSR1, stop);
	start(argv[1]);
	while (!p.over && (!ending || p.head != p.tail))
		turn();
	printf("over: %d\n", p.over);
	rdma_destroy_qp(p.id);
	rt_assert(!pinlease_carry_free(p.carry), "carry_free");
	return p.over ? 1 : 0;
}
