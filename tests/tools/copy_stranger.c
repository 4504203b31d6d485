/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is not pl-copy, or does not keep to its protocol, at either end of its connections.
 *
 * copy_stranger client HOST PORT: all scenes against a server, whose answers are compared here.
 * copy_stranger server ADDRESS PORT: a connection for each of its scenes, in their order; who calls looks
 * at what pl-copy makes of them.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dial.h"

#define STEPS	 1200 /* of 25 ms: nothing takes so long */
#define NO_CHUNK 1000000u

struct stranger {
	struct conn conn;
	const struct scene *scene;
	uint32_t last;	/* type of the frame that came last */
	char text[256]; /* of ERROR */
	bool over;
	int failed;
};

struct scene {
	const char *name;
	void (*play)(struct stranger *t); /* client: when it is connected */
	int (*answer)(struct stranger *t, const struct frame *f);
	const char *end; /* client: words of the ERROR */
};

static void tell(struct stranger *t, uint32_t type, uint64_t chunk, const char *body)
{
	struct frame f = { .type = type, .chunk = chunk, .map = 1, .value = 5u << 20, .body = body };

	f.body_len = body ? (uint32_t)strlen(body) : 0;
	if (conn_send(&t->conn, &f))
		t->over = true;
}

static void hello(struct stranger *t, const char *path, const char *name)
{
	struct hello hello = { .data = 5u << 20, .mode = 0600 };
	char body[FRAME_MAX - FRAME_HEAD];
	struct frame f = { .type = FRAME_HELLO, .value = 5u << 20, .body = body };

	snprintf(hello.path, sizeof(hello.path), "%s", path);
	snprintf(hello.name, sizeof(hello.name), "%s", name);
	f.body_len = (uint32_t)hello_encode(&hello, body, sizeof(body));
	if (conn_send(&t->conn, &f))
		t->over = true;
}

/* Bytes that are no frame; or, if head, frames with one byte that is wrong. */
static void garbage(struct stranger *t, bool head)
{
	struct frame f = { .type = FRAME_OFFER };
	char *buf = t->conn.buffers + (2 * CONN_FRAMES - 1) * FRAME_MAX;
	struct ibv_sge sge = { .addr = (uintptr_t)buf, .lkey = t->conn.mr->lkey };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND }, *bad;
	size_t i;

	wr.wr_id = (2ull << 62) | (CONN_FRAMES - 1);
	for (i = 0; i < FRAME_MAX; i++)
		buf[i] = (char)rand();
	if (head)
		frame_encode(&f, buf, FRAME_MAX);
	buf[head ? 4 : 0] ^= 0x55;
	sge.length = head ? FRAME_HEAD : 1 + (uint32_t)rand() % FRAME_MAX;
	t->over |= ibv_post_send(t->conn.id->qp, &wr, &bad) != 0;
}

static void play_garbage(struct stranger *t)
{
	garbage(t, false);
}

static void play_type(struct stranger *t)
{
	garbage(t, true);
}

static void play_offer(struct stranger *t)
{
	tell(t, FRAME_OFFER, 0, NULL);
}

static void play_way_out(struct stranger *t)
{
	hello(t, "", "../x");
}

static void play_control(struct stranger *t)
{
	hello(t, "none\033[2J/x", "x");
}

static void play_hello(struct stranger *t)
{
	hello(t, "stranger", "x");
}

static int answer_twice(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_WELCOME)
		hello(t, "stranger", "x");
	return 0;
}

static int answer_beyond(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_WELCOME)
		tell(t, FRAME_OFFER, 2, NULL);
	return 0;
}

static int answer_again(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_WELCOME) {
		tell(t, FRAME_OFFER, 0, NULL);
		tell(t, FRAME_OFFER, 0, NULL);
	}
	return 0;
}

static int answer_finish(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_WELCOME)
		tell(t, FRAME_FINISH, 0, NULL);
	return 0;
}

static int answer_nonsense(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_WELCOME)
		tell(t, FRAME_OFFER, 0, NULL);
	if (f->type == FRAME_GRANT)
		tell(t, FRAME_PEER, 0, "nonsense");
	return 0;
}

static const struct scene clients[] = {
	{ "garbage", play_garbage, NULL, "protocol error" },
	{ "type", play_type, NULL, "protocol error" },
	{ "offer first", play_offer, NULL, "protocol error" },
	{ "way out", play_way_out, NULL, "protocol error" },
	{ "control", play_control, NULL, "none?[2J/x: No such file or directory" },
	{ "hello twice", play_hello, answer_twice, "protocol error" },
	{ "beyond", play_hello, answer_beyond, "protocol error" },
	{ "the same again", play_hello, answer_again, "protocol error" },
	{ "finish early", play_hello, answer_finish, "protocol error" },
	{ "no message", play_hello, answer_nonsense, "protocol error" },
};

static int serve_garbage(struct stranger *t, const struct frame *f)
{
	(void)f;
	garbage(t, false);
	return 0;
}

/* Before anything is offered to it. */
static int serve_durable(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_HELLO)
		tell(t, FRAME_WELCOME, 0, NULL);
	tell(t, FRAME_DURABLE, 0, NULL);
	return 0;
}

static int serve_again(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_HELLO)
		tell(t, FRAME_WELCOME, 0, NULL);
	tell(t, FRAME_AGAIN, NO_CHUNK, NULL);
	return 0;
}

static int serve_grant(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_HELLO)
		tell(t, FRAME_WELCOME, 0, NULL);
	if (f->type == FRAME_OFFER)
		tell(t, FRAME_GRANT, f->chunk, "a descriptor");
	return 0;
}

static int serve_sum(struct stranger *t, const struct frame *f)
{
	if (f->type == FRAME_HELLO)
		tell(t, FRAME_WELCOME, 0, NULL);
	if (f->type == FRAME_OFFER)
		tell(t, FRAME_HAVE, f->chunk, NULL);
	if (f->type == FRAME_FINISH)
		tell(t, FRAME_FINISHED, 0, NULL);
	return 0;
}

static int serve_error(struct stranger *t, const struct frame *f)
{
	(void)f;
	tell(t, FRAME_ERROR, 0, "clear\033[2J");
	return 0;
}

static const struct scene servers[] = {
	{ "garbage", NULL, serve_garbage, NULL }, { "durable", NULL, serve_durable, NULL },
	{ "again", NULL, serve_again, NULL },	  { "grant", NULL, serve_grant, NULL },
	{ "sum", NULL, serve_sum, NULL },	  { "error", NULL, serve_error, NULL },
};

static int received(void *arg, const struct frame *f)
{
	struct stranger *t = arg;

	t->last = f->type;
	if (f->type == FRAME_ERROR) {
		snprintf(t->text, sizeof(t->text), "%.*s", (int)f->body_len, (const char *)f->body);
		t->over = true;
	}
	return t->over || !t->scene->answer ? 0 : t->scene->answer(t, f);
}

static void written(void *arg, uint64_t tag, bool ok)
{
	(void)arg;
	(void)tag;
	(void)ok;
}

static void converse(struct stranger *t, struct rdma_event_channel *events)
{
	struct pollfd fds[2] = { { .fd = t->conn.channel->fd, .events = POLLIN },
				 { .fd = events->fd, .events = POLLIN } };
	int i;

	for (i = 0; i < STEPS && !t->over; i++) {
		poll(fds, 2, 25);
		if (conn_poll(&t->conn) || fds[1].revents)
			t->over = true;
	}
	if (!t->over)
		printf("%s: it goes on for ever\n", t->scene->name);
	t->failed |= !t->over;
}

static int client_scene(const struct scene *scene, const char *host, uint16_t port)
{
	struct stranger t = { .scene = scene };
	struct rdma_event_channel *events;
	char why[DIAL_WHY];

	t.conn.received = received;
	t.conn.written = written;
	t.conn.arg = &t;
	if (dial(host, port, &t.conn, &events, why)) {
		printf("%s: %s\n", scene->name, why);
		return 1;
	}
	scene->play(&t);
	converse(&t, events);
	conn_free(&t.conn);
	rdma_destroy_event_channel(events);
	if (!strcmp(t.text, scene->end) && !t.failed)
		return 0;
	printf("%s: '%s', not '%s'\n", scene->name, t.text, scene->end);
	return 1;
}

/* Without a hail, or with that of another version. 0: refused, and in which words. */
static int uninvited(struct sockaddr *addr, const uint8_t *hail, int version)
{
	struct rdma_conn_param param = { .private_data = hail, .private_data_len = hail ? HAIL_BYTES : 0 };
	struct ibv_qp_init_attr init = {
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
	};
	struct rdma_cm_id *id;
	struct hail answer = { .refusal = REFUSAL_NONE };
	int r = -1;

	if (rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP))
		return 1;
	if (!rdma_resolve_addr(id, NULL, addr, 20000) && !rdma_resolve_route(id, 20000) &&
	    !rdma_create_qp(id, NULL, &init) && rdma_connect(id, &param) && id->event)
		r = hail_decode(id->event->param.conn.private_data, id->event->param.conn.private_data_len,
				&answer);
	printf("version %d: %s\n", version,
	       !r && answer.refusal == REFUSAL_VERSION ? "refused" : "not refused");
	rdma_destroy_ep(id);
	return r || answer.refusal != REFUSAL_VERSION;
}

static int client(const char *host, const char *port)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP }, *ai;
	uint8_t hail[HAIL_BYTES];
	int failed = 0;
	size_t i;

	if (rdma_getaddrinfo(host, port, &hints, &ai))
		return 1;
	hail_encode(REFUSAL_NONE, hail);
	hail[4]++;
	failed += uninvited(ai->ai_dst_addr, NULL, 0);
	failed += uninvited(ai->ai_dst_addr, hail, 2);
	rdma_freeaddrinfo(ai);
	for (i = 0; i < sizeof(clients) / sizeof(clients[0]); i++)
		failed += client_scene(&clients[i], host, (uint16_t)atoi(port));
	return failed;
}

static struct rdma_cm_id *next_request(struct rdma_event_channel *events)
{
	struct rdma_cm_event *event;
	struct rdma_cm_id *id = NULL;

	while (!id && !rdma_get_cm_event(events, &event)) {
		if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST)
			id = event->id;
		rdma_ack_cm_event(event);
	}
	return id;
}

static int server_scene(const struct scene *scene, struct rdma_event_channel *events, bool hails)
{
	struct stranger t = { .scene = scene };
	struct rdma_conn_param param = { .retry_count = 7, .rnr_retry_count = 7 };
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;
	int r;

	t.conn.received = received;
	t.conn.written = written;
	t.conn.arg = &t;
	id = next_request(events);
	r = id ? conn_setup(&t.conn, id) : -EIO;
	if (!r)
		r = hails ? conn_accept(&t.conn) : rdma_accept(id, &param);
	if (!r && !rdma_get_cm_event(events, &event)) {
		t.conn.up = event->event == RDMA_CM_EVENT_ESTABLISHED;
		rdma_ack_cm_event(event);
	}
	if (!r)
		converse(&t, events);
	conn_free(&t.conn);
	return r || t.failed;
}

static int server(const char *address, const char *port)
{
	struct rdma_addrinfo hints = { .ai_flags = RAI_PASSIVE, .ai_port_space = RDMA_PS_TCP }, *ai;
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_id *id;
	int failed = 0;
	size_t i;

	if (!events || rdma_getaddrinfo(address, port, &hints, &ai) ||
	    rdma_create_id(events, &id, NULL, RDMA_PS_TCP) || rdma_bind_addr(id, ai->ai_src_addr) ||
	    rdma_listen(id, 1))
		return 1;
	rdma_freeaddrinfo(ai);
	setlinebuf(stdout);
	printf("listening on port %d\n", ntohs(rdma_get_src_port(id)));
	failed += server_scene(&servers[0], events, false);
	for (i = 0; i < sizeof(servers) / sizeof(servers[0]); i++)
		failed += server_scene(&servers[i], events, true);
	rdma_destroy_id(id);
	rdma_destroy_event_channel(events);
	return failed;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	srand(1);
	return (!strcmp(argv[1], "server") ? server : client)(argv[2], argv[3]) ? 1 : 0;
}
