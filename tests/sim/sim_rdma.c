/* SPDX-License-Identifier: BSD-3-Clause */
/* The part of verbs.h that the data check needs: ports, and queue pairs that are wired to each other. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sim_verbs.h"

struct sim_cq {
	struct ibv_cq cq;
	struct ibv_wc wc;
	bool full;
};

int pl_verbs_odp_caps(struct ibv_context *context)
{
	int r = sim_enter("odp_caps", SIM_STEP);

	if (r)
		return r;
	return sim_device_of(context)->odp == SIM_ODP_NONE ? -EOPNOTSUPP : 0;
}

void pl_verbs_fds(struct ibv_context *context, int *cmd_fd, int *async_fd)
{
	*cmd_fd = context->cmd_fd;
	*async_fd = context->async_fd;
}

const char *pl_verbs_device_name(struct ibv_context *context)
{
	return sim_device_of(context)->name;
}

uint64_t pl_verbs_device_guid(struct ibv_context *context)
{
	return sim_device_of(context)->guid;
}

int pl_verbs_port_count(struct ibv_context *context)
{
	int r = sim_enter("port_count", SIM_STEP);

	(void)context;
	return r ? r : 2;
}

int pl_verbs_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
	const struct sim_device *d = sim_device_of(context);
	enum ibv_mtu mtu = d->mtu[port - 1];
	int r = sim_enter("query_port", SIM_STEP);

	if (!r)
		*attr = (struct ibv_port_attr){ .state = mtu ? IBV_PORT_ACTIVE : IBV_PORT_DOWN,
						.active_mtu = mtu,
						.gid_tbl_len = d->gids,
						.link_layer = d->gid ? IBV_LINK_LAYER_ETHERNET
								     : IBV_LINK_LAYER_INFINIBAND };
	return r;
}

int pl_verbs_query_gid(struct ibv_context *context, uint8_t port, uint32_t index, struct ibv_gid_entry *gid)
{
	const struct sim_device *d = sim_device_of(context);
	int r = sim_enter("query_gid", SIM_STEP);

	if (r)
		return r;
	if (index >= (uint32_t)d->gids || d->gid[index].none)
		return -ENODATA;
	*gid = (struct ibv_gid_entry){ .gid_index = index, .port_num = port };
	gid->gid_type = d->gid[index].v2 ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_ROCE_V1;
	gid->gid.raw[0] = 0xfe;
	gid->gid.raw[1] = d->gid[index].local ? 0x80 : 0;
	gid->gid.raw[15] = (uint8_t)index;
	return 0;
}

int pl_verbs_create_cq(struct ibv_context *context, int entries, struct ibv_cq **out)
{
	int r = sim_enter("create_cq", SIM_MEMORY | SIM_STEP);
	struct sim_cq *cq;

	(void)entries;
	if (r)
		return r;
	cq = calloc(1, sizeof(*cq));
	if (!cq)
		sim_die("out of memory");
	cq->cq.context = context;
	sim_lock();
	sim.counts.cqs++;
	sim_unlock();
	*out = &cq->cq;
	return 0;
}

int pl_verbs_destroy_cq(struct ibv_cq *cq)
{
	int r = sim_enter("destroy_cq", SIM_STEP);

	if (r)
		return r;
	sim_lock();
	sim.counts.cqs--;
	sim_unlock();
	free(pl_container(cq, struct sim_cq, cq));
	return 0;
}

int pl_verbs_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct ibv_qp **out)
{
	int r = sim_enter("create_qp", SIM_MEMORY | SIM_STEP);
	struct ibv_qp *qp;

	if (r)
		return r;
	qp = calloc(1, sizeof(*qp));
	if (!qp)
		sim_die("out of memory");
	qp->context = pd->context;
	qp->pd = pd;
	qp->send_cq = attr->send_cq;
	sim_lock();
	sim_device_of(pd->context)->checks++;
	sim.counts.qps++;
	sim_unlock();
	*out = qp;
	return 0;
}

/* The path MTU is kept where a real provider keeps what is its own. */
int pl_verbs_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	const struct sim_device *d = sim_device_of(qp->context);
	int r = sim_enter("modify_qp", SIM_MEMORY | SIM_STEP);

	/* Ethernet has no other way than a GID, and the number goes with it. */
	if (!r && (mask & IBV_QP_AV) && d->gid &&
	    (!attr->ah_attr.is_global || attr->ah_attr.grh.dgid.raw[15] != attr->ah_attr.grh.sgid_index))
		return -EINVAL;
	if (!r && (mask & IBV_QP_PATH_MTU))
		qp->qp_num = 128u << attr->path_mtu;
	if (!r && (mask & IBV_QP_AV))
		qp->handle = attr->ah_attr.grh.sgid_index;
	return r;
}

int pl_verbs_destroy_qp(struct ibv_qp *qp)
{
	int r = sim_enter("destroy_qp", SIM_STEP);

	if (r)
		return r;
	sim_lock();
	sim.counts.qps--;
	sim_unlock();
	free(qp);
	return 0;
}

/* The fault measured on a real provider: the offset within the page is lost, under ODP only. */
static uintptr_t device_addr(const struct ibv_qp *qp, const struct sim_mr *mr, uint64_t at)
{
	uintptr_t addr = (uintptr_t)mr->mr.addr + (at - mr->iova);

	if (sim_device_of(qp->context)->odp == SIM_ODP_UNALIGNED && (mr->access & IBV_ACCESS_ON_DEMAND))
		addr -= addr % SIM_PAGE;
	return addr;
}

/* Packet by packet, as the path MTU cuts the message. */
static bool device_copy(const struct ibv_qp *qp, const struct ibv_send_wr *wr)
{
	const struct sim_mr *near = sim_mr_find(wr->sg_list->lkey), *far = sim_mr_find(wr->wr.rdma.rkey);
	uint32_t done, n;
	uintptr_t here, there;

	if (!near || !far)
		return false;
	for (done = 0; done < wr->sg_list->length; done += n) {
		n = (uint32_t)pl_min_u64(qp->qp_num, wr->sg_list->length - done);
		here = device_addr(qp, near, wr->sg_list->addr + done);
		there = device_addr(qp, far, wr->wr.rdma.remote_addr + done);
		if (wr->opcode == IBV_WR_RDMA_WRITE)
			sim_memory_write(there, (const void *)here, n);
		else
			sim_memory_write(here, (const void *)there, n);
	}
	return true;
}

int pl_verbs_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr)
{
	struct sim_cq *cq = pl_container(qp->send_cq, struct sim_cq, cq);
	struct sim_device *d = sim_device_of(qp->context);
	int r = sim_enter("post_send", SIM_STEP);

	if (r)
		return r;
	sim_lock();
	if (d->gid && d->gid[qp->handle].dead) {
		cq->wc = (struct ibv_wc){ .status = IBV_WC_RETRY_EXC_ERR };
		cq->full = true;
		sim_unlock();
		return 0;
	}
	d->used = (int)qp->handle;
	cq->wc = (struct ibv_wc){ .status = device_copy(qp, wr) ? IBV_WC_SUCCESS : IBV_WC_REM_ACCESS_ERR };
	cq->full = true;
	sim_unlock();
	return 0;
}

int pl_verbs_poll_cq(struct ibv_cq *ibcq, struct ibv_wc *wc)
{
	struct sim_cq *cq = pl_container(ibcq, struct sim_cq, cq);
	int r = sim_enter("poll_cq", SIM_STEP);

	if (r)
		return r;
	sim_lock();
	r = cq->full;
	if (r)
		*wc = cq->wc;
	cq->full = false;
	sim_unlock();
	return r;
}
