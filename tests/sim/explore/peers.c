/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Peers with a grant: what they are told they answer, some soon, some late. As long as one has not
 * answered its grant is in flight, for the invariants as for the library.
 */
#include <pinlease/peers.h>

#include "app.h"
#include "wire.h"

static struct peer {
	struct pinlease_grant *grant;
	struct pinlease_peer *peer;
	struct x_dice dice;
	uint32_t gen;
	bool out;
} peers[X_LEASES];

/* No step since the library has said so: the generation is still that one. */
static void peer_out(uint32_t i)
{
	peers[i].gen = x_props_gen(i);
	peers[i].out = true;
	x_props_grant(i, peers[i].gen, true);
}

void x_peer_new(uint32_t i)
{
	struct pinlease_grant_opts o = { .size = sizeof(o) };
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	struct peer *p = &peers[i];
	int len;

	if (p->grant || pinlease_grant_new(x_world.lease[i], &o, &p->grant))
		return;
	p->dice.state = x_plan.seed * 3 + i;
	len = pinlease_grant_descriptor(p->grant, buf, sizeof(buf));
	if (len > 0)
		peer_out(i);
	if (len > 0 && !pinlease_peer_attach(buf, (size_t)len, &p->peer))
		return;
	pinlease_grant_free(p->grant);
	p->grant = NULL;
}

/* The way of a message: told, carried, answered, carried back. */
void x_peer_event(uint32_t i, const struct pinlease_event *ev)
{
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	struct peer *p = &peers[i];
	struct pl_wire told;
	int len;

	if (!p->peer || ev->type == PINLEASE_EV_NOTICE)
		return;
	len = pinlease_grant_message(p->grant, 0, buf, sizeof(buf));
	if (len > 0 && !pl_wire_decode(buf, (size_t)len, &told) && told.type == PL_WIRE_RESTORED)
		peer_out(i);
	if (len <= 0 || pinlease_peer_message(p->peer, buf, (size_t)len) != 1)
		return;
	if (x_roll(&p->dice, 3))
		x_sleep(x_roll(&p->dice, 200) * 1000);
	len = pinlease_peer_answer(p->peer, buf, sizeof(buf));
	if (len <= 0)
		return;
	if (p->out)
		x_props_grant(i, p->gen, false);
	p->out = false;
	pinlease_grant_received(p->grant, buf, (size_t)len);
	x_result->count[X_RETURN]++;
}

void x_peer_end(uint32_t i)
{
	struct peer *p = &peers[i];

	if (!p->grant)
		return;
	if (p->out)
		x_props_grant(i, p->gen, false);
	pinlease_peer_detach(p->peer);
	pinlease_grant_free(p->grant);
	*p = (struct peer){ .grant = NULL };
}
