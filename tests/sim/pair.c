/* SPDX-License-Identifier: BSD-3-Clause */
#include "pair.h"

unsigned char pair_buf[PINLEASE_MESSAGE_MAX];

struct pair pair_new(struct pinlease *lease, uint64_t off, uint64_t len)
{
	const struct pinlease_grant_opts o = { .size = sizeof(o), .off = off, .len = len };
	struct pair p = { .grant = NULL };
	int n;

	assert_int_equal(pinlease_grant_new(lease, &o, &p.grant), 0);
	n = pinlease_grant_descriptor(p.grant, pair_buf, sizeof(pair_buf));
	assert_int_equal(n, 64);
	assert_int_equal(pinlease_peer_attach(pair_buf, (size_t)n, &p.peer), 0);
	return p;
}

void pair_free(struct pair *p)
{
	assert_int_equal(pinlease_peer_detach(p->peer), 0);
	assert_int_equal(pinlease_grant_free(p->grant), 0);
}

int pair_tell(struct pair *p, uint32_t flags, int *ret)
{
	int n = pinlease_grant_message(p->grant, flags, pair_buf, sizeof(pair_buf));

	assert_true(n >= 0);
	*ret = n ? pinlease_peer_message(p->peer, pair_buf, (size_t)n) : 0;
	return n;
}

int pair_answer(struct pair *p)
{
	int n = pinlease_peer_answer(p->peer, pair_buf, sizeof(pair_buf));

	assert_true(n > 0);
	return pinlease_grant_received(p->grant, pair_buf, (size_t)n);
}

void pair_recall(struct pair *p)
{
	int r;

	assert_int_equal(pair_tell(p, 0, &r), 40);
	assert_int_equal(r, 1);
	assert_int_equal(pair_tell(p, 0, &r), 0);
}
