/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "slot.h"

#define ALL UINT64_MAX

int slot_offer(struct slot *slot)
{
	struct frame f = { .type = FRAME_OFFER, .chunk = slot->index, .map = slot->map, .sum = slot->sum };

	slot->step = SLOT_OFFERED;
	return sender_tell(slot->sender, &f);
}

static uint64_t block_len(const struct slot *slot, uint32_t block)
{
	uint64_t left =
		chunk_len(slot->sender->copy->source.size, slot->index) - (uint64_t)block * BLOCK_BYTES;

	return left < BLOCK_BYTES ? left : BLOCK_BYTES;
}

static uint32_t slot_blocks(const struct slot *slot)
{
	uint32_t len = chunk_len(slot->sender->copy->source.size, slot->index);

	return (len + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

static int post(struct slot *slot, uint32_t block)
{
	struct sender *s = slot->sender;
	struct pinlease_peer_key key = { .size = sizeof(key) };
	uint64_t off = (uint64_t)block * BLOCK_BYTES, len = block_len(slot, block);
	uint64_t tag = (uint64_t)(slot - s->slot) << 32;
	int r = pinlease_peer_begin(slot->peer, PINLEASE_WRITE, off, len, &key);

	if (r)
		return r;
	slot->gen = key.gen;
	r = conn_write(s->conn, s->mr, slot->buf + off, (uint32_t)len, key.addr, key.rkey, tag | key.gen);
	if (r) {
		pinlease_peer_end(slot->peer, key.gen, 0);
		return r;
	}
	slot->in_flight++;
	s->copy->counts.written += len;
	return 0;
}

/* As much as may be in flight. -EAGAIN of a block: recalled, until RESTORED or AGAIN. */
int slots_pump(struct sender *s)
{
	struct slot *slot;
	int r = 0;

	for (slot = s->slot; slot < s->slot + s->window && r != -ECONNRESET; slot++) {
		r = 0;
		while (!r && slot->step == SLOT_WRITING && s->conn->writes < CONN_WRITES &&
		       slot->next < slot_blocks(slot)) {
			if (slot->wanted & 1ull << slot->next)
				r = post(slot, slot->next);
			slot->next += !r;
		}
	}
	return r == -ECONNRESET ? r : 0;
}

static int answer(struct slot *slot)
{
	char buf[PINLEASE_MESSAGE_MAX];
	struct frame f = { .type = FRAME_PEER, .chunk = slot->index, .body = buf };
	int n = pinlease_peer_answer(slot->peer, buf, sizeof(buf));

	/* Writes are in flight: the last one's end brings us here again. */
	if (n == -EAGAIN || !n)
		return 0;
	if (n < 0)
		return -ECONNRESET;
	f.body_len = (uint32_t)n;
	return sender_tell(slot->sender, &f);
}

static int written_all(struct slot *slot)
{
	struct frame f = { .type = FRAME_DONE, .chunk = slot->index };

	slot->step = SLOT_WRITTEN;
	return sender_tell(slot->sender, &f);
}

void slots_written(void *arg, uint64_t tag, bool ok)
{
	struct sender *s = arg;
	struct slot *slot = &s->slot[tag >> 32];
	int due;

	slot->in_flight--;
	slot->left -= ok;
	due = pinlease_peer_end(slot->peer, (uint32_t)tag, ok);
	/* An error of these two is the connection's, which the loop sees by itself. */
	if (ok && due > 0)
		answer(slot);
	if (ok && slot->step == SLOT_WRITING && !slot->left)
		written_all(slot);
}

static void start_writing(struct slot *slot)
{
	slot->step = SLOT_WRITING;
	slot->next = 0;
	slot->left = (uint32_t)__builtin_popcountll(slot->wanted);
}

static void read_run(struct job *job)
{
	struct slot *slot = (struct slot *)((char *)job - offsetof(struct slot, job));
	const struct source *source = &slot->sender->copy->source;

	/* What is offered as a hole is sent only if it cannot be one. */
	if (!slot->map && !slot->zeros) {
		slot->sum = sum_of_hole(chunk_len(source->size, slot->index));
		slot->result = 0;
		return;
	}
	slot->result = source_read(source, slot->index, slot->map, slot->buf);
	if (!slot->result)
		slot->sum = sum_of(slot->buf, chunk_len(source->size, slot->index));
}

static int read_finished(struct slot *slot)
{
	struct sender *s = slot->sender;
	struct known *known = &s->copy->known[slot->index];

	if (slot->result == -ESTALE || source_changed(&s->copy->source) ||
	    (!slot->result && known->read && !sum_equal(&known->sum, &slot->sum)))
		return sender_fatal(s, s->copy->options->file, "was changed while it was copied");
	if (slot->result)
		return sender_fatal(s, s->copy->options->file, strerror(-slot->result));
	known->sum = slot->sum;
	known->map = slot->map;
	known->read = true;
	slot->filled = slot->map || slot->zeros;
	if (!slot->peer)
		return slot_offer(slot);
	start_writing(slot);
	return 0;
}

static void read_done(struct job *job)
{
	struct slot *slot = (struct slot *)((char *)job - offsetof(struct slot, job));

	slot->busy = false;
	if (!slot->sender->over && !slot->sender->conn->lost && read_finished(slot) == -ECONNRESET)
		slot->sender->conn->lost = true;
}

static void slot_read(struct slot *slot)
{
	slot->step = SLOT_READING;
	slot->busy = true;
	slot->zeros = slot->peer;
	slot->job = (struct job){ .run = read_run, .done = read_done };
	pool_submit(slot->sender->copy->pool, &slot->job);
}

/* What was read on an earlier connection is offered unread: if it is there, it need not be read again. */
int slot_start(struct slot *slot, uint64_t index)
{
	const struct known *known = &slot->sender->copy->known[index];

	slot->index = index;
	slot->filled = false;
	if (known->read) {
		slot->map = known->map;
		slot->sum = known->sum;
		return slot_offer(slot);
	}
	slot->map = source_map(&slot->sender->copy->source, index);
	slot_read(slot);
	return 0;
}

void slot_detach(struct slot *slot)
{
	for (; slot->in_flight; slot->in_flight--)
		pinlease_peer_end(slot->peer, slot->gen, 0);
	if (slot->peer)
		pinlease_peer_detach(slot->peer);
	slot->peer = NULL;
}

int slot_granted(struct slot *slot, const struct frame *f)
{
	bool wrong = slot->sender->copy->known[slot->index].wrong;
	int r;

	if (slot->step != SLOT_OFFERED || slot->peer)
		return -EPROTO;
	r = pinlease_peer_attach(f->body, f->body_len, &slot->peer);
	if (r)
		return r;
	/* There is something where a hole should be, which could not be made one: zeros are written. */
	slot->wanted = !slot->map || wrong ? ALL : slot->map;
	if (slot_blocks(slot) < CHUNK_BLOCKS)
		slot->wanted &= (1ull << slot_blocks(slot)) - 1;
	if (!slot->filled)
		slot_read(slot);
	else
		start_writing(slot);
	return 0;
}

int slot_message(struct slot *slot, const struct frame *f)
{
	int r;

	if (!slot->peer)
		return 0;
	r = pinlease_peer_message(slot->peer, f->body, f->body_len);
	if (r == 1)
		return answer(slot);
	return r == -ESTALE ? 0 : r;
}
