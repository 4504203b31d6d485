/* SPDX-License-Identifier: BSD-3-Clause */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/cm.h"

#define RC_PORT	      1		/* of the device */
#define RC_PATIENCE_S 10	/* for the rest of a message that has begun, and for the handshake */
#define RC_ATOMS      4		/* RDMA READs in flight at the responder: what every device can do */

/* What each side tells the other to connect the queue pairs; all in network byte order. */
struct endpoint {
	uint32_t qpn, psn;
	uint16_t lid, mtu;
	union ibv_gid gid;
};

/* Its contexts stay open; a queue pair by rdma_cm takes no others. */
int rc_dev_open(struct rc_dev *dev)
{
	struct ibv_context **list = rdma_get_devices(NULL);
	struct ibv_port_attr port;
	int i;

	memset(dev, 0, sizeof(*dev));
	for (i = 0; list && list[i] && !dev->ctx; i++)
		if (!ibv_query_port(list[i], RC_PORT, &port) && port.state == IBV_PORT_ACTIVE)
			dev->ctx = list[i];
	if (list)
		rdma_free_devices(list);
	if (!dev->ctx)
		return -ENODEV;
	dev->pd = ibv_alloc_pd(dev->ctx);
	if (!dev->pd) {
		rc_dev_close(dev);
		return -ENOMEM;
	}
	return 0;
}

void rc_dev_close(struct rc_dev *dev)
{
	if (dev->pd)
		ibv_dealloc_pd(dev->pd);
	memset(dev, 0, sizeof(*dev));
}

/* The socket's own address as a GID: RoCE has an entry for each address of its network device. */
static void address_gid(int sock, union ibv_gid *gid)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);

	memset(gid, 0, sizeof(*gid));
	if (getsockname(sock, (struct sockaddr *)&addr, &len))
		return;
	if (addr.ss_family == AF_INET6) {
		memcpy(gid->raw, &((struct sockaddr_in6 *)&addr)->sin6_addr, sizeof(gid->raw));
	} else if (addr.ss_family == AF_INET) {
		gid->raw[10] = gid->raw[11] = 0xff;
		memcpy(gid->raw + 12, &((struct sockaddr_in *)&addr)->sin_addr, 4);
	}
}

/* The entry to use for this connection: that of the socket's address, else the first one. */
static int find_gid(const struct rc_dev *dev, int sock, const struct ibv_port_attr *port, union ibv_gid *gid)
{
	union ibv_gid want, have;
	int i;

	address_gid(sock, &want);
	for (i = 0; i < port->gid_tbl_len && i < UINT8_MAX; i++) {
		if (!ibv_query_gid(dev->ctx, RC_PORT, i, &have) && !memcmp(&have, &want, sizeof(have))) {
			*gid = have;
			return i;
		}
	}
	return ibv_query_gid(dev->ctx, RC_PORT, 0, gid) ? -EIO : 0;
}

/* All of len bytes or -errno; 0 only at the end of file before the first byte. */
static int read_all(int sock, void *buf, size_t len)
{
	size_t done = 0;
	ssize_t n;

	while (done < len) {
		n = recv(sock, (char *)buf + done, len - done, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (!n)
			return done ? -EPIPE : 0;
		done += (size_t)n;
	}
	return 1;
}

static int write_all(int sock, const void *buf, size_t len)
{
	size_t done = 0;
	ssize_t n;

	while (done < len) {
		n = send(sock, (const char *)buf + done, len - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		done += (size_t)n;
	}
	return 0;
}

static int qp_to_init(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = RC_PORT,
		.qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
	};

	return -ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

static int qp_to_rtr(struct ibv_qp *qp, int gid_index, uint16_t mtu, const struct endpoint *peer)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = mtu < be16toh(peer->mtu) ? mtu : be16toh(peer->mtu),
		.dest_qp_num = be32toh(peer->qpn),
		.rq_psn = be32toh(peer->psn),
		.max_dest_rd_atomic = RC_ATOMS,
		.min_rnr_timer = 12,
		.ah_attr = { .is_global = 1,
			     .port_num = RC_PORT,
			     .dlid = be16toh(peer->lid),
			     .grh = { .dgid = peer->gid,
				      .sgid_index = (uint8_t)gid_index,
				      .hop_limit = 64 } },
	};

	return -ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
				      IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

/* timeout 16 is 268 ms, seven times: an emulated machine may stand still longer than a real one. */
static int qp_to_rts(struct ibv_qp *qp, uint32_t psn)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS,
		.sq_psn = psn,
		.timeout = 16,
		.retry_cnt = 7,
		.rnr_retry = 3,
		.max_rd_atomic = RC_ATOMS,
	};

	return -ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
			      IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
}

static int make_cq(const struct rc_dev *dev, struct rc_conn *conn, struct ibv_qp_init_attr *init)
{
	conn->cq = ibv_create_cq(dev->ctx, RC_DEPTH + 1, NULL, NULL, 0);
	if (!conn->cq)
		return -errno;
	*init = (struct ibv_qp_init_attr){
		.qp_type = IBV_QPT_RC,
		.send_cq = conn->cq,
		.recv_cq = conn->cq,
		.cap = { .max_send_wr = RC_DEPTH, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
	};
	return 0;
}

/*
 * The same on both sides. A side answers with its endpoint before it can receive, so
 * the second exchange, of one byte, makes sure that both can before either goes on.
 */
static int connect_by_hand(const struct rc_dev *dev, struct rc_conn *conn, struct ibv_qp_init_attr *init)
{
	struct ibv_port_attr port;
	struct endpoint self = { 0 }, peer;
	char ready = 1;
	int gid_index, r;

	if (ibv_query_port(dev->ctx, RC_PORT, &port))
		return -EIO;
	gid_index = find_gid(dev, conn->sock, &port, &self.gid);
	if (gid_index < 0)
		return gid_index;
	conn->qp = ibv_create_qp(dev->pd, init);
	if (!conn->qp)
		return -errno;
	self.qpn = htobe32(conn->qp->qp_num);
	self.psn = htobe32(conn->qp->qp_num & 0xffffff);
	self.lid = htobe16(port.lid);
	self.mtu = htobe16((uint16_t)port.active_mtu);
	r = write_all(conn->sock, &self, sizeof(self));
	if (!r)
		r = read_all(conn->sock, &peer, sizeof(peer)) == 1 ? 0 : -EPROTO;
	if (!r)
		r = qp_to_init(conn->qp);
	if (!r)
		r = qp_to_rtr(conn->qp, gid_index, (uint16_t)port.active_mtu, &peer);
	if (!r)
		r = qp_to_rts(conn->qp, be32toh(self.psn));
	if (!r)
		r = write_all(conn->sock, &ready, 1);
	if (!r)
		r = read_all(conn->sock, &ready, 1) == 1 ? 0 : -EPROTO;
	return r;
}

/* Both sides see the same: who talks to a loopback address has one. */
static bool on_loopback(int sock)
{
	struct sockaddr_in at = { 0 };
	socklen_t len = sizeof(at);

	return !getsockname(sock, (struct sockaddr *)&at, &len) &&
	       ntohl(at.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static int handshake(const struct rc_dev *dev, struct rc_conn *conn, bool accepts)
{
	struct timeval patience = { .tv_sec = RC_PATIENCE_S };
	struct ibv_qp_init_attr init;
	int r, one = 1;

	/* NODELAY: somebody waits for a stop and its answer. */
	if (setsockopt(conn->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(conn->sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(conn->sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		return -errno;
	r = make_cq(dev, conn, &init);
	if (r)
		return r;
	if (on_loopback(conn->sock))
		return connect_by_hand(dev, conn, &init);
	return accepts ? cm_accept(dev, conn, &init) : cm_connect(dev, conn, &init);
}

int rc_listen(const char *port)
{
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *ai;
	int sock, r = 0, one = 1;

	if (getaddrinfo(NULL, port, &hints, &ai))
		return -EADDRNOTAVAIL;
	sock = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, 0);
	if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(sock, ai->ai_addr, ai->ai_addrlen) || listen(sock, 8))
		r = -errno;
	freeaddrinfo(ai);
	if (r && sock >= 0)
		close(sock);
	return r ? r : sock;
}

int rc_accept(const struct rc_dev *dev, int listener, struct rc_conn *conn)
{
	int r;

	*conn = (struct rc_conn){ .sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC) };
	if (conn->sock < 0)
		return -errno;
	r = handshake(dev, conn, true);
	if (r)
		rc_close(conn);
	return r;
}

int rc_connect(const struct rc_dev *dev, const char *host, const char *port, struct rc_conn *conn)
{
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *ai;
	int r = 0;

	if (getaddrinfo(host, port, &hints, &ai))
		return -EADDRNOTAVAIL;
	*conn = (struct rc_conn){ .sock = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, 0) };
	if (conn->sock < 0 || connect(conn->sock, ai->ai_addr, ai->ai_addrlen))
		r = -errno;
	freeaddrinfo(ai);
	if (!r)
		r = handshake(dev, conn, false);
	if (r)
		rc_close(conn);
	return r;
}

void rc_close(struct rc_conn *conn)
{
	cm_close(conn);
	if (conn->qp)
		ibv_destroy_qp(conn->qp);
	if (conn->cq)
		ibv_destroy_cq(conn->cq);
	if (conn->sock > 0)
		close(conn->sock);
	memset(conn, 0, sizeof(*conn));
}

int rc_send(const struct rc_conn *conn, const struct rc_msg *msg)
{
	struct rc_msg wire = {
		.type = htobe32(msg->type),
		.gen = htobe32(msg->gen),
		.rkey = htobe32(msg->rkey),
		.status = (int32_t)htobe32((uint32_t)msg->status),
		.addr = htobe64(msg->addr),
		.len = htobe64(msg->len),
	};

	return write_all(conn->sock, &wire, sizeof(wire));
}

int rc_pending(const struct rc_conn *conn, int ms)
{
	struct pollfd pfd = { .fd = conn->sock, .events = POLLIN };
	int n = poll(&pfd, 1, ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	return n;
}

int rc_recv(const struct rc_conn *conn, struct rc_msg *msg)
{
	struct rc_msg wire;
	int r;

	/* Idle for as long as it likes, but what has begun must end in time. */
	do
		r = rc_pending(conn, -1);
	while (!r);
	if (r > 0)
		r = read_all(conn->sock, &wire, sizeof(wire));
	if (r <= 0)
		return r;
	*msg = (struct rc_msg){
		.type = be32toh(wire.type),
		.gen = be32toh(wire.gen),
		.rkey = be32toh(wire.rkey),
		.status = (int32_t)be32toh((uint32_t)wire.status),
		.addr = be64toh(wire.addr),
		.len = be64toh(wire.len),
	};
	return 1;
}

int rc_send_bytes(const struct rc_conn *conn, const void *buf, size_t len)
{
	char wire[sizeof(uint32_t) + RC_BYTES_MAX];
	uint32_t head = htobe32((uint32_t)len);

	if (len > RC_BYTES_MAX)
		return -EMSGSIZE;
	memcpy(wire, &head, sizeof(head));
	memcpy(wire + sizeof(head), buf, len);
	return write_all(conn->sock, wire, sizeof(head) + len);
}

int rc_recv_bytes(const struct rc_conn *conn, void *buf, size_t cap)
{
	uint32_t head;
	int r;

	do
		r = rc_pending(conn, -1);
	while (!r);
	if (r > 0)
		r = read_all(conn->sock, &head, sizeof(head));
	if (r <= 0)
		return r;
	head = be32toh(head);
	if (!head || head > cap)
		return -EMSGSIZE;
	r = read_all(conn->sock, buf, head);
	return r == 1 ? (int)head : r ? r : -EPIPE;
}

int rc_post(const struct rc_conn *conn, enum ibv_wr_opcode opcode, uint64_t wr_id, const struct ibv_mr *mr,
	    const void *local, uint32_t len, uint64_t remote, uint32_t rkey)
{
	struct ibv_sge sge = { .addr = (uintptr_t)local, .length = len, .lkey = mr->lkey };
	struct ibv_send_wr wr = {
		.wr_id = wr_id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
		.wr = { .rdma = { .remote_addr = remote, .rkey = rkey } },
	};
	struct ibv_send_wr *bad;

	return -ibv_post_send(conn->qp, &wr, &bad);
}
