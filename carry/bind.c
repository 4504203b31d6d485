/* SPDX-License-Identifier: BSD-3-Clause */
/* The grants and peers of a carrier: what is due for them, and what came. */
#include <errno.h>
#include <stdlib.h>

#include "carry.h"

static int find(struct pinlease_carry *c, const void *object, struct plc_client ***at)
{
	struct plc_client **p;

	for (p = &c->clients; *p; p = &(*p)->next) {
		if ((*p)->grant == object || (*p)->peer == object) {
			*at = p;
			return 0;
		}
	}
	*at = p;
	return -ENOENT;
}

/* Locked. 0, or what pinlease_grant_descriptor says: -EAGAIN while a break is being answered. */
static int describe(struct pinlease_carry *c, struct plc_client *client)
{
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	int n;

	if (!plc_room(c))
		return -EAGAIN;
	n = pinlease_grant_descriptor(client->grant, buf, sizeof(buf));
	if (n < 0)
		return n;
	client->described = true;
	plc_queue(c, PINLEASE_CARRY_DESCRIPTOR, buf, (size_t)n);
	return 0;
}

static void tell_grant(struct pinlease_carry *c, struct plc_client *client)
{
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	int n;

	/* Too short a file now may be long enough later. */
	if (!client->described && describe(c, client))
		return;
	/* A message is given once: room first. */
	while (plc_room(c) && (n = pinlease_grant_message(client->grant, 0, buf, sizeof(buf))) > 0)
		plc_queue(c, PLC_LEASE, buf, (size_t)n);
}

static int tell_peer(struct pinlease_carry *c, struct plc_client *client)
{
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	int n;

	if (!plc_room(c))
		return 0;
	n = pinlease_peer_answer(client->peer, buf, sizeof(buf));
	if (n > 0)
		plc_queue(c, PLC_LEASE, buf, (size_t)n);
	return n >= 0 || n == -EAGAIN ? 0 : n;
}

int plc_tell(struct pinlease_carry *c)
{
	struct plc_client *client;
	int r = 0;

	for (client = c->clients; client && !r; client = client->next) {
		if (client->grant)
			tell_grant(c, client);
		else
			r = tell_peer(c, client);
	}
	return r;
}

/*
 * -EPROTO means that it is another's. What is nobody's is of one that was deleted, or made up:
 * either way it changes nothing.
 */
void plc_hand_in(struct pinlease_carry *c, const void *buf, size_t len)
{
	struct plc_client *client;
	int r = -EPROTO;

	for (client = c->clients; client && r == -EPROTO; client = client->next)
		r = client->grant ? pinlease_grant_received(client->grant, buf, len) :
				    pinlease_peer_message(client->peer, buf, len);
}

void plc_disconnect(struct pinlease_carry *c)
{
	struct plc_client *client;

	for (client = c->clients; client; client = client->next)
		if (client->grant)
			pinlease_grant_disconnected(client->grant);
}

void plc_forget(struct pinlease_carry *c)
{
	struct plc_client *client;

	while ((client = c->clients)) {
		c->clients = client->next;
		free(client);
	}
}

static int add(struct pinlease_carry *c, struct pinlease_grant *grant, struct pinlease_peer *peer)
{
	struct plc_client *client, **at;
	int r = c->dead;

	if (!r && !find(c, grant ? (const void *)grant : peer, &at))
		r = -EEXIST;
	if (r)
		return r;
	client = calloc(1, sizeof(*client));
	if (!client)
		return -ENOMEM;
	client->grant = grant;
	client->peer = peer;
	if (grant)
		r = describe(c, client);
	if (r && r != -EAGAIN) {
		free(client);
		return r;
	}
	*at = client;
	r = plc_tell(c);
	if (!r)
		r = c->transport->send(c);
	/* Dead by that: it is one of the carrier's, and has been disconnected. */
	return r ? plc_die(c, r) : 0;
}

static int add_locked(struct pinlease_carry *c, struct pinlease_grant *grant, struct pinlease_peer *peer)
{
	int r;

	if (!c || (!grant && !peer))
		return -EINVAL;
	if (c->pid != getpid())
		return -ECHILD;
	pthread_mutex_lock(&c->lock);
	r = add(c, grant, peer);
	pthread_mutex_unlock(&c->lock);
	return r;
}

PLC_API int pinlease_carry_add_grant(struct pinlease_carry *carry, struct pinlease_grant *grant)
{
	return add_locked(carry, grant, NULL);
}

PLC_API int pinlease_carry_add_peer(struct pinlease_carry *carry, struct pinlease_peer *peer)
{
	return add_locked(carry, NULL, peer);
}

static int del(struct pinlease_carry *c, const void *object)
{
	struct plc_client *client, **at;
	int r;

	if (!c || !object)
		return -EINVAL;
	if (c->pid != getpid())
		return -ECHILD;
	pthread_mutex_lock(&c->lock);
	r = find(c, object, &at);
	if (!r) {
		client = *at;
		*at = client->next;
		free(client);
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}

PLC_API int pinlease_carry_del_grant(struct pinlease_carry *carry, struct pinlease_grant *grant)
{
	return del(carry, grant);
}

PLC_API int pinlease_carry_del_peer(struct pinlease_carry *carry, struct pinlease_peer *peer)
{
	return del(carry, peer);
}
