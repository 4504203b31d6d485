/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames. A carrier's: any bytes, in pieces of any size, are read here a second time, and the carrier hands
 * on the same messages, takes its own for itself, and is dead from the first frame that is none. pl-copy's:
 * what is decoded encodes to the same bytes, a name is that of a file, and a text does nothing to a terminal.
 */
#include "fuzz_frames.h"

#include <errno.h>
#include <sys/socket.h>

#include <pinlease/carry.h>
#include <pinlease/peers.h>

#include "frame.h"
#include "wire.h"

#define HEAD   8u
#define KINDS  3u
#define STREAM 65536u

struct line {
	struct pinlease_carry *carry;
	struct pinlease_grant *grant;
	int fd; /* the peer's end */
	unsigned char stream[STREAM];
	uint32_t sent, read;  /* of stream: by the peer, and here */
	struct pl_wire about; /* what the grant's descriptor says */
	int dead;
};

/* The next frame that is for the application: its length, with its head; 0: none yet; -EPROTO. */
static int next_frame(struct line *l, const unsigned char **frame)
{
	const unsigned char *head;
	uint32_t len;

	while (l->sent - l->read >= HEAD) {
		head = l->stream + l->read;
		len = head[6] + head[7] * 256u;
		if (memcmp(head, "PLCY", 4) || !head[4] || head[4] > KINDS || head[5] || !len ||
		    len > PINLEASE_CARRY_MAX)
			return -EPROTO;
		if (l->sent - l->read < HEAD + len)
			return 0;
		l->read += HEAD + len;
		*frame = head;
		if (head[4] != KINDS)
			return (int)(HEAD + len);
	}
	return 0;
}

static void hear(struct line *l)
{
	unsigned char buf[PINLEASE_CARRY_MAX];
	const unsigned char *frame = NULL;
	uint32_t kind;
	int n, r;

	do {
		n = next_frame(l, &frame);
		/* Messages of its own that come in a row end a call, too. */
		while ((r = pinlease_carry_recv(l->carry, buf, sizeof(buf), &kind)) == 0 &&
		       pinlease_carry_timeout(l->carry) == 0)
			;
		fuzz_require(r == (n > 0 ? n - (int)HEAD : n));
		if (n > 0)
			fuzz_require(kind == frame[4] && !memcmp(buf, frame + HEAD, (size_t)r));
	} while (n > 0);
	l->dead = n;
}

static void say(struct line *l, const void *bytes, size_t len)
{
	if (len > STREAM - l->sent)
		return;
	fuzz_require(send(l->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len);
	memcpy(l->stream + l->sent, bytes, len);
	l->sent += (uint32_t)len;
}

static void say_frame(struct line *l, unsigned int kind, const void *body, uint32_t len)
{
	unsigned char frame[HEAD + 2 * PINLEASE_CARRY_MAX] = { 'P', 'L', 'C', 'Y', (unsigned char)kind };

	frame[6] = (unsigned char)len;
	frame[7] = (unsigned char)(len >> 8);
	memcpy(frame + HEAD, body, len);
	say(l, frame, HEAD + len);
}

static void step(struct fuzz_input *in, struct line *l)
{
	unsigned char body[2 * PINLEASE_CARRY_MAX], how = fuzz_byte(in);
	struct pl_wire w = { .type = PL_WIRE_RETURNED,
			     .gen = l->about.gen,
			     .lease = l->about.lease,
			     .grant = l->about.grant };
	uint32_t len;

	if (how % 4 == 0) {
		len = how >> 2;
		fuzz_bytes(in, body, len);
		say(l, body, len);
	} else if (how % 4 == 1) {
		len = (uint32_t)fuzz_int(in, 2) % (PINLEASE_CARRY_MAX + 2);
		fuzz_bytes(in, body, len);
		say_frame(l, (how >> 2) % (KINDS + 2), body, len);
	} else if (how % 4 == 2) {
		pl_wire_add(&w, fuzz_int(in, 2), 1 + fuzz_int(in, 1));
		w.gen += how >> 6;
		say_frame(l, KINDS, body, (uint32_t)pl_wire_encode(&w, body, sizeof(body)));
	} else {
		hear(l);
	}
}

void fuzz_carrier(struct fuzz_input *in, struct pinlease *lease)
{
	const struct pinlease_carry_opts o = { .size = sizeof(o), .timeout_ms = UINT32_MAX };
	static struct line l;
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	int fd[2], n;

	l = (struct line){ .dead = 0 };
	fuzz_require(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	l.fd = fd[1];
	fuzz_require(!pinlease_carry_socket(fd[0], &o, &l.carry));
	fuzz_require(!pinlease_grant_new(lease, NULL, &l.grant));
	fuzz_require(!pinlease_carry_add_grant(l.carry, l.grant));
	n = (int)recv(l.fd, buf, sizeof(buf), MSG_DONTWAIT);
	fuzz_require(n > (int)HEAD && !pl_wire_decode(buf + HEAD, (size_t)n - HEAD, &l.about));
	while (in->at < in->end && !l.dead)
		step(in, &l);
	if (!l.dead)
		hear(&l);
	/* The dead stay so, and what they promised is settled. */
	if (l.dead) {
		fuzz_require(pinlease_carry_send(l.carry, buf, 1) == -EPROTO);
		fuzz_require(pinlease_grant_descriptor(l.grant, buf, sizeof(buf)) == -ENOTCONN);
	}
	fuzz_require(!pinlease_carry_free(l.carry));
	fuzz_require(pinlease_grant_descriptor(l.grant, buf, sizeof(buf)) == -ENOTCONN);
	fuzz_require(!pinlease_grant_free(l.grant));
	close(fd[0]);
	close(fd[1]);
}

static void copy_frame(const uint8_t *p, size_t len)
{
	uint8_t again[FRAME_MAX];
	struct hello hello;
	struct frame f;

	if (!frame_decode(p, len, &f)) {
		fuzz_require(f.type && f.type < FRAME_LAST && f.status <= 0);
		fuzz_require(frame_encode(&f, again, sizeof(again)) == (int)len && !memcmp(again, p, len));
	}
	if (hello_decode(p, len, &hello))
		return;
	fuzz_require(hello_encode(&hello, again, sizeof(again)) == (int)len && !memcmp(again, p, len));
	fuzz_require(*hello.name && !strchr(hello.name, '/') && strcmp(hello.name, ".."));
}

static void copy_hail(const uint8_t *p, size_t len)
{
	uint8_t again[HAIL_BYTES];
	struct hail hail;
	int r = hail_decode(p, len, &hail);

	fuzz_require(r == 0 || r == -EPROTO || r == -EPROTONOSUPPORT);
	if (r)
		return;
	hail_encode(hail.refusal, again);
	fuzz_require(len >= HAIL_BYTES && !memcmp(again, p, HAIL_BYTES));
}

/* No byte of a control character is left, in whatever form; what was harmless is as it was. */
static void copy_text(const uint8_t *p, size_t len)
{
	char text[64];
	size_t i, n;

	frame_text(p, len, text, sizeof(text));
	n = strlen(text);
	fuzz_require(n == (len < sizeof(text) ? len : sizeof(text) - 1));
	for (i = 0; i < n; i++) {
		fuzz_require((uint8_t)text[i] >= 0x20 && text[i] != 0x7f);
		fuzz_require((text[i] & 0xe0) != 0x80 || (i && (uint8_t)text[i - 1] >= 0x80));
		fuzz_require((uint8_t)text[i] != 0xc2 || (uint8_t)text[i + 1] >= 0xa0);
		fuzz_require(text[i] == (char)p[i] || (text[i] == '?' && (p[i] < 0x20 || p[i] >= 0x7f)));
	}
}

void fuzz_copy(const uint8_t *data, size_t len)
{
	uint8_t *p = malloc(len ? len : 1);

	fuzz_require(p);
	memcpy(p, data, len);
	copy_frame(p, len);
	copy_hail(p, len);
	copy_text(p, len);
	free(p);
}
