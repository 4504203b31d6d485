/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Messages between owner and peer. Decoding: any bytes are one message, which encodes to the
 * same bytes, or -EPROTO. The peer's state machine: calls and messages in any order, beside a
 * second account of what it may do and must answer. The owner: hears what the peer says,
 * whole or spoilt, about a real grant. And the frames that all this comes in (fuzz_frames.h).
 *
 * An input: a byte for what, then a byte for each step, with what belongs to it.
 */
#include <errno.h>
#include <stdbool.h>

#include <pinlease/peers.h>

#include "fuzz_frames.h"
#include "wire.h"

#define GRANT_BYTES 8192u

static struct fuzz_sim world;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	world = fuzz_sim_make();
	return 0;
}

static void decode(const uint8_t *data, size_t len)
{
	unsigned char again[PL_WIRE_MAX];
	struct pl_wire w, untouched;
	/* Of its own length: a byte beyond is seen. */
	unsigned char *p = malloc(len ? len : 1);
	int r;

	fuzz_require(p);
	memcpy(p, data, len);
	memset(&w, 0x5a, sizeof(w));
	untouched = w;
	r = pl_wire_decode(p, len, &w);
	fuzz_require(!r || r == -EPROTO);
	if (r) {
		fuzz_require(!memcmp(&w, &untouched, sizeof(w)));
	} else {
		r = pl_wire_encode(&w, again, sizeof(again));
		fuzz_require(r == (int)len && !memcmp(again, p, len));
		fuzz_require(pl_wire_encode(&w, again, len - 1) == -ENOSPC);
	}
	free(p);
}

/* What the peer is known to have done: the account beside its own. */
struct known {
	struct pinlease_peer *peer;
	struct pinlease_grant *grant;
	uint32_t gen;
	uint64_t len;
	uint32_t access;
	uint32_t flying[4]; /* operations by generation, modulo 4 */
	bool recalled, gone, returned;
	bool failed;
	uint64_t from, to; /* written in this generation: at least so far down, and up */
};

static struct pl_wire some_message(struct fuzz_input *in, const struct known *k)
{
	uint8_t how = fuzz_byte(in);
	struct pl_wire w = { .type = how % 7,
			     .gen = k->gen + (how >> 3 & 3),
			     .lease = 3,
			     .grant = 4,
			     .addr = 0x10000,
			     .len = GRANT_BYTES,
			     .rkey = 7,
			     .access = PINLEASE_WRITE,
			     .align = 64 };

	if (how & 0x20)
		w.gen = k->gen - 1;
	if (how & 0x40)
		w.lease++;
	if (how & 0x80) {
		w.len = fuzz_int(in, 2) + 1;
		w.access = 1 + (fuzz_byte(in) & 1);
	}
	return w;
}

/* The message as it is, or with one byte of it changed, or cut off. */
static int spoil(struct fuzz_input *in, const struct pl_wire *w, unsigned char *buf, bool *spoilt)
{
	uint8_t how = fuzz_byte(in);
	int n = w->type >= 1 && w->type <= 5 ? pl_wire_encode(w, buf, PL_WIRE_MAX) : 0;

	*spoilt = how & 1;
	if (!*spoilt || !n)
		return n;
	if (how & 2)
		return (int)(fuzz_byte(in) % (unsigned int)n);
	buf[fuzz_byte(in) % (unsigned int)n] ^= (unsigned char)(1 + fuzz_byte(in) % 255);
	return n;
}

static void adopt(struct known *k, const struct pl_wire *w)
{
	k->gen = w->gen;
	k->len = w->len;
	k->access = w->access;
	k->recalled = k->returned = k->failed = false;
	k->flying[k->gen % 4] = 0;
	k->from = UINT64_MAX;
	k->to = 0;
}

static void step_message(struct fuzz_input *in, struct known *k)
{
	struct pl_wire w = some_message(in, k);
	unsigned char buf[PL_WIRE_MAX];
	bool spoilt;
	int n = spoil(in, &w, buf, &spoilt), r;

	/* What is meant by it now. */
	if (pl_wire_decode(buf, (size_t)n, &w)) {
		fuzz_require(pinlease_peer_message(k->peer, buf, (size_t)n) == -EPROTO);
		return;
	}
	r = pinlease_peer_message(k->peer, buf, (size_t)n);
	fuzz_require(r == 0 || r == 1 || r == -EPROTO || r == -ESTALE);
	if (w.lease != 3 || w.grant != 4)
		fuzz_require(r == -EPROTO);
	if (r < 0)
		return;
	fuzz_require(!k->gone);
	if (w.type == PL_WIRE_RECALL) {
		fuzz_require(r == 1 && w.gen == k->gen);
		k->recalled = true;
		k->returned = false;
	} else if (w.type == PL_WIRE_RESTORED) {
		fuzz_require(!r && (int32_t)(w.gen - k->gen) > 0);
		adopt(k, &w);
	} else {
		fuzz_require(!r && w.type == PL_WIRE_GONE);
		k->gone = true;
	}
}

static void step_begin(struct fuzz_input *in, struct known *k)
{
	struct pinlease_peer_key key = { .size = sizeof(key) };
	uint32_t access = fuzz_byte(in) % 4;
	uint64_t off = fuzz_int(in, 2), len = fuzz_int(in, 2);
	int r, want = 0;

	if (off & 0x8000)
		off <<= 48;
	if (len & 0x8000)
		len <<= 48;
	r = pinlease_peer_begin(k->peer, access, off, len, &key);
	if (!len || !access || access > PINLEASE_WRITE)
		want = -EINVAL;
	else if (k->gone)
		want = -ESTALE;
	else if (k->recalled)
		want = -EAGAIN;
	else if (access > k->access)
		want = -EACCES;
	else if (off > k->len || len > k->len - off)
		want = -ERANGE;
	fuzz_require(r == want);
	if (r)
		return;
	fuzz_require(key.gen == k->gen);
	k->flying[k->gen % 4]++;
	if (access != PINLEASE_WRITE)
		return;
	k->from = off < k->from ? off : k->from;
	k->to = off + len > k->to ? off + len : k->to;
}

static void step_end(struct fuzz_input *in, struct known *k)
{
	uint8_t how = fuzz_byte(in);
	bool mine = !(how & 2), ok = !(how & 1);
	uint32_t *flying = &k->flying[k->gen % 4];
	int r = pinlease_peer_end(k->peer, mine ? k->gen : k->gen - 1, ok);

	fuzz_require(r == (mine && *flying == 1 && k->recalled && !k->returned && !k->gone));
	if (!mine || !*flying)
		return;
	*flying -= 1;
	k->failed |= !ok;
}

/* What was written is in the answer: all of it lies between its first and last range. */
static void answer_holds(const struct known *k, const struct pl_wire *w)
{
	uint32_t i;

	fuzz_require(w->type == PL_WIRE_RETURNED && w->gen == k->gen && w->lease == 3 && w->grant == 4);
	fuzz_require((w->count > 0) == (k->to > 0));
	if (!w->count)
		return;
	fuzz_require(w->range[0].off == k->from);
	fuzz_require(w->range[w->count - 1].off + w->range[w->count - 1].len == k->to);
	for (i = 1; i < w->count; i++)
		fuzz_require(w->range[i].off > w->range[i - 1].off + w->range[i - 1].len);
}

static void step_answer(struct fuzz_input *in, struct known *k)
{
	unsigned char buf[PL_WIRE_MAX];
	size_t cap = fuzz_byte(in) & 1 ? sizeof(buf) : fuzz_byte(in);
	struct pl_wire w;
	int r = pinlease_peer_answer(k->peer, buf, cap);

	if (!k->recalled || k->returned || k->gone) {
		fuzz_require(r == 0);
	} else if (k->flying[k->gen % 4]) {
		fuzz_require(r == -EAGAIN);
	} else if (k->failed) {
		fuzz_require(r == -EIO);
	} else if (r != -ENOSPC) {
		fuzz_require(r > 0 && (size_t)r <= cap && !pl_wire_decode(buf, (size_t)r, &w));
		answer_holds(k, &w);
		k->returned = true;
	}
}

/* The owner hears of its own grant: the ids and the generation are real, or as spoilt as the rest. */
static void step_owner(struct fuzz_input *in, struct known *k)
{
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	struct pl_wire w;
	bool spoilt;
	int n = pinlease_grant_descriptor(k->grant, buf, sizeof(buf)), r;
	uint32_t i, count = fuzz_byte(in) % 4;

	fuzz_require(n > 0 && !pl_wire_decode(buf, (size_t)n, &w));
	w = (struct pl_wire){ .type = PL_WIRE_RETURNED, .gen = w.gen, .lease = w.lease, .grant = w.grant };
	for (i = 0; i < count; i++)
		w.range[w.count++] =
			(struct pl_wire_range){ .off = fuzz_int(in, 3), .len = fuzz_int(in, 3) + 1 };
	n = spoil(in, &w, buf, &spoilt);
	r = pinlease_grant_received(k->grant, buf, (size_t)n);
	fuzz_require(r == 0 || r == -EPROTO || r == -ESTALE);
	for (i = 0; i < count && !spoilt; i++)
		if (w.range[i].off + w.range[i].len > GRANT_BYTES)
			fuzz_require(r == -EPROTO);
}

static void machine(struct fuzz_input *in)
{
	static void (*const steps[])(struct fuzz_input * in, struct known * k) = {
		step_message, step_begin, step_end, step_answer, step_owner,
	};
	const struct pinlease_grant_opts o = { .size = sizeof(o), .len = GRANT_BYTES };
	struct pl_wire w = { .type = PL_WIRE_GRANT,
			     .gen = (uint32_t)fuzz_int(in, 4),
			     .lease = 3,
			     .grant = 4,
			     .addr = 0x10000,
			     .len = GRANT_BYTES,
			     .access = PINLEASE_WRITE,
			     .align = 1 };
	struct known k = { .gone = false };
	unsigned char buf[PL_WIRE_MAX];
	int n = pl_wire_encode(&w, buf, sizeof(buf));

	adopt(&k, &w);
	fuzz_require(!pinlease_peer_attach(buf, (size_t)n, &k.peer));
	fuzz_require(!pinlease_grant_new(world.lease, &o, &k.grant));
	while (in->at < in->end)
		steps[fuzz_byte(in) % 5](in, &k);
	if (k.flying[k.gen % 4])
		fuzz_require(pinlease_peer_detach(k.peer) == -EBUSY);
	for (; k.flying[k.gen % 4]; k.flying[k.gen % 4]--)
		pinlease_peer_end(k.peer, k.gen, 1);
	fuzz_require(!pinlease_peer_detach(k.peer));
	fuzz_require(!pinlease_grant_disconnected(k.grant));
	fuzz_require(!pinlease_grant_free(k.grant));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fuzz_input in = { .at = data, .end = data + len };

	switch (fuzz_byte(&in) % 4) {
	case 0:
		decode(in.at, (size_t)(in.end - in.at));
		break;
	case 1:
		machine(&in);
		break;
	case 2:
		fuzz_carrier(&in, world.lease);
		break;
	default:
		fuzz_copy(in.at, (size_t)(in.end - in.at));
		break;
	}
	return 0;
}
