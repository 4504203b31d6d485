/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device's data path, checked on the device itself.
 *
 * A loopback pair of RC queue pairs at the path MTU in use, the smallest where ports
 * differ: the more packets, the more offsets. One end's memory (near) is
 * registered plainly, the other's (far) with the flags in question. Writes and reads
 * that are unaligned, cross pages and take several packets go through far, and after
 * each one all of far and near is compared with what should be there: data that went
 * to a wrong place in the region counts as well as data that did not arrive. For the
 * first write far is fresh memory, so that the device's own faults are in the test.
 *
 * Which GID reaches the port itself differs (rxe on lo: only the IPv4 one), so they are
 * tried in turn with a write from near into near: a failure there is one of the route
 * and says nothing about the flags.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "datacheck.h"
#include "sys.h"
#include "util.h"
#include "verbs.h"

#define CHECK_PAGES   4u		/* of each side */
#define UNDO_TRIES    3u		/* a provider that will not destroy or deregister is asked so often */
#define CHECK_GIDS    8u		/* tried at most */
#define CHECK_TIME    (2 * PL_NS_PER_S) /* for finding a route, and for the data */
#define CHECK_SKEW    3u		/* near and far differ in alignment too */
#define CHECK_PSN     0x1000u
#define CHECK_DEVICES 16u /* remembered */

struct check_side {
	struct ibv_mr *mr;
	uint8_t *mem;
};

struct check {
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp[2];
	struct check_side near, far;
	struct ibv_port_attr attr;
	struct ibv_gid_entry gid[CHECK_GIDS];
	unsigned int gids;
	uint8_t port;
	size_t len;
	uint64_t until;
};

struct check_op {
	enum ibv_wr_opcode opcode;
	uint32_t far_page, far_off; /* where it starts in far */
	uint32_t pages, bytes;	    /* how long it is */
};

static const struct check_op check_ops[] = {
	{IBV_WR_RDMA_WRITE, 0, 777, 0, 1001},  {IBV_WR_RDMA_READ, 1, 333, 0, 999},
	{IBV_WR_RDMA_WRITE, 0, 1234, 2, 1357}, {IBV_WR_RDMA_READ, 0, 2469, 2, 531},
	{IBV_WR_RDMA_WRITE, 1, 0, 2, 0},       {IBV_WR_RDMA_READ, 1, 0, 2, 0},
};

/* Every operation has seeds of its own; seed 0 is untouched anonymous memory. */
static uint8_t check_byte(unsigned int seed, size_t i)
{
	return seed ? (uint8_t)((size_t)seed * 41 + i * 7 + (i >> 8) * 13 + 1) : 0;
}

static void check_fill(uint8_t *mem, size_t len, unsigned int seed)
{
	size_t i;

	if (seed)
		for (i = 0; i < len; i++)
			mem[i] = check_byte(seed, i);
}

/* mem holds old, but from at on, n bytes of new that start at from. */
static bool check_same(const uint8_t *mem, size_t len, unsigned int old, unsigned int new, size_t at,
		       size_t n, size_t from)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (mem[i] != (i - at < n ? check_byte(new, i - at + from) : check_byte(old, i)))
			return false;
	return true;
}

/* 0; -ETIMEDOUT: our own limit, or the transport's; -EIO: any other error completion. */
static int check_transfer(struct check *c, const struct check_op *op, size_t near,
			  const struct check_side *to, size_t far, size_t n)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)c->near.mem + near, .length = (uint32_t)n, .lkey = c->near.mr->lkey};
	struct ibv_send_wr wr = {
		.sg_list = &sge, .num_sge = 1, .opcode = op->opcode, .send_flags = IBV_SEND_SIGNALED};
	struct ibv_wc wc;
	int ret;

	wr.wr.rdma.remote_addr = (uintptr_t)to->mem + far;
	wr.wr.rdma.rkey = to->mr->rkey;
	ret = pl_verbs_post_send(c->qp[0], &wr);
	if (ret)
		return ret;
	do {
		ret = pl_verbs_poll_cq(c->cq, &wc);
	} while (!ret && pl_sys_now() < c->until);
	if (ret < 0)
		return ret;
	if (!ret || wc.status == IBV_WC_RETRY_EXC_ERR)
		return -ETIMEDOUT;
	return wc.status == IBV_WC_SUCCESS ? 0 : -EIO;
}

static int check_op_run(struct check *c, const struct check_op *op, unsigned int step)
{
	const size_t page = pl_sys_page_size(), n = op->pages * page + op->bytes;
	const size_t far = op->far_page * page + op->far_off, near = CHECK_SKEW;
	const unsigned int near_seed = 2 * step + 1, far_seed = 2 * step;
	bool same;
	int err;

	check_fill(c->near.mem, c->len, near_seed);
	check_fill(c->far.mem, c->len, far_seed);
	err = check_transfer(c, op, near, &c->far, far, n);
	if (err)
		return err;
	if (op->opcode == IBV_WR_RDMA_WRITE)
		same = check_same(c->near.mem, c->len, near_seed, 0, 0, 0, 0) &&
		       check_same(c->far.mem, c->len, far_seed, near_seed, far, n, near);
	else
		same = check_same(c->near.mem, c->len, near_seed, far_seed, near, n, far) &&
		       check_same(c->far.mem, c->len, far_seed, 0, 0, 0, 0);
	return same ? 0 : -EIO;
}

static int check_qp_init(struct check *c, struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT,
				   .port_num = c->port,
				   .qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ};

	return pl_verbs_modify_qp(qp, &attr,
				  IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

/* Ethernet needs the GID; on InfiniBand the port's LID is the way to itself. */
static int check_qp_rtr(struct check *c, struct ibv_qp *qp, struct ibv_qp *to,
			const struct ibv_gid_entry *gid)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTR,
				   .path_mtu = c->attr.active_mtu,
				   .dest_qp_num = to->qp_num,
				   .rq_psn = CHECK_PSN,
				   .max_dest_rd_atomic = 1,
				   .min_rnr_timer = 12};

	attr.ah_attr.port_num = c->port;
	attr.ah_attr.dlid = c->attr.lid;
	if (c->attr.link_layer == IBV_LINK_LAYER_ETHERNET) {
		attr.ah_attr.is_global = 1;
		attr.ah_attr.grh.dgid = gid->gid;
		attr.ah_attr.grh.sgid_index = (uint8_t)gid->gid_index;
		attr.ah_attr.grh.hop_limit = 64;
	}
	return pl_verbs_modify_qp(qp, &attr,
				  IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
					  IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

/* rnr_retry 7 is for ever: a responder may answer RNR while it faults the page in. Our own limit ends it. */
static int check_qp_rts(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS,
				   .timeout = 14,
				   .retry_cnt = 3,
				   .rnr_retry = 7,
				   .sq_psn = CHECK_PSN,
				   .max_rd_atomic = 1};

	return pl_verbs_modify_qp(qp, &attr,
				  IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
					  IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

static void check_disconnect(struct check *c)
{
	unsigned int i, tries;

	for (i = 0; i < 2; i++) {
		for (tries = 0; c->qp[i] && tries < UNDO_TRIES; tries++)
			if (!pl_verbs_destroy_qp(c->qp[i]))
				break;
		c->qp[i] = NULL;
	}
}

/* A new pair for each GID: one that has failed is in the error state. */
static int check_connect(struct check *c, const struct ibv_gid_entry *gid)
{
	struct ibv_qp_init_attr init = {
		.send_cq = c->cq,
		.recv_cq = c->cq,
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1}};
	static const struct check_op probe = {.opcode = IBV_WR_RDMA_WRITE};
	unsigned int i;
	int err = 0;

	for (i = 0; !err && i < 2; i++)
		err = pl_verbs_create_qp(c->pd, &init, &c->qp[i]);
	for (i = 0; !err && i < 2; i++)
		err = check_qp_init(c, c->qp[i]);
	for (i = 0; !err && i < 2; i++)
		err = check_qp_rtr(c, c->qp[i], c->qp[!i], gid);
	for (i = 0; !err && i < 2; i++)
		err = check_qp_rts(c->qp[i]);
	if (!err)
		err = check_transfer(c, &probe, 0, &c->near, c->len / 2, 1);
	if (err)
		check_disconnect(c);
	return err;
}

/* Routable GIDs of RoCE v2 before link-local ones and those of v1. */
static bool check_gid_good(const struct ibv_gid_entry *gid)
{
	return gid->gid_type == IBV_GID_TYPE_ROCE_V2 && !(gid->gid.raw[0] == 0xfe && gid->gid.raw[1] == 0x80);
}

static void check_find_gids(struct check *c)
{
	struct ibv_gid_entry gid;
	unsigned int good = 0;
	int i;

	for (i = 0; i < c->attr.gid_tbl_len && i <= UINT8_MAX && good < CHECK_GIDS; i++) {
		if (pl_verbs_query_gid(c->pd->context, c->port, (uint32_t)i, &gid))
			continue;
		if (c->gids < CHECK_GIDS)
			c->gids++;
		else if (!check_gid_good(&gid))
			continue;
		if (check_gid_good(&gid)) {
			c->gid[c->gids - 1] = c->gid[good];
			c->gid[good++] = gid;
		} else {
			c->gid[c->gids - 1] = gid;
		}
	}
}

/* The active port with the smallest path MTU. 0 and *port, *attr; -ENETDOWN: none is active. */
static int check_find_port(struct ibv_context *context, int ports, uint8_t *port, struct ibv_port_attr *attr)
{
	int err = ports < 0 ? ports : -ENETDOWN, ret, i;
	struct ibv_port_attr one;
	bool found = false;

	for (i = 1; i <= ports; i++) {
		ret = pl_verbs_query_port(context, (uint8_t)i, &one);
		if (ret)
			err = ret;
		if (ret || one.state != IBV_PORT_ACTIVE || (found && one.active_mtu >= attr->active_mtu))
			continue;
		*port = (uint8_t)i;
		*attr = one;
		found = true;
	}
	return found ? 0 : err;
}

static int check_find_route(struct check *c)
{
	unsigned int i;
	int err;

	if (c->attr.link_layer != IBV_LINK_LAYER_ETHERNET)
		return check_connect(c, NULL);
	check_find_gids(c);
	err = -EADDRNOTAVAIL;
	for (i = 0; i < c->gids && pl_sys_now() < c->until; i++) {
		err = check_connect(c, &c->gid[i]);
		if (!err)
			break;
	}
	return err;
}

static int check_side_init(struct check *c, struct check_side *side, uint32_t access)
{
	void *mem;
	int err;

	err = pl_sys_map(NULL, c->len, PROT_READ | PROT_WRITE, -1, 0, &mem);
	if (err)
		return err;
	side->mem = mem;
	return pl_verbs_reg_mr(c->pd, mem, c->len, (uintptr_t)mem,
			       access | IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
				       IBV_ACCESS_REMOTE_READ,
			       &side->mr);
}

/*
 * A region that the provider never gives up keeps its memory: were it unmapped, one with
 * on-demand paging would reach whatever is mapped there next.
 */
static void check_side_free(struct check *c, struct check_side *side)
{
	unsigned int tries;
	int err = side->mr ? -EBUSY : 0;

	for (tries = 0; err && tries < UNDO_TRIES; tries++)
		err = pl_verbs_dereg_mr(side->mr);
	if (side->mem && !err)
		(void)pl_sys_unmap(side->mem, c->len);
}

static int check_init(struct check *c)
{
	int err;

	err = check_find_port(c->pd->context, pl_verbs_port_count(c->pd->context), &c->port, &c->attr);
	if (!err)
		err = pl_verbs_create_cq(c->pd->context, 4, &c->cq);
	if (!err)
		err = check_side_init(c, &c->near, 0);
	return err ? err : check_find_route(c);
}

/* From here on an error is the flags' own, but for lack of memory. */
static int check_flags(struct check *c, uint32_t access)
{
	unsigned int i;
	int err;

	c->until = pl_sys_now() + CHECK_TIME;
	err = check_side_init(c, &c->far, access);
	for (i = 0; !err && i < sizeof(check_ops) / sizeof(*check_ops); i++)
		err = check_op_run(c, &check_ops[i], i);
	return err && err != -ENOMEM ? -EOPNOTSUPP : err;
}

int pl_datacheck_run(struct ibv_pd *pd, uint32_t ibv_access)
{
	struct check c = {.pd = pd, .len = CHECK_PAGES * pl_sys_page_size()};
	unsigned int tries;
	int err;

	c.until = pl_sys_now() + CHECK_TIME;
	err = check_init(&c);
	if (!err)
		err = check_flags(&c, ibv_access);
	else if (err == -EOPNOTSUPP)
		err = -EIO;
	check_disconnect(&c);
	check_side_free(&c, &c.far);
	check_side_free(&c, &c.near);
	for (tries = 0; c.cq && tries < UNDO_TRIES; tries++)
		if (!pl_verbs_destroy_cq(c.cq))
			break;
	return err;
}

/*
 * What is known already, for the life of the process. Name and GUID: software devices
 * share GUIDs, and a name may come back for another device. A port that comes back with
 * another path MTU cuts messages into other packets: that is a question of its own.
 */
static struct check_known {
	char name[IBV_SYSFS_NAME_MAX];
	uint64_t guid;
	uint32_t mtu;
	int ports, result;
} check_known[CHECK_DEVICES];
static unsigned int check_known_count;
static pthread_mutex_t check_mutex = PTHREAD_MUTEX_INITIALIZER;

/* mtu 0: any. */
static struct check_known *check_lookup(const char *name, uint64_t guid, uint32_t mtu)
{
	unsigned int i;

	for (i = 0; i < CHECK_DEVICES && i < check_known_count; i++)
		if (check_known[i].guid == guid && (!mtu || check_known[i].mtu == mtu) &&
		    !strcmp(check_known[i].name, name))
			return &check_known[i];
	return NULL;
}

static void check_remember(const char *name, uint64_t guid, uint32_t mtu, int ports, int result)
{
	struct check_known *known = &check_known[check_known_count++ % CHECK_DEVICES];

	strncpy(known->name, name, sizeof(known->name) - 1);
	known->guid = guid;
	known->mtu = mtu;
	known->ports = ports;
	known->result = result;
}

/* A device keeps its ports: they are not counted again, which is a system call or two. */
static int check_ports(struct ibv_context *context)
{
	const struct check_known *known;
	int ports;

	pthread_mutex_lock(&check_mutex);
	known = check_lookup(pl_verbs_device_name(context), pl_verbs_device_guid(context), 0);
	ports = known ? known->ports : 0;
	pthread_mutex_unlock(&check_mutex);
	return ports > 0 ? ports : pl_verbs_port_count(context);
}

uint32_t pl_datacheck_mtu(struct ibv_context *context)
{
	struct ibv_port_attr attr;
	uint8_t port;

	return check_find_port(context, check_ports(context), &port, &attr) ? 0 : 128u << attr.active_mtu;
}

bool pl_datacheck_is_known(struct ibv_context *context)
{
	bool known;

	pthread_mutex_lock(&check_mutex);
	known = check_lookup(pl_verbs_device_name(context), pl_verbs_device_guid(context), 0);
	pthread_mutex_unlock(&check_mutex);
	return known;
}

/* The mutex is held over the check, so that a second thread waits for the answer instead of measuring beside
 * it. */
int pl_datacheck_odp(struct ibv_pd *pd, uint32_t mtu)
{
	const char *name = pl_verbs_device_name(pd->context);
	uint64_t guid = pl_verbs_device_guid(pd->context);
	struct check_known *known;
	int result;

	if (!mtu)
		return -ENETDOWN;
	pthread_mutex_lock(&check_mutex);
	known = check_lookup(name, guid, mtu);
	if (known) {
		result = known->result;
	} else {
		result = pl_datacheck_run(pd, IBV_ACCESS_ON_DEMAND);
		if (!result || result == -EOPNOTSUPP)
			check_remember(name, guid, mtu, pl_verbs_port_count(pd->context), result);
	}
	pthread_mutex_unlock(&check_mutex);
	return result;
}
