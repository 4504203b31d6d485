/* SPDX-License-Identifier: BSD-3-Clause */
/* What both carriers have in common: making and freeing, sending and receiving, time. */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "carry.h"

uint64_t plc_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A structure as pinlease.h has them: 0, -EINVAL or -E2BIG. */
static int opts_in(const struct pinlease_carry_opts *opts, struct pinlease_carry_opts *o)
{
	const unsigned char *bytes = (const unsigned char *)opts;
	size_t i;

	*o = (struct pinlease_carry_opts){ .size = sizeof(*o) };
	if (!opts)
		return 0;
	if (opts->size < sizeof(*o) || opts->size > 4096)
		return -EINVAL;
	for (i = sizeof(*o); i < opts->size; i++)
		if (bytes[i])
			return -E2BIG;
	*o = *opts;
	return o->flags ? -EINVAL : 0;
}

int plc_new(const struct pinlease_carry_opts *opts, const struct plc_transport *transport,
	    struct pinlease_carry **carry)
{
	struct pinlease_carry_opts o;
	struct pinlease_carry *c;
	int r = opts_in(opts, &o);

	if (r)
		return r;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->pid = getpid();
	c->timeout_ns = (uint64_t)(o.timeout_ms ? o.timeout_ms : PLC_TIMEOUT_MS) * PLC_NS_PER_MS;
	c->transport = transport;
	c->sock = -1;
	*carry = c;
	return 0;
}

void plc_free(struct pinlease_carry *c)
{
	plc_forget(c);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int plc_die(struct pinlease_carry *c, int r)
{
	if (!c->dead) {
		c->dead = r;
		plc_disconnect(c);
	}
	return c->dead;
}

/* A child has neither the socket's peer nor the device: its copy is memory. */
PLC_API int pinlease_carry_free(struct pinlease_carry *carry)
{
	int r;

	if (!carry)
		return 0;
	if (carry->pid == getpid()) {
		r = carry->transport->free(carry);
		if (r)
			return r;
		pthread_mutex_lock(&carry->lock);
		plc_die(carry, -ECONNRESET);
		pthread_mutex_unlock(&carry->lock);
	}
	plc_free(carry);
	return 0;
}

/* Of the two things that must not take longer, the one that is over first; 0: neither is under way. */
static uint64_t overdue_at(const struct pinlease_carry *c)
{
	uint64_t since = c->out_since;

	if (c->in_since && (!since || c->in_since < since))
		since = c->in_since;
	return since ? since + c->timeout_ns : 0;
}

static uint64_t ends_at(const struct pinlease_carry *c)
{
	uint64_t at = overdue_at(c);

	return at && at == c->late ? c->late_until : at;
}

/*
 * A process that was stopped comes back to a clock that has gone on, and to completions and bytes that are
 * there and that it has yet to hand in. So what is overdue has a while more from when that is noticed.
 */
static bool is_over(struct pinlease_carry *c)
{
	uint64_t at = overdue_at(c), now = plc_now();

	if (!at || now < at)
		return false;
	if (c->late != at) {
		c->late = at;
		c->late_until = now + c->timeout_ns / PLC_LATE;
	}
	return now >= c->late_until;
}

/* Locked. 0, or why the carrier is dead. */
static int push(struct pinlease_carry *c)
{
	int r = plc_tell(c);

	if (!r)
		r = c->transport->send(c);
	return !r && is_over(c) ? -ETIMEDOUT : r;
}

static int enter(struct pinlease_carry *c)
{
	int r;

	if (c->pid != getpid())
		return -ECHILD;
	pthread_mutex_lock(&c->lock);
	r = c->dead;
	if (r)
		pthread_mutex_unlock(&c->lock);
	return r;
}

static int leave(struct pinlease_carry *c, int r)
{
	if (r < 0)
		r = plc_die(c, r);
	pthread_mutex_unlock(&c->lock);
	return r;
}

PLC_API int pinlease_carry_tell(struct pinlease_carry *carry)
{
	int r;

	if (!carry)
		return -EINVAL;
	r = enter(carry);
	return r ? r : leave(carry, push(carry));
}

PLC_API int pinlease_carry_send(struct pinlease_carry *carry, const void *buf, size_t len)
{
	int r;

	if (!carry || !buf || !len)
		return -EINVAL;
	if (len > PINLEASE_CARRY_MAX)
		return -EMSGSIZE;
	r = enter(carry);
	if (r)
		return r;
	if (carry->mr && !carry->qp)
		r = -ENOTCONN;
	else if (plc_room(carry) <= PLC_RESERVED)
		r = -ENOBUFS;
	if (r) {
		pthread_mutex_unlock(&carry->lock);
		return r;
	}
	plc_queue(carry, PINLEASE_CARRY_MESSAGE, buf, len);
	return leave(carry, push(carry));
}

/* Locked. What is for the application: its bytes and kind; 0: nothing; or why the carrier is dead. */
static int take(struct pinlease_carry *c, void *buf, uint32_t *kind)
{
	const unsigned char *frame;
	uint32_t len, i;
	int r;

	c->more = false;
	for (i = 0; i < PLC_BURST; i++) {
		r = c->transport->recv(c, &frame, &len);
		if (r <= 0)
			return r;
		if (plc_frame_kind(frame) != PLC_LEASE) {
			memcpy(buf, frame + PLC_HEAD, len - PLC_HEAD);
			*kind = plc_frame_kind(frame);
			return (int)(len - PLC_HEAD);
		}
		plc_hand_in(c, frame + PLC_HEAD, len - PLC_HEAD);
	}
	c->more = true;
	return 0;
}

PLC_API int pinlease_carry_recv(struct pinlease_carry *carry, void *buf, size_t cap, uint32_t *kind)
{
	int r, got;

	if (!carry || !buf || !kind || cap < PINLEASE_CARRY_MAX)
		return -EINVAL;
	r = enter(carry);
	if (r)
		return r;
	got = take(carry, buf, kind);
	/* What came may have made something due. */
	if (got >= 0)
		r = push(carry);
	return leave(carry, r ? r : got);
}

PLC_API int pinlease_carry_fd(const struct pinlease_carry *carry)
{
	return carry ? carry->transport->fd(carry) : -EINVAL;
}

PLC_API int pinlease_carry_events(struct pinlease_carry *carry)
{
	int r;

	if (!carry)
		return -EINVAL;
	r = enter(carry);
	if (r)
		return r;
	/* Of a queue pair the completions say when there is room. */
	r = carry->sock >= 0 && carry->head != carry->tail ? POLLIN | POLLOUT : POLLIN;
	pthread_mutex_unlock(&carry->lock);
	return r;
}

PLC_API int pinlease_carry_timeout(struct pinlease_carry *carry)
{
	uint64_t at, now, ms;
	int r;

	if (!carry)
		return -EINVAL;
	r = enter(carry);
	if (r)
		return r == -ECHILD ? r : 0;
	at = ends_at(carry);
	now = plc_now();
	if (carry->more || (at && at <= now))
		r = 0;
	else if (!at)
		r = -1;
	else
		r = (ms = (at - now) / PLC_NS_PER_MS + 1) > INT32_MAX ? INT32_MAX : (int)ms;
	pthread_mutex_unlock(&carry->lock);
	return r;
}
