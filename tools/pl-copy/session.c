/* SPDX-License-Identifier: BSD-3-Clause */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

#define OVER_NS (2ull * 1000000000) /* the client ends the connection; if it does not, we do */

static int received(void *arg, const struct frame *f);

/* The receiver writes nothing. */
static void written(void *arg, uint64_t tag, bool ok)
{
	(void)arg;
	(void)tag;
	(void)ok;
}

static void name_peer(struct session *s)
{
	const struct sockaddr *addr = rdma_get_peer_addr(s->conn.id);
	const void *ip = addr->sa_family == AF_INET6
				 ? (const void *)&((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr
				 : (const void *)&((const struct sockaddr_in *)(const void *)addr)->sin_addr;

	if (!inet_ntop(addr->sa_family, ip, s->from, sizeof(s->from)))
		snprintf(s->from, sizeof(s->from), "?");
}

int session_new(struct server *server, struct rdma_cm_id *id)
{
	struct session *s = calloc(1, sizeof(*s));
	int i, r;

	if (!s)
		return -ENOMEM;
	s->server = server;
	s->target.dir = s->target.fd = -1;
	s->target.mask = server->mask;
	for (i = 0; i < (int)WINDOW; i++)
		s->chunk[i].session = s;
	s->conn.received = received;
	s->conn.written = written;
	s->conn.arg = s;
	r = conn_setup(&s->conn, id);
	if (!r) {
		name_peer(s);
		id->context = s;
		r = conn_accept(&s->conn);
	}
	if (r) {
		/* The id is the caller's, to be rejected. */
		id->context = NULL;
		if (id->qp)
			rdma_destroy_qp(id);
		s->conn.id = NULL;
		conn_free(&s->conn);
		free(s);
		return r;
	}
	s->next = server->sessions;
	server->sessions = s;
	server->count++;
	return 0;
}

void session_up(struct session *s)
{
	s->conn.up = true;
}

void session_say(struct session *s, const struct frame *f)
{
	struct pinlease_file_info info = { .size = sizeof(info) };
	struct frame out = *f;

	if (s->target.file && !s->busy && !pinlease_file_info(s->target.file, &info))
		out.breaks = (uint32_t)info.breaks;
	if (conn_send(&s->conn, &out))
		session_end(s);
}

/* Whoever wants the same place next waits for what is left of this one. */
static void over(struct session *s)
{
	s->state = SESSION_OVER;
	s->over_ns = now_ns();
	s->target.leaving = true;
}

void session_fail(struct session *s, const struct trouble *trouble, uint32_t flags)
{
	struct frame f = { .type = FRAME_ERROR,
			   .flags = flags,
			   .status = trouble->err < 0 ? trouble->err : -EIO,
			   .body = trouble->text,
			   .body_len = (uint32_t)strlen(trouble->text) };

	if (s->state == SESSION_OVER)
		return;
	over(s);
	if (!s->server->quiet)
		printf("%s: %s\n", s->from, trouble->text);
	session_say(s, &f);
}

void session_waits(struct session *s, const struct trouble *trouble)
{
	struct frame f = { .type = FRAME_WAITING,
			   .body = trouble->text,
			   .body_len = (uint32_t)strlen(trouble->text) };
	uint64_t now = now_ns();

	if (now - s->told_ns < TELL_NS)
		return;
	s->told_ns = now;
	session_say(s, &f);
}

void session_protocol_error(struct session *s)
{
	struct trouble trouble = { .again = false };

	trouble_say(&trouble, -EPROTO, "protocol error");
	session_fail(s, &trouble, 0);
}

static int protocol_error(struct session *s)
{
	session_protocol_error(s);
	return 0;
}

static void submit(struct session *s, void (*run)(struct job *job), void (*done)(struct job *job))
{
	s->busy = true;
	s->retry_ns = 0;
	s->job = (struct job){ .run = run, .done = done };
	pool_submit(s->server->pool, &s->job);
}

static struct session *session_of(struct job *job)
{
	return (struct session *)((char *)job - offsetof(struct session, job));
}

/* True: to be tried again, at the next tick that is due. */
static bool try_later(struct session *s)
{
	uint64_t now = now_ns();

	if (!s->trouble.again || (s->since_ns && now - s->since_ns > PATIENCE_NS))
		return false;
	if (!s->since_ns)
		s->since_ns = now;
	if (now - s->since_ns > TELL_NS)
		session_waits(s, &s->trouble);
	s->retry_ns = now + RETRY_NS;
	return true;
}

static void open_done(struct job *job)
{
	struct session *s = session_of(job), *other;
	struct frame f = { .type = FRAME_WELCOME, .value = s->target.there };

	s->busy = false;
	if (s->state == SESSION_OVER || s->ending || try_later(s))
		return;
	/* Its last connection is lost, which this side has not heard of yet. */
	for (other = s->server->sessions; s->result == -EALREADY && other; other = other->next)
		if (other != s && !memcmp(other->target.hello.id, s->target.hello.id, 16))
			session_end(other);
	if (s->result) {
		session_fail(s, &s->trouble, s->result == -EALREADY ? FRAME_RETRY : 0);
		return;
	}
	s->since_ns = 0;
	s->state = SESSION_OPEN;
	session_say(s, &f);
}

static int hello(struct session *s, const struct frame *f)
{
	if (s->state != SESSION_NEW || hello_decode(f->body, f->body_len, &s->target.hello) ||
	    f->value > FILE_MAX_SIZE)
		return protocol_error(s);
	s->target.size = f->value;
	s->target.chunks = chunk_count(f->value);
	s->state = SESSION_OPENING;
	submit(s, work_open, open_done);
	return 0;
}

static struct chunk *find(struct session *s, uint64_t index, bool active)
{
	struct chunk *c;

	for (c = s->chunk; c < s->chunk + WINDOW; c++)
		if (active ? c->step != CHUNK_IDLE && c->index == index : c->step == CHUNK_IDLE)
			return c;
	return NULL;
}

static int offer(struct session *s, const struct frame *f)
{
	struct chunk *c = find(s, f->chunk, false);

	if (!c || f->chunk >= s->target.chunks || find(s, f->chunk, true))
		return protocol_error(s);
	chunk_offer(c, f);
	return 0;
}

static void say_again(struct session *s)
{
	struct frame f = { .type = FRAME_AGAIN, .flags = FRAME_WRONG };
	uint32_t i;

	s->state = SESSION_OPEN;
	for (i = 0; i < s->bad_count; i++) {
		f.chunk = s->bad[i];
		if (++s->proof[f.chunk].wrong > WRONG_MAX) {
			trouble_say(&s->trouble, -EILSEQ,
				    "%.80s: checksum mismatch at offset %llu, again and again",
				    s->target.dest, (unsigned long long)(f.chunk * CHUNK_BYTES));
			session_fail(s, &s->trouble, 0);
			return;
		}
		session_say(s, &f);
	}
}

static void check_done(struct job *job)
{
	struct session *s = session_of(job);
	struct frame f = { .type = FRAME_FINISHED };

	s->busy = false;
	if (s->state == SESSION_OVER || s->ending || try_later(s))
		return;
	s->since_ns = 0;
	if (s->result) {
		session_fail(s, &s->trouble, 0);
	} else if (s->bad_count) {
		say_again(s);
	} else {
		s->done = true;
		f.sum = s->total;
		session_say(s, &f);
		over(s);
		if (!s->server->quiet)
			printf("%s: %s: %llu bytes\n", s->from, s->target.dest,
			       (unsigned long long)s->target.size);
	}
}

/* Everything has been offered, and none is on its way. */
static int finish(struct session *s)
{
	uint64_t i;

	for (i = 0; i < WINDOW; i++)
		if (s->chunk[i].step != CHUNK_IDLE)
			return protocol_error(s);
	for (i = 0; i < s->target.chunks; i++)
		if (!s->proof[i].there)
			return protocol_error(s);
	s->state = SESSION_CHECKING;
	submit(s, work_check, check_done);
	return 0;
}

static int received(void *arg, const struct frame *f)
{
	struct session *s = arg;
	struct chunk *c;

	if (s->state == SESSION_OVER)
		return 0;
	if (f->type == FRAME_HELLO)
		return hello(s, f);
	/* What is still said of a chunk that was dropped crossed with AGAIN. */
	c = find(s, f->chunk, true);
	if (s->state == SESSION_CHECKING && f->type == FRAME_PEER)
		return 0;
	if (s->state != SESSION_OPEN)
		return protocol_error(s);
	switch (f->type) {
	case FRAME_OFFER:
		return offer(s, f);
	case FRAME_DONE:
		if (c && c->step == CHUNK_LENT)
			chunk_done(c);
		return 0;
	case FRAME_PEER:
		if (c && (c->step == CHUNK_LENT || c->step == CHUNK_ENDING))
			chunk_message(c, f);
		return 0;
	case FRAME_FINISH:
		return finish(s);
	default:
		return protocol_error(s);
	}
}

void session_poll(struct session *s)
{
	int r = s->ending ? 0 : conn_poll(&s->conn);

	/* It is told, and the connection ends soon, as after any ERROR. */
	if (r == -EPROTO)
		session_protocol_error(s);
	else if (r)
		session_end(s);
}

/* The queue pair goes now, and with it all that the sender could still write. */
void session_end(struct session *s)
{
	int i;

	if (s->ending)
		return;
	s->ending = true;
	if (!s->done && s->state != SESSION_OVER && s->state != SESSION_NEW && !s->server->quiet)
		printf("%s: %s: connection lost\n", s->from, s->target.dest);
	over(s);
	s->conn.lost = true;
	for (i = 0; i < (int)WINDOW; i++)
		if (s->chunk[i].grant)
			pinlease_grant_disconnected(s->chunk[i].grant);
}

static void close_done(struct job *job)
{
	struct session *s = session_of(job);

	s->busy = false;
	s->over_ns = 0;
}

/* What is left of a session that ends: jobs, then leases and the file, on a thread of the pool. */
static void wind_up(struct session *s)
{
	int i;

	if (s->busy || !s->over_ns)
		return;
	for (i = 0; i < (int)WINDOW; i++)
		if (s->chunk[i].busy)
			return;
	conn_cut(&s->conn);
	for (i = 0; i < (int)WINDOW; i++)
		chunk_forget(&s->chunk[i]);
	submit(s, work_close, close_done);
}

void session_tick(struct session *s)
{
	uint64_t now = now_ns();
	int i;

	if (s->state == SESSION_OVER && !s->ending && now - s->over_ns > OVER_NS)
		session_end(s);
	if (!s->ending && conn_tick(&s->conn))
		session_end(s);
	if (s->ending) {
		wind_up(s);
		return;
	}
	for (i = 0; i < (int)WINDOW && s->state == SESSION_OPEN; i++)
		chunk_tick(&s->chunk[i]);
	if (!s->busy && s->retry_ns && now >= s->retry_ns) {
		if (s->state == SESSION_OPENING)
			submit(s, work_open, open_done);
		else if (s->state == SESSION_CHECKING)
			submit(s, work_check, check_done);
	}
}

bool session_is_over(const struct session *s)
{
	return s->ending && !s->busy && !s->over_ns;
}

void session_free(struct session *s)
{
	conn_free(&s->conn);
	free(s->proof);
	free(s);
}
