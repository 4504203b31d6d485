/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: the messages between an owner and its peers, pinlease_peers(7). Little-endian,
 * by bytes: no alignment, no padding, no byte order of this machine. Decoding is
 * total: any bytes of any length are a whole, sensible message, or -EPROTO.
 */
#ifndef PL_WIRE_H
#define PL_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define PL_WIRE_RANGES 32
#define PL_WIRE_MAX    (40 + 16 * PL_WIRE_RANGES)

enum pl_wire_type {
	PL_WIRE_GRANT = 1,	/* owner: the descriptor */
	PL_WIRE_RECALL,		/* owner */
	PL_WIRE_RETURNED,	/* peer */
	PL_WIRE_RESTORED,	/* owner: the descriptor of the next generation */
	PL_WIRE_GONE,		/* owner */
};

struct pl_wire_range {
	uint64_t off, len;	/* relative to the grant */
};

struct pl_wire {
	uint32_t type, gen;
	uint64_t lease, grant;			/* ids: of the owner's process */
	uint64_t addr, len;			/* GRANT, RESTORED, with what follows */
	uint32_t rkey, access, align;
	uint32_t left_ms;			/* RECALL */
	uint32_t count;				/* RETURNED */
	struct pl_wire_range range[PL_WIRE_RANGES];
};

/* The bytes written; -ENOSPC: cap is less, nothing is written. */
int pl_wire_encode(const struct pl_wire *w, void *buf, size_t cap);
/* 0; -EPROTO, and *w untouched. */
int pl_wire_decode(const void *buf, size_t len, struct pl_wire *w);
/* What was written, a range more; when there is no room, what lies between the two nearest counts, too. */
void pl_wire_add(struct pl_wire *w, uint64_t off, uint64_t len);

#endif
