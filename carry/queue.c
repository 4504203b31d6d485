/* SPDX-License-Identifier: BSD-3-Clause */
/* Frames, and those that go out. */
#include <errno.h>
#include <string.h>

#include "carry.h"

static const unsigned char magic[4] = { 'P', 'L', 'C', 'Y' };

int plc_frame_len(const unsigned char *head)
{
	uint32_t len = head[6] | (uint32_t)head[7] << 8;

	if (memcmp(head, magic, sizeof(magic)) || head[5] || head[4] < PINLEASE_CARRY_MESSAGE ||
	    head[4] > PLC_LEASE || !len || len > PINLEASE_CARRY_MAX)
		return -EPROTO;
	return (int)(PLC_HEAD + len);
}

uint32_t plc_frame_kind(const unsigned char *head)
{
	return head[4];
}

uint32_t plc_room(const struct pinlease_carry *c)
{
	return PLC_OUT - (c->head - c->tail);
}

void plc_queue(struct pinlease_carry *c, uint32_t kind, const void *buf, size_t len)
{
	struct plc_frame *f = &c->out[c->head % PLC_OUT];

	memcpy(f->data, magic, sizeof(magic));
	f->data[4] = (unsigned char)kind;
	f->data[5] = 0;
	f->data[6] = (unsigned char)len;
	f->data[7] = (unsigned char)(len >> 8);
	memcpy(f->data + PLC_HEAD, buf, len);
	f->len = (uint32_t)(PLC_HEAD + len);
	if (c->head++ == c->tail)
		c->out_since = plc_now();
}

void plc_completed(struct pinlease_carry *c)
{
	c->tail++;
	c->out_since = c->tail == c->head ? 0 : plc_now();
}
