/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames over SEND and RECV of a reliable queue pair, which the application writes with, too: so
 * that a message arrives behind the writes that were posted before it. The buffers are the carrier's
 * own registration, never memory of a lease: a receive that is posted into a region that is
 * deregistered kills the queue pair at the next SEND.
 *
 * A receive is posted again when its frame was handed on. A side that does not take them
 * makes the other side's SENDs wait (RNR), and the timeout there ends it.
 */
#include <errno.h>
#include <fcntl.h>

#include "carry.h"

static int post_recv(struct pinlease_carry *c, struct plc_frame *f)
{
	struct ibv_sge sge = { .addr = (uintptr_t)f->data, .length = PLC_FRAME, .lkey = c->mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = (uintptr_t)f, .sg_list = &sge, .num_sge = 1 }, *bad;

	return -ibv_post_recv(c->qp, &wr, &bad);
}

static int verbs_send(struct pinlease_carry *c)
{
	struct ibv_sge sge = { .lkey = c->mr->lkey };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND,
				  .send_flags = IBV_SEND_SIGNALED }, *bad;
	struct plc_frame *f;
	int r;

	while (c->qp && c->posted != c->head && c->posted - c->tail < PINLEASE_CARRY_SENDS) {
		f = &c->out[c->posted % PLC_OUT];
		sge.addr = (uintptr_t)f->data;
		sge.length = f->len;
		wr.wr_id = (uintptr_t)f;
		r = ibv_post_send(c->qp, &wr, &bad);
		/* No room: the application uses more than its share; its completions will make some. */
		if (r)
			return r == ENOMEM ? 0 : -r;
		c->posted++;
	}
	return 0;
}

static bool is_ours(uint64_t wr_id, const struct plc_frame *array, uint32_t count)
{
	return wr_id >= (uintptr_t)array && wr_id < (uintptr_t)(array + count);
}

/* Of a SEND. 0, or why the carrier is dead. */
static int sent(struct pinlease_carry *c, const struct ibv_wc *wc)
{
	if (wc->status != IBV_WC_SUCCESS)
		return wc->status == IBV_WC_RNR_RETRY_EXC_ERR ? -ETIMEDOUT : -ECONNRESET;
	plc_completed(c);
	return 0;
}

PLC_API int pinlease_carry_sent(struct pinlease_carry *carry, const struct ibv_wc *wc)
{
	int r;

	if (!carry || !wc)
		return -EINVAL;
	if (carry->pid != getpid())
		return -ECHILD;
	if (!is_ours(wc->wr_id, carry->out, PLC_OUT))
		return 0;
	pthread_mutex_lock(&carry->lock);
	r = carry->dead;
	if (!r) {
		r = sent(carry, wc);
		if (!r)
			r = carry->transport->send(carry);
		if (r)
			plc_die(carry, r);
	}
	pthread_mutex_unlock(&carry->lock);
	return 1;
}

/* Asked for anew before the queue is looked at: what comes after that look is told of. */
static int rearm(struct pinlease_carry *c)
{
	struct ibv_cq *cq;
	unsigned int n = 0;
	void *arg;

	while (!ibv_get_cq_event(c->channel, &cq, &arg))
		n++;
	if (!n)
		return 0;
	ibv_ack_cq_events(c->cq, n);
	return ibv_req_notify_cq(c->cq, 0) ? -EIO : 0;
}

/*
 * More than a receive has room for. The receives are ours, so neither status has another cause; soft-RoCE
 * says the second one.
 */
static bool too_long(const struct ibv_wc *wc)
{
	return wc->status == IBV_WC_LOC_LEN_ERR || wc->status == IBV_WC_LOC_QP_OP_ERR;
}

/* A completion of a receive: 1 and the frame, or why the carrier is dead. */
static int received(struct pinlease_carry *c, const struct ibv_wc *wc, const unsigned char **frame,
		    uint32_t *len)
{
	struct plc_frame *f = &c->rx[(wc->wr_id - (uintptr_t)c->rx) / sizeof(*c->rx)];
	int whole;

	if (wc->status != IBV_WC_SUCCESS)
		return too_long(wc) ? -EPROTO : -ECONNRESET;
	whole = wc->byte_len < PLC_HEAD ? -EPROTO : plc_frame_len(f->data);
	if (whole < 0 || (uint32_t)whole != wc->byte_len)
		return -EPROTO;
	c->taken = f;
	*frame = f->data;
	*len = wc->byte_len;
	return 1;
}

static int verbs_recv(struct pinlease_carry *c, const unsigned char **frame, uint32_t *len)
{
	struct ibv_wc wc;
	int n, r;

	if (!c->qp)
		return 0;
	r = c->taken ? post_recv(c, c->taken) : 0;
	c->taken = NULL;
	if (!r)
		r = rearm(c);
	while (!r) {
		n = ibv_poll_cq(c->cq, 1, &wc);
		if (n <= 0)
			return n ? -EIO : 0;
		if (is_ours(wc.wr_id, c->rx, PINLEASE_CARRY_RECVS))
			return received(c, &wc, frame, len);
		if (is_ours(wc.wr_id, c->out, PLC_OUT))
			r = sent(c, &wc);
	}
	return r;
}

static int verbs_fd(const struct pinlease_carry *c)
{
	return c->channel->fd;
}

static int verbs_free(struct pinlease_carry *c)
{
	int r = c->cq ? -ibv_destroy_cq(c->cq) : 0;

	if (r)
		return r;
	c->cq = NULL;
	if (c->mr)
		ibv_dereg_mr(c->mr);
	if (c->channel)
		ibv_destroy_comp_channel(c->channel);
	return 0;
}

static const struct plc_transport verbs_transport = {
	.send = verbs_send, .recv = verbs_recv, .fd = verbs_fd, .free = verbs_free
};

static int verbs_make(struct pinlease_carry *c, struct ibv_pd *pd)
{
	int flags;

	c->channel = ibv_create_comp_channel(pd->context);
	if (!c->channel)
		return -errno;
	flags = fcntl(c->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(c->channel->fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	c->cq = ibv_create_cq(pd->context, PINLEASE_CARRY_RECVS + PINLEASE_CARRY_SENDS, NULL, c->channel, 0);
	if (!c->cq)
		return -errno;
	c->mr = ibv_reg_mr(pd, c, sizeof(*c), IBV_ACCESS_LOCAL_WRITE);
	if (!c->mr)
		return -errno;
	return ibv_req_notify_cq(c->cq, 0) ? -EIO : 0;
}

PLC_API int pinlease_carry_verbs(struct ibv_pd *pd, const struct pinlease_carry_opts *opts,
				 struct pinlease_carry **carry)
{
	struct pinlease_carry *c;
	int r;

	if (!pd || !carry)
		return -EINVAL;
	r = plc_new(opts, &verbs_transport, &c);
	if (r)
		return r;
	r = verbs_make(c, pd);
	if (r) {
		verbs_free(c);
		plc_free(c);
		return r;
	}
	*carry = c;
	return 0;
}

PLC_API struct ibv_cq *pinlease_carry_cq(const struct pinlease_carry *carry)
{
	return carry ? carry->cq : NULL;
}

PLC_API int pinlease_carry_start(struct pinlease_carry *carry, struct ibv_qp *qp)
{
	uint32_t i;
	int r = 0;

	if (!carry || !qp || !carry->mr)
		return -EINVAL;
	if (carry->pid != getpid())
		return -ECHILD;
	pthread_mutex_lock(&carry->lock);
	if (carry->qp || carry->dead)
		r = carry->dead ? carry->dead : -EINVAL;
	else
		carry->qp = qp;
	for (i = 0; i < PINLEASE_CARRY_RECVS && !r; i++) {
		r = post_recv(carry, &carry->rx[i]);
		if (r)
			plc_die(carry, r);
	}
	pthread_mutex_unlock(&carry->lock);
	return r;
}
