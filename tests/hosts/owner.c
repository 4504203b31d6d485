/* SPDX-License-Identifier: BSD-3-Clause */
/* hosts_owner FILE DEADLINE_MS: leases FILE, grants a half of it to each peer that connects. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hosts.h"

struct link {
	struct rdma_cm_id *id; /* NULL: this half is nobody's */
	struct pinlease_carry *carry;
	struct pinlease_grant *grant;
	struct hosts_note asked; /* a sync that is owed, if count is not 0 */
	bool over;
};

static struct {
	struct rdma_event_channel *events;
	struct rdma_cm_id *listener;
	struct ibv_pd *pd;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct link link[HOSTS_LINKS];
} o;

static volatile sig_atomic_t ending;

static void end(int signo)
{
	(void)signo;
	ending = 1;
}

static unsigned int half_of(const struct link *k)
{
	return (unsigned int)(k - o.link);
}

static void start(const char *path, uint32_t deadline_ms)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .flags = PINLEASE_L_GRANTED,
				      .deadline_ms = deadline_ms,
				      .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct sockaddr_in at = hosts_address("PINLEASE_ADDR");
	struct pinlease_why why = { 0 };
	int r;

	o.events = rdma_create_event_channel();
	rt_assert(o.events && !rdma_create_id(o.events, &o.listener, NULL, RDMA_PS_TCP) &&
			  !rdma_bind_addr(o.listener, (struct sockaddr *)&at) && o.listener->verbs,
		  "rdma_cm: %s", strerror(errno));
	opts.pd = o.pd = ibv_alloc_pd(o.listener->verbs);
	rt_assert(o.pd, "ibv_alloc_pd");
	r = pinlease_ctx_new(NULL, &o.ctx);
	if (!r)
		r = pinlease_file_open(o.ctx, path, NULL, &why, &o.file);
	if (!r)
		r = pinlease_acquire(o.file, 0, HOSTS_FULL, &opts, &why, &o.lease);
	if (!r)
		r = pinlease_lease_info(o.lease, &info);
	rt_assert(!r, "lease: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	rt_assert(!rdma_listen(o.listener, (int)HOSTS_LINKS), "rdma_listen: %s", strerror(errno));
	printf("ready %s\n", info.mode == PINLEASE_MODE_STAGED ? "staged" : "pinned");
}

static struct link *link_of(const struct rdma_cm_id *id)
{
	struct link *k;

	for (k = o.link; k < o.link + HOSTS_LINKS; k++)
		if (k->id == id)
			return k;
	return NULL;
}

/* The peer may be told from ESTABLISHED on; its grant is a half of its own. */
static void link_new(struct rdma_cm_id *id)
{
	struct rdma_conn_param param = hosts_param();
	struct link *k = link_of(NULL);
	int r;

	rt_assert(k, "one peer too many");
	*k = (struct link){ .id = id };
	r = pinlease_carry_verbs(o.pd, NULL, &k->carry);
	if (!r)
		r = hosts_qp(id, o.pd, k->carry, NULL);
	rt_assert(!r && !rdma_accept(id, &param), "accepting: %s", strerror(r ? -r : errno));
}

static void link_up(struct link *k)
{
	struct pinlease_grant_opts opts = { .size = sizeof(opts),
					    .off = half_of(k) * HOSTS_HALF,
					    .len = HOSTS_HALF };
	int r = pinlease_grant_new(o.lease, &opts, &k->grant);

	if (!r)
		r = pinlease_carry_add_grant(k->carry, k->grant);
	rt_assert(!r, "grant: %s", strerror(-r));
	printf("connected %u\n", half_of(k));
}

/* With the queue pair gone, nothing of the peer's is in flight. */
static void link_drop(struct link *k)
{
	rdma_destroy_qp(k->id);
	rt_assert(!pinlease_carry_free(k->carry), "carry_free");
	pinlease_grant_free(k->grant);
	rdma_destroy_id(k->id);
	*k = (struct link){ .id = NULL };
}

static void cm_event(void)
{
	struct rdma_cm_id *id;
	int event = hosts_cm(o.events, 0, &id);
	struct link *k = event == RDMA_CM_EVENT_CONNECT_REQUEST ? NULL : link_of(id);

	if (event == RDMA_CM_EVENT_CONNECT_REQUEST)
		link_new(id);
	else if (event == RDMA_CM_EVENT_ESTABLISHED && k)
		link_up(k);
	else if (event == RDMA_CM_EVENT_DISCONNECTED && k)
		rdma_disconnect(id); /* flushes the receives: the carrier hears of it */
}

/* Each question is answered once it can be: a break in the middle is no answer. */
static void answer(struct link *k)
{
	struct hosts_note note = k->asked;

	if (!note.count || k->over)
		return;
	note.status = pinlease_sync(o.lease, 0, 0, 0);
	if (note.status != -EAGAIN && !pinlease_carry_send(k->carry, &note, sizeof(note)))
		k->asked.count = 0;
}

static void link_turn(struct link *k, bool tell)
{
	unsigned char buf[PINLEASE_CARRY_MAX];
	uint32_t kind;
	int r = 0;

	if (!k->id || !k->grant)
		return;
	if (tell)
		r = pinlease_carry_tell(k->carry);
	while (!r && (r = pinlease_carry_recv(k->carry, buf, sizeof(buf), &kind)) > 0) {
		rt_assert(r == sizeof(k->asked), "a message of %d bytes", r);
		memcpy(&k->asked, buf, sizeof(k->asked));
		r = 0;
	}
	if (r) {
		printf("gone %u: %s\n", half_of(k), strerror(-r));
		link_drop(k);
		return;
	}
	answer(k);
}

static bool events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	bool any = false;

	while (pinlease_ctx_next_event(o.ctx, &ev) == 1) {
		any = true;
		if (ev.type == PINLEASE_EV_BREAK)
			printf("break\n");
		else if (ev.type == PINLEASE_EV_REVOKED)
			printf("revoked %llu\n", (unsigned long long)ev.in_flight);
		else if (ev.type == PINLEASE_EV_RESTORED)
			printf("restored\n");
		else
			rt_die(__FILE__, __LINE__, "event %u, err %d", ev.type, ev.err);
	}
	return any;
}

static void turn(void)
{
	struct pollfd pfd[2 + HOSTS_LINKS] = { { .fd = o.events->fd, .events = POLLIN },
					       { .fd = pinlease_ctx_fd(o.ctx), .events = POLLIN } };
	unsigned int i;
	bool tell;

	for (i = 0; i < HOSTS_LINKS; i++)
		pfd[2 + i] = (struct pollfd){ .fd = o.link[i].grant ? pinlease_carry_fd(o.link[i].carry) : -1,
					      .events = POLLIN };
	poll(pfd, 2 + HOSTS_LINKS, 100);
	if (pfd[0].revents)
		cm_event();
	tell = events();
	for (i = 0; i < HOSTS_LINKS; i++)
		link_turn(&o.link[i], tell);
}

int main(int argc, char **argv)
{
	unsigned int i;

	rt_assert(argc == 3, "usage: hosts_owner FILE DEADLINE_MS");
	setlinebuf(stdout);
	signal(SIGTERM, end);
	start(argv[1], (uint32_t)atoi(argv[2]));
	while (!ending)
		turn();
	for (i = 0; i < HOSTS_LINKS; i++)
		if (o.link[i].id)
			link_drop(&o.link[i]);
	rt_assert(!pinlease_release(o.lease) && !pinlease_file_close(o.file) && !pinlease_ctx_free(o.ctx),
		  "release");
	ibv_dealloc_pd(o.pd);
	rdma_destroy_id(o.listener);
	rdma_destroy_event_channel(o.events);
	return 0;
}
