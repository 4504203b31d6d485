/* SPDX-License-Identifier: BSD-3-Clause */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hosts.h"

/*
 * 4.096 us * 2^18 is 1.07 s, and there are eight tries: a link that is down for a second or two costs no
 * connection, one that stays down does, and nothing waits for that longer than nine seconds.
 */
#define ACK_TIMEOUT 18

int hosts_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct pinlease_carry *carry, struct ibv_cq *cq)
{
	struct ibv_qp_init_attr init = {
		.qp_type = IBV_QPT_RC,
		.send_cq = cq ? cq : pinlease_carry_cq(carry),
		.recv_cq = pinlease_carry_cq(carry),
		.cap = { .max_send_wr = RT_DEPTH + PINLEASE_CARRY_SENDS,
			 .max_recv_wr = PINLEASE_CARRY_RECVS,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
	};
	uint8_t timeout = ACK_TIMEOUT;

	if (rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout)) ||
	    rdma_create_qp(id, pd, &init))
		return -errno;
	return pinlease_carry_start(carry, id->qp);
}

struct rdma_conn_param hosts_param(void)
{
	return (struct rdma_conn_param){ .retry_count = 7, .rnr_retry_count = 7 };
}

int hosts_cm(struct rdma_event_channel *events, int ms, struct rdma_cm_id **id)
{
	struct pollfd pfd = { .fd = events->fd, .events = POLLIN };
	struct rdma_cm_event *event;
	int n, is;

	do
		n = poll(&pfd, 1, ms);
	while (n < 0 && errno == EINTR);
	if (n <= 0 || rdma_get_cm_event(events, &event))
		return n ? -errno : -ETIMEDOUT;
	is = (int)event->event;
	*id = event->id;
	rdma_ack_cm_event(event);
	return is;
}

struct sockaddr_in hosts_address(const char *name)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(HOSTS_PORT) };
	const char *text = getenv(name);

	rt_assert(text && inet_pton(AF_INET, text, &at.sin_addr) == 1, "no %s: needs two hosts", name);
	return at;
}

struct hosts_books *hosts_books(const char *path, bool make)
{
	int fd = open(path, make ? O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0600);
	void *map;

	rt_assert(fd >= 0 && (!make || !ftruncate(fd, sizeof(struct hosts_books))), "%s: %s", path,
		  strerror(errno));
	map = mmap(NULL, sizeof(struct hosts_books), PROT_READ | PROT_WRITE, make ? MAP_SHARED : MAP_PRIVATE,
		   fd, 0);
	rt_assert(map != MAP_FAILED, "%s: %s", path, strerror(errno));
	close(fd);
	return map;
}
