/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queue pairs by hand. Timeouts are short (timeout 14: 67 ms, 3 retries), so that a
 * test whose peer went away ends in a third of a second and not in minutes; a patient one in
 * eight seconds.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kt.h"
#include "kt_rdma.h"

static bool ipv4_mapped(const union ibv_gid *gid)
{
	static const uint8_t prefix[12] = { [10] = 0xff, [11] = 0xff };

	return !memcmp(gid->raw, prefix, sizeof(prefix));
}

static bool loopback(const union ibv_gid *gid)
{
	static const uint8_t address[4] = { 127, 0, 0, 1 };

	return ipv4_mapped(gid) && !memcmp(gid->raw + 12, address, sizeof(address));
}

static int find_gid(struct kt_rdma *rdma, const struct ibv_port_attr *port)
{
	union ibv_gid gid;
	bool found = false;

	for (int i = 0; i < port->gid_tbl_len && i < 256; i++) {
		if (ibv_query_gid(rdma->ctx, rdma->port, i, &gid) || !ipv4_mapped(&gid))
			continue;
		if (found && !loopback(&gid))
			continue;
		rdma->gid = gid;
		rdma->gid_index = (uint8_t)i;
		found = true;
		if (loopback(&gid))
			break;
	}
	return found ? 0 : -ENODEV;
}

static void find_features(struct kt_rdma *rdma)
{
	const uint32_t need = IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
	struct ibv_device_attr_ex attr = { 0 };

	if (ibv_query_device_ex(rdma->ctx, NULL, &attr))
		return;
	rdma->odp = (attr.odp_caps.general_caps & IBV_ODP_SUPPORT) &&
		    (attr.odp_caps.per_transport_caps.rc_odp_caps & need) == need;
	rdma->windows = attr.orig_attr.device_cap_flags & IBV_DEVICE_MEM_WINDOW && attr.orig_attr.max_mw > 0;
}

int kt_rdma_open(struct kt_rdma *rdma)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_port_attr port;
	int ret = -ENODEV;

	memset(rdma, 0, sizeof(*rdma));
	rdma->port = 1;
	if (list && list[0])
		rdma->ctx = ibv_open_device(list[0]);
	if (list)
		ibv_free_device_list(list);
	if (!rdma->ctx)
		return -ENODEV;
	if (!ibv_query_port(rdma->ctx, rdma->port, &port))
		ret = find_gid(rdma, &port);
	if (!ret) {
		rdma->mtu = port.active_mtu;
		find_features(rdma);
		rdma->pd = ibv_alloc_pd(rdma->ctx);
		ret = rdma->pd ? 0 : -errno;
	}
	if (ret)
		kt_rdma_close(rdma);
	return ret;
}

void kt_rdma_close(struct kt_rdma *rdma)
{
	if (rdma->pd)
		ibv_dealloc_pd(rdma->pd);
	if (rdma->ctx)
		ibv_close_device(rdma->ctx);
	memset(rdma, 0, sizeof(*rdma));
}

int kt_qp_make(const struct kt_rdma *rdma, struct kt_qp *q, unsigned int depth)
{
	struct ibv_qp_init_attr init = {
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = depth, .max_recv_wr = depth, .max_send_sge = 1, .max_recv_sge = 1 },
	};

	memset(q, 0, sizeof(*q));
	q->depth = depth;
	q->cq = ibv_create_cq(rdma->ctx, (int)(2 * depth), NULL, NULL, 0);
	if (!q->cq)
		return -errno;
	init.send_cq = init.recv_cq = q->cq;
	q->qp = ibv_create_qp(rdma->pd, &init);
	if (!q->qp) {
		int ret = -errno;

		kt_qp_drop(q);
		return ret;
	}
	q->ep.qpn = q->qp->qp_num;
	q->ep.psn = q->qp->qp_num & 0xfffff;
	q->ep.gid = rdma->gid;
	return 0;
}

static int to_init(const struct kt_rdma *rdma, struct kt_qp *q)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = rdma->port,
		.qp_access_flags = KT_ACCESS_WRITE | IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_MW_BIND,
	};

	return -ibv_modify_qp(q->qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

static int to_rtr(const struct kt_rdma *rdma, struct kt_qp *q, const struct kt_ep *peer)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = rdma->mtu,
		.dest_qp_num = peer->qpn,
		.rq_psn = peer->psn,
		.max_dest_rd_atomic = 16,
		.min_rnr_timer = 12,
		.ah_attr = { .is_global = 1,
			     .port_num = rdma->port,
			     .grh = { .dgid = peer->gid, .sgid_index = rdma->gid_index, .hop_limit = 64 } },
	};

	return -ibv_modify_qp(q->qp, &attr,
			      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
				      IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

static int to_rts(const struct kt_rdma *rdma, struct kt_qp *q)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS,
		.sq_psn = q->ep.psn,
		.timeout = rdma->patient ? 18 : 14,
		.retry_cnt = rdma->patient || rdma->stubborn ? 7 : 3,
		.rnr_retry = 3,
		.max_rd_atomic = 16,
	};

	return -ibv_modify_qp(q->qp, &attr,
			      IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
				      IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
}

int kt_qp_connect(const struct kt_rdma *rdma, struct kt_qp *q, const struct kt_ep *peer)
{
	int ret = to_init(rdma, q);

	if (!ret)
		ret = to_rtr(rdma, q, peer);
	return ret ? ret : to_rts(rdma, q);
}

void kt_qp_drop(struct kt_qp *q)
{
	if (q->qp)
		ibv_destroy_qp(q->qp);
	if (q->cq)
		ibv_destroy_cq(q->cq);
	q->qp = NULL;
	q->cq = NULL;
}

int kt_qp_state(struct kt_qp *q)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;
	int ret = ibv_query_qp(q->qp, &attr, IBV_QP_STATE, &init);

	return ret ? -ret : (int)attr.qp_state;
}

int kt_post(struct kt_qp *q, enum ibv_wr_opcode opcode, uint64_t wr_id, const void *local, uint32_t lkey,
	    uint32_t len, uint64_t remote, uint32_t rkey)
{
	struct ibv_sge sge = { .addr = (uintptr_t)local, .length = len, .lkey = lkey };
	struct ibv_send_wr wr = {
		.wr_id = wr_id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
		.wr = { .rdma = { .remote_addr = remote, .rkey = rkey } },
	};
	struct ibv_send_wr *bad;

	return -ibv_post_send(q->qp, &wr, &bad);
}

int kt_poll(struct kt_qp *q, int ms, struct ibv_wc *wc)
{
	uint64_t until = kt_now() + (uint64_t)ms * 1000000u;
	int n;

	do {
		n = ibv_poll_cq(q->cq, 1, wc);
		if (n)
			return n < 0 ? -EIO : 1;
	} while (kt_now() < until);
	return 0;
}

int kt_do(struct kt_qp *q, enum ibv_wr_opcode opcode, const void *local, uint32_t lkey, uint32_t len,
	  uint64_t remote, uint32_t rkey)
{
	struct ibv_wc wc;
	int ret = kt_post(q, opcode, 0, local, lkey, len, remote, rkey);

	if (!ret)
		ret = kt_poll(q, KT_LONG, &wc);
	if (ret <= 0)
		return ret ? ret : -ETIMEDOUT;
	return wc.status == IBV_WC_SUCCESS ? 0 : -(1000 + (int)wc.status);
}

int kt_pair_make(const struct kt_rdma *rdma, struct kt_pair *pair, unsigned int depth)
{
	int ret;

	memset(pair, 0, sizeof(*pair));
	ret = kt_qp_make(rdma, &pair->peer, depth);
	if (!ret)
		ret = kt_qp_make(rdma, &pair->owner, depth);
	if (!ret)
		ret = kt_qp_connect(rdma, &pair->peer, &pair->owner.ep);
	if (!ret)
		ret = kt_qp_connect(rdma, &pair->owner, &pair->peer.ep);
	if (ret)
		kt_pair_drop(pair);
	return ret;
}

void kt_pair_drop(struct kt_pair *pair)
{
	kt_qp_drop(&pair->peer);
	kt_qp_drop(&pair->owner);
}
