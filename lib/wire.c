/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include <pinlease.h>

#include "util.h"
#include "wire.h"

#define WIRE_MAGIC	0x534c4e50u /* "PNLS" */
#define WIRE_VERSION	1
#define WIRE_HEAD	32u
#define WIRE_DESCRIPTOR 32u
#define WIRE_RANGE	16u

/* A message being written or read: the caller has seen to it that there is room. */
struct cursor {
	unsigned char *p;
};

static void put(struct cursor *c, uint64_t value, unsigned int bytes)
{
	while (bytes--) {
		*c->p++ = (unsigned char)value;
		value >>= 8;
	}
}

static uint64_t get(const unsigned char **p, unsigned int bytes)
{
	uint64_t value = 0;
	unsigned int i;

	for (i = 0; i < bytes; i++)
		value |= (uint64_t)(*p)[i] << (8 * i);
	*p += bytes;
	return value;
}

/* Of a message of this type with so many ranges; 0: no such type. */
static size_t wire_size(uint32_t type, uint32_t count)
{
	switch (type) {
	case PL_WIRE_GRANT:
	case PL_WIRE_RESTORED:
		return WIRE_HEAD + WIRE_DESCRIPTOR;
	case PL_WIRE_RECALL:
		return WIRE_HEAD + 8;
	case PL_WIRE_RETURNED:
		return WIRE_HEAD + 8 + (size_t)count * WIRE_RANGE;
	case PL_WIRE_GONE:
		return WIRE_HEAD;
	default:
		return 0;
	}
}

static void put_body(struct cursor *c, const struct pl_wire *w)
{
	uint32_t i;

	switch (w->type) {
	case PL_WIRE_GRANT:
	case PL_WIRE_RESTORED:
		put(c, w->addr, 8);
		put(c, w->len, 8);
		put(c, w->rkey, 4);
		put(c, w->access, 4);
		put(c, w->align, 4);
		put(c, 0, 4);
		break;
	case PL_WIRE_RECALL:
		put(c, w->left_ms, 4);
		put(c, 0, 4);
		break;
	case PL_WIRE_RETURNED:
		put(c, w->count, 4);
		put(c, 0, 4);
		for (i = 0; i < w->count; i++) {
			put(c, w->range[i].off, 8);
			put(c, w->range[i].len, 8);
		}
		break;
	default:
		break;
	}
}

int pl_wire_encode(const struct pl_wire *w, void *buf, size_t cap)
{
	size_t size = wire_size(w->type, w->count);
	struct cursor c = { .p = buf };

	if (cap < size)
		return -ENOSPC;
	put(&c, WIRE_MAGIC, 4);
	put(&c, WIRE_VERSION, 1);
	put(&c, w->type, 1);
	put(&c, 0, 2);
	put(&c, size, 4);
	put(&c, w->gen, 4);
	put(&c, w->lease, 8);
	put(&c, w->grant, 8);
	put_body(&c, w);
	return (int)size;
}

static int get_descriptor(const unsigned char *p, struct pl_wire *w)
{
	w->addr = get(&p, 8);
	w->len = get(&p, 8);
	w->rkey = (uint32_t)get(&p, 4);
	w->access = (uint32_t)get(&p, 4);
	w->align = (uint32_t)get(&p, 4);
	if (get(&p, 4) || !w->len || w->len - 1 > UINT64_MAX - w->addr)
		return -EPROTO;
	if (w->access != PINLEASE_READ && w->access != PINLEASE_WRITE)
		return -EPROTO;
	return !w->align || (w->align & (w->align - 1)) ? -EPROTO : 0;
}

static int get_ranges(const unsigned char *p, size_t len, struct pl_wire *w)
{
	struct pl_wire_range *r;
	uint32_t i;

	w->count = (uint32_t)get(&p, 4);
	if (get(&p, 4) || w->count > PL_WIRE_RANGES || len != wire_size(w->type, w->count))
		return -EPROTO;
	for (i = 0; i < w->count; i++) {
		r = &w->range[i];
		r->off = get(&p, 8);
		r->len = get(&p, 8);
		if (!r->len || r->off > UINT64_MAX - r->len)
			return -EPROTO;
	}
	return 0;
}

static int get_body(const unsigned char *p, size_t len, struct pl_wire *w)
{
	switch (w->type) {
	case PL_WIRE_GRANT:
	case PL_WIRE_RESTORED:
		return get_descriptor(p, w);
	case PL_WIRE_RECALL:
		w->left_ms = (uint32_t)get(&p, 4);
		return get(&p, 4) ? -EPROTO : 0;
	case PL_WIRE_RETURNED:
		return get_ranges(p, len, w);
	default:
		return 0;
	}
}

int pl_wire_decode(const void *buf, size_t len, struct pl_wire *w)
{
	const unsigned char *p = buf;
	struct pl_wire got = { .type = 0 };
	size_t least;

	if (len < WIRE_HEAD || len > PL_WIRE_MAX)
		return -EPROTO;
	if (get(&p, 4) != WIRE_MAGIC || get(&p, 1) != WIRE_VERSION)
		return -EPROTO;
	got.type = (uint32_t)get(&p, 1);
	/* Ranges are counted below; all else has the one length. */
	least = wire_size(got.type, 0);
	if (get(&p, 2) || get(&p, 4) != len || !least || len < least ||
	    (len != least && got.type != PL_WIRE_RETURNED))
		return -EPROTO;
	got.gen = (uint32_t)get(&p, 4);
	got.lease = get(&p, 8);
	got.grant = get(&p, 8);
	if (get_body(p, len, &got))
		return -EPROTO;
	*w = got;
	return 0;
}

/* Ranges stand in order and do not touch. */
static void wire_drop(struct pl_wire *w, uint32_t i)
{
	memmove(&w->range[i], &w->range[i + 1], (w->count - i - 1) * sizeof(w->range[0]));
	w->count--;
}

static void wire_join(struct pl_wire *w, uint32_t i)
{
	struct pl_wire_range *r = &w->range[i], *next = r + 1;

	r->len = pl_max_u64(r->off + r->len, next->off + next->len) - r->off;
	wire_drop(w, i + 1);
}

static void wire_join_nearest(struct pl_wire *w)
{
	uint64_t gap, least = UINT64_MAX;
	uint32_t i, at = 0;

	for (i = 0; i + 1 < w->count; i++) {
		gap = w->range[i + 1].off - (w->range[i].off + w->range[i].len);
		if (gap < least) {
			least = gap;
			at = i;
		}
	}
	wire_join(w, at);
}

void pl_wire_add(struct pl_wire *w, uint64_t off, uint64_t len)
{
	uint64_t end = off + len, was;
	uint32_t i = 0;

	while (i < w->count && w->range[i].off + w->range[i].len < off)
		i++;
	/* All that it overlaps or touches becomes part of it. */
	while (i < w->count && w->range[i].off <= end) {
		was = w->range[i].off + w->range[i].len;
		off = pl_min_u64(off, w->range[i].off);
		end = pl_max_u64(end, was);
		wire_drop(w, i);
	}
	if (w->count == PL_WIRE_RANGES) {
		wire_join_nearest(w);
		pl_wire_add(w, off, end - off);
		return;
	}
	memmove(&w->range[i + 1], &w->range[i], (w->count - i) * sizeof(w->range[0]));
	w->range[i] = (struct pl_wire_range){ .off = off, .len = end - off };
	w->count++;
}
