/* SPDX-License-Identifier: BSD-3-Clause */
/* The sender's loop, and what it makes of what the receiver says. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "slot.h"

#define TICK_MS 100

int sender_fatal(struct sender *s, const char *what, const char *why)
{
	snprintf(s->copy->counts.error, sizeof(s->copy->counts.error), "%.120s: %.120s", what, why);
	s->over = true;
	return -ECANCELED;
}

int sender_tell(struct sender *s, const struct frame *f)
{
	return conn_send(s->conn, f) ? -ECONNRESET : 0;
}

static struct slot *find(struct sender *s, uint64_t index, bool active)
{
	struct slot *slot;

	for (slot = s->slot; slot < s->slot + s->window; slot++)
		if (active ? slot->step != SLOT_IDLE && slot->index == index : slot->step == SLOT_IDLE)
			return slot;
	return NULL;
}

/* All is there: the receiver looks at it once more as a whole, and gives it its name. */
static int finish(struct sender *s)
{
	struct frame f = { .type = FRAME_FINISH };

	if (source_changed(&s->copy->source))
		return sender_fatal(s, s->copy->options->file, "was changed while it was copied");
	if (sum_total(&s->copy->known->sum, sizeof(*s->copy->known), s->copy->source.chunks,
		      &s->copy->counts.sum))
		return sender_fatal(s, "checksum", strerror(ENOMEM));
	s->finishing = true;
	s->state = "checking";
	return sender_tell(s, &f);
}

static int go_on(struct sender *s)
{
	struct slot *slot;
	int r = 0;

	while (!r && s->redo_count && (slot = find(s, 0, false)))
		r = slot_start(slot, s->redo[--s->redo_count]);
	while (!r && s->next < s->copy->source.chunks && (slot = find(s, 0, false)))
		r = slot_start(slot, s->next++);
	if (!r && s->confirmed == s->copy->source.chunks && !s->finishing)
		r = finish(s);
	return r;
}

/* Bytes of a chunk that are no holes. */
static uint64_t mapped_bytes(uint64_t len, uint64_t map)
{
	uint64_t sum = 0, at;

	for (at = 0; at < len; at += BLOCK_BYTES)
		if (map & 1ull << at / BLOCK_BYTES)
			sum += len - at < BLOCK_BYTES ? len - at : BLOCK_BYTES;
	return sum;
}

static int confirmed(struct sender *s, struct slot *slot, bool was_there)
{
	struct counts *counts = &s->copy->counts;
	struct known *known = &s->copy->known[slot->index];
	uint64_t len = chunk_len(s->copy->source.size, slot->index), mapped = mapped_bytes(len, slot->map);

	slot_detach(slot);
	slot->step = SLOT_IDLE;
	known->confirmed = counts->connections;
	known->was_there = was_there;
	s->confirmed++;
	s->copy->moved_ns = now_ns();
	s->state = "";
	counts->done += len;
	counts->holes += len - mapped;
	if (was_there)
		counts->there += mapped;
	else
		counts->sent += mapped;
	return go_on(s);
}

/* It was thought to be there. */
static void uncount(struct sender *s, uint64_t chunk)
{
	struct counts *counts = &s->copy->counts;
	struct known *known = &s->copy->known[chunk];
	uint64_t len = chunk_len(s->copy->source.size, chunk), mapped = mapped_bytes(len, known->map);

	known->confirmed = 0;
	s->confirmed--;
	counts->done -= len;
	counts->holes -= len - mapped;
	if (known->was_there)
		counts->there -= mapped;
	else
		counts->sent -= mapped;
}

static int again(struct sender *s, struct slot *slot, const struct frame *f)
{
	struct known *known = &s->copy->known[f->chunk];

	s->copy->counts.again++;
	if (f->flags & FRAME_WRONG) {
		s->copy->counts.wrong++;
		known->wrong = true;
		say("%s: checksum mismatch at offset %llu: sent again", s->copy->options->to,
		    (unsigned long long)(f->chunk * CHUNK_BYTES));
	}
	if (slot) {
		/* Its lease was lost under them: they may land anywhere in time, only the connection's end is
		 * one. */
		if (slot->in_flight)
			return -ECONNRESET;
		slot_detach(slot);
		return slot->step == SLOT_READING ? 0 : slot_offer(slot);
	}
	if (known->confirmed != s->copy->counts.connections || s->redo_count == WINDOW)
		return -EPROTO;
	s->finishing = false;
	uncount(s, f->chunk);
	s->redo[s->redo_count++] = f->chunk;
	return go_on(s);
}

static int refused(struct sender *s, const struct frame *f)
{
	char text[256];

	if (f->flags & FRAME_RETRY)
		return -ECONNRESET;
	frame_text(f->body, f->body_len, text, sizeof(text));
	return sender_fatal(s, s->copy->options->host, text);
}

static int finished(struct sender *s, const struct frame *f)
{
	struct counts *counts = &s->copy->counts;

	if (!s->finishing)
		return -EPROTO;
	if (!sum_equal(&f->sum, &counts->sum))
		return sender_fatal(s, s->copy->options->to, "checksum mismatch");
	s->finished = s->over = counts->summed = true;
	return 0;
}

static int waits(struct sender *s, const struct frame *f)
{
	char text[256];

	frame_text(f->body, f->body_len, text, sizeof(text));
	if (!*s->state && !s->copy->options->quiet)
		say("%s; waiting", text);
	s->state = "waiting";
	return 0;
}

static int received_of(struct sender *s, struct slot *slot, const struct frame *f)
{
	switch (f->type) {
	case FRAME_GRANT:
		return slot ? slot_granted(slot, f) : -EPROTO;
	case FRAME_PEER:
		return slot ? slot_message(slot, f) : 0;
	case FRAME_HAVE:
		return slot && slot->step == SLOT_OFFERED && !slot->peer ? confirmed(s, slot, true) : -EPROTO;
	case FRAME_DURABLE:
		return slot && slot->step == SLOT_WRITTEN ? confirmed(s, slot, false) : -EPROTO;
	case FRAME_AGAIN:
		return f->chunk < s->copy->source.chunks ? again(s, slot, f) : -EPROTO;
	default:
		return -EPROTO;
	}
}

static int received(void *arg, const struct frame *f)
{
	struct sender *s = arg;

	if (s->over)
		return 0;
	if (f->breaks > s->copy->counts.breaks_here) {
		s->copy->counts.breaks += f->breaks - s->copy->counts.breaks_here;
		s->copy->counts.breaks_here = f->breaks;
	}
	switch (f->type) {
	case FRAME_WELCOME:
		if (s->welcome)
			return -EPROTO;
		s->welcome = true;
		s->state = "";
		return go_on(s);
	case FRAME_ERROR:
		return refused(s, f);
	case FRAME_WAITING:
		return waits(s, f);
	case FRAME_FINISHED:
		return finished(s, f);
	default:
		return received_of(s, find(s, f->chunk, true), f);
	}
}

void sender_callbacks(struct conn *conn)
{
	conn->received = received;
	conn->written = slots_written;
}

/* Fewer chunks at a time, if RLIMIT_MEMLOCK allows no more. */
static int register_buffers(struct sender *s)
{
	for (s->window = WINDOW; s->window; s->window /= 2) {
		s->mr = ibv_reg_mr(s->conn->pd, s->copy->buffers, (size_t)s->window * CHUNK_BYTES,
				   IBV_ACCESS_LOCAL_WRITE);
		if (s->mr)
			return 0;
	}
	return sender_fatal(s, "registering memory",
			    errno == ENOMEM ? "more than RLIMIT_MEMLOCK allows (ulimit -l)"
					    : strerror(errno));
}

static int say_hello(struct sender *s)
{
	char body[FRAME_MAX - FRAME_HEAD];
	struct frame f = { .type = FRAME_HELLO, .value = s->copy->source.size, .body = body };
	int n = hello_encode(&s->copy->hello, body, sizeof(body));

	if (n < 0)
		return sender_fatal(s, s->copy->options->to, "the name is too long");
	f.body_len = (uint32_t)n;
	return sender_tell(s, &f);
}

/* Anything of the connection's own now is its end. */
static int cm_event(struct rdma_event_channel *events)
{
	struct rdma_cm_event *event;
	bool ends = false;

	while (!rdma_get_cm_event(events, &event)) {
		ends |= event->event != RDMA_CM_EVENT_TIMEWAIT_EXIT;
		rdma_ack_cm_event(event);
	}
	return ends ? -ECONNRESET : 0;
}

static int loop(struct sender *s, struct rdma_event_channel *events)
{
	struct pollfd fds[3] = { { .fd = s->conn->channel->fd, .events = POLLIN },
				 { .fd = pool_fd(s->copy->pool), .events = POLLIN },
				 { .fd = events->fd, .events = POLLIN } };
	int r = 0;

	while (!r && !s->over) {
		if (poll(fds, 3, TICK_MS) < 0 && errno != EINTR)
			return -errno;
		if (copy_interrupted())
			return -EINTR;
		r = conn_poll(s->conn);
		if (!r)
			pool_collect(s->copy->pool);
		if (!r && !s->over)
			r = slots_pump(s);
		/* Last: what was said before the end is heard. */
		if (!r && !s->over && fds[2].revents)
			r = cm_event(events);
		if (!r && !s->over)
			r = conn_tick(s->conn);
		if (!r && s->conn->lost)
			r = -ECONNRESET;
		progress_show(&s->copy->counts, s->state);
	}
	return s->over ? 0 : r;
}

static void clean_up(struct sender *s)
{
	struct pollfd fd = { .fd = pool_fd(s->copy->pool), .events = POLLIN };
	uint32_t i;

	s->over = true;
	conn_cut(s->conn);
	for (i = 0; i < WINDOW; i++) {
		while (s->slot[i].busy) {
			poll(&fd, 1, TICK_MS);
			pool_collect(s->copy->pool);
		}
		slot_detach(&s->slot[i]);
	}
	if (s->mr)
		ibv_dereg_mr(s->mr);
}

int sender_run(struct copy *copy, struct conn *conn, struct rdma_event_channel *events)
{
	struct sender *s = calloc(1, sizeof(*s));
	uint32_t i;
	int r;

	if (!s)
		return -ENOMEM;
	s->copy = copy;
	s->conn = conn;
	s->state = "";
	conn->arg = s;
	copy->counts.done = copy->counts.there = copy->counts.sent = copy->counts.holes = 0;
	copy->counts.breaks_here = 0;
	copy->counts.connected_ns = now_ns();
	for (i = 0; i < WINDOW; i++) {
		s->slot[i].sender = s;
		s->slot[i].buf = copy->buffers + (size_t)i * CHUNK_BYTES;
	}
	r = register_buffers(s);
	if (!r)
		r = say_hello(s);
	if (!r)
		r = loop(s, events);
	if (r == -EPROTO)
		sender_fatal(s, copy->options->host, "protocol error");
	if (*copy->counts.error)
		r = -ECANCELED;
	else if (!s->finished)
		r = -ECONNRESET;
	clean_up(s);
	free(s);
	return r;
}
