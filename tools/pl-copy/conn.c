/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "conn.h"

#define PING_NS	   (2ull * 1000000000)
#define SILENCE_NS (20ull * 1000000000)
#define POLL_BATCH 16
/* The two upper bits of a work request's id. */
#define KIND_RECV  (1ull << 62)
#define KIND_SEND  (2ull << 62)
#define KIND_WRITE (3ull << 62)
#define KIND_MASK  (3ull << 62)

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static char *recv_buffer(const struct conn *conn, uint64_t i)
{
	return conn->buffers + i * FRAME_MAX;
}

static char *send_buffer(const struct conn *conn, uint64_t i)
{
	return conn->buffers + (CONN_FRAMES + i) * FRAME_MAX;
}

static int post_recv(struct conn *conn, uint64_t i)
{
	struct ibv_sge sge = { .addr = (uintptr_t)recv_buffer(conn, i),
			       .length = FRAME_MAX,
			       .lkey = conn->mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = KIND_RECV | i, .sg_list = &sge, .num_sge = 1 }, *bad;

	return -ibv_post_recv(conn->id->qp, &wr, &bad);
}

static int make_buffers(struct conn *conn)
{
	size_t size = (size_t)2 * CONN_FRAMES * FRAME_MAX;
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return -ENOMEM;
	conn->buffers = map;
	conn->mr = ibv_reg_mr(conn->pd, map, size, IBV_ACCESS_LOCAL_WRITE);
	return conn->mr ? 0 : -errno;
}

static int make_queues(struct conn *conn)
{
	struct ibv_qp_init_attr init = {
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
		.cap = { .max_send_wr = CONN_FRAMES + CONN_WRITES,
			 .max_recv_wr = CONN_FRAMES,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
	};
	int flags;

	conn->channel = ibv_create_comp_channel(conn->id->verbs);
	if (!conn->channel)
		return -errno;
	flags = fcntl(conn->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(conn->channel->fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	conn->cq = ibv_create_cq(conn->id->verbs, 2 * CONN_FRAMES + CONN_WRITES, NULL, conn->channel, 0);
	if (!conn->cq || ibv_req_notify_cq(conn->cq, 0))
		return -errno;
	init.send_cq = init.recv_cq = conn->cq;
	return rdma_create_qp(conn->id, conn->pd, &init) ? -errno : 0;
}

int conn_setup(struct conn *conn, struct rdma_cm_id *id)
{
	uint32_t i;
	int r;

	conn->id = id;
	conn->sent_ns = conn->heard_ns = now_ns();
	conn->pd = ibv_alloc_pd(id->verbs);
	if (!conn->pd)
		return -errno;
	r = make_buffers(conn);
	if (!r)
		r = make_queues(conn);
	for (i = 0; i < CONN_FRAMES && !r; i++) {
		conn->idle[conn->idle_count++] = i;
		r = post_recv(conn, i);
	}
	return r;
}

/* No reads and atomics; seven tries, and as many as it takes of a receiver that is slow to post. */
static const struct rdma_conn_param param = { .retry_count = 7, .rnr_retry_count = 7 };

/* With our hail in it, which the caller keeps until the call has gone out. */
static struct rdma_conn_param conn_param(uint8_t hail[HAIL_BYTES])
{
	struct rdma_conn_param p = param;

	hail_encode(REFUSAL_NONE, hail);
	p.private_data = hail;
	p.private_data_len = HAIL_BYTES;
	return p;
}

int conn_connect(struct conn *conn)
{
	uint8_t hail[HAIL_BYTES];
	struct rdma_conn_param p = conn_param(hail);

	return rdma_connect(conn->id, &p) ? -errno : 0;
}

int conn_accept(struct conn *conn)
{
	uint8_t hail[HAIL_BYTES];
	struct rdma_conn_param p = conn_param(hail);

	return rdma_accept(conn->id, &p) ? -errno : 0;
}

int conn_send(struct conn *conn, const struct frame *f)
{
	struct ibv_sge sge = { .lkey = conn->mr ? conn->mr->lkey : 0 };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND }, *bad;
	uint32_t i;
	int r;

	if (conn->lost)
		return -ECONNRESET;
	if (!conn->idle_count)
		return -ENOBUFS;
	i = conn->idle[conn->idle_count - 1];
	r = frame_encode(f, send_buffer(conn, i), FRAME_MAX);
	if (r < 0)
		return r;
	sge.addr = (uintptr_t)send_buffer(conn, i);
	sge.length = (uint32_t)r;
	wr.wr_id = KIND_SEND | i;
	r = ibv_post_send(conn->id->qp, &wr, &bad);
	if (r)
		return -ECONNRESET;
	conn->idle_count--;
	conn->sent_ns = now_ns();
	return 0;
}

int conn_write(struct conn *conn, const struct ibv_mr *mr, const void *from, uint32_t len, uint64_t addr,
	       uint32_t rkey, uint64_t tag)
{
	struct ibv_sge sge = { .addr = (uintptr_t)from, .length = len, .lkey = mr->lkey };
	struct ibv_send_wr wr = { .wr_id = KIND_WRITE | tag,
				  .sg_list = &sge,
				  .num_sge = 1,
				  .opcode = IBV_WR_RDMA_WRITE,
				  .wr = { .rdma = { .remote_addr = addr, .rkey = rkey } } };
	struct ibv_send_wr *bad;

	if (conn->lost || ibv_post_send(conn->id->qp, &wr, &bad))
		return -ECONNRESET;
	conn->writes++;
	return 0;
}

static int take_frame(struct conn *conn, uint64_t i, uint32_t len)
{
	struct frame f;
	int r = frame_decode(recv_buffer(conn, i), len, &f);

	conn->heard_ns = now_ns();
	if (!r && f.type != FRAME_PING)
		r = conn->received(conn->arg, &f);
	return r ? r : post_recv(conn, i) ? -ECONNRESET : 0;
}

static int take(struct conn *conn, const struct ibv_wc *wc)
{
	uint64_t tag = wc->wr_id & ~KIND_MASK;
	bool ok = wc->status == IBV_WC_SUCCESS;

	switch (wc->wr_id & KIND_MASK) {
	case KIND_WRITE:
		conn->writes--;
		conn->written(conn->arg, tag, ok);
		break;
	case KIND_SEND:
		conn->idle[conn->idle_count++] = (uint32_t)tag;
		break;
	default:
		if (ok)
			return take_frame(conn, tag, wc->byte_len);
	}
	if (!ok)
		conn->lost = true;
	return ok ? 0 : -ECONNRESET;
}

int conn_poll(struct conn *conn)
{
	struct ibv_wc wc[POLL_BATCH];
	struct ibv_cq *cq;
	void *context;
	int i, n, r = 0;

	while (!ibv_get_cq_event(conn->channel, &cq, &context))
		ibv_ack_cq_events(cq, 1);
	if (ibv_req_notify_cq(conn->cq, 0))
		return -ECONNRESET;
	/* Armed before it is emptied: what comes in between is an event. */
	do {
		n = ibv_poll_cq(conn->cq, POLL_BATCH, wc);
		for (i = 0; i < n && !r; i++)
			r = take(conn, &wc[i]);
	} while (n > 0 && !r);
	return n < 0 ? -ECONNRESET : r;
}

int conn_tick(struct conn *conn)
{
	const struct frame ping = { .type = FRAME_PING };
	uint64_t now = now_ns();

	if (!conn->up)
		return 0;
	if (now - conn->heard_ns > SILENCE_NS)
		return -ETIMEDOUT;
	return now - conn->sent_ns > PING_NS ? conn_send(conn, &ping) : 0;
}

void conn_cut(struct conn *conn)
{
	if (conn->id && conn->up)
		rdma_disconnect(conn->id);
	conn->up = false;
	conn->lost = true;
	if (conn->id && conn->id->qp)
		rdma_destroy_qp(conn->id);
}

void conn_free(struct conn *conn)
{
	conn_cut(conn);
	if (conn->cq)
		ibv_destroy_cq(conn->cq);
	if (conn->channel)
		ibv_destroy_comp_channel(conn->channel);
	if (conn->mr)
		ibv_dereg_mr(conn->mr);
	if (conn->buffers)
		munmap(conn->buffers, (size_t)2 * CONN_FRAMES * FRAME_MAX);
	if (conn->pd)
		ibv_dealloc_pd(conn->pd);
	if (conn->id)
		rdma_destroy_id(conn->id);
	*conn = (struct conn){ .lost = true };
}
