/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a session has the pool do: everything that opens, leases, reads or syncs the file.
 *
 * A chunk is proved by its sum, read back through the file after its lease is released and the disk has it. A
 * proof holds as long as nobody else could write to the file: while the guard was held, and no break has
 * come since. So when all is there, only what was read before the last break is read again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session.h"

static struct chunk *chunk_of(struct job *job)
{
	return (struct chunk *)((char *)job - offsetof(struct chunk, job));
}

static struct session *session_of(struct job *job)
{
	return (struct session *)((char *)job - offsetof(struct session, job));
}

/* What the guard has seen so far, if it is there now. */
static uint64_t guarded(const struct session *s)
{
	struct pinlease_file_info info = { .size = sizeof(info) };

	if (pinlease_file_info(s->target.file, &info) || info.state != PINLEASE_FILE_HELD)
		return NO_GUARD;
	return info.breaks;
}

/* The sum of what is in the file. */
static int look(struct session *s, uint64_t index, char *scratch, struct sum *sum)
{
	uint32_t len = chunk_len(s->target.size, index);
	uint64_t off = index * CHUNK_BYTES;
	int r;

	/* Behind the end there is no data either: a file that was cut is not all holes. */
	if (target_is_hole(&s->target, off, len) && target_length(&s->target) >= off + len) {
		*sum = sum_of_hole(len);
		return 0;
	}
	r = target_read(&s->target, off, len, scratch);
	if (!r)
		*sum = sum_of(scratch, len);
	return r;
}

/* Read a chunk back. 1: it has this sum. */
static int prove(struct session *s, uint64_t index, const struct sum *sum, char *scratch)
{
	struct proof *proof = &s->proof[index];
	uint64_t before = guarded(s);
	struct sum is;
	int r = look(s, index, scratch, &is);

	if (r)
		return r;
	proof->there = sum_equal(&is, sum);
	proof->sum = *sum;
	proof->breaks = before == guarded(s) ? before : NO_GUARD;
	return proof->there;
}

static int scratch(struct chunk *c)
{
	if (!c->scratch)
		c->scratch = malloc(CHUNK_BYTES);
	return c->scratch ? 0 : -ENOMEM;
}

static int give_up(struct session *s, struct trouble *trouble, int r, const char *what)
{
	trouble->again = r == -EAGAIN;
	return trouble_say(trouble, r, "%.80s: %.60s: %s", s->target.dest, what, strerror(-r));
}

/* A file that somebody has truncated meanwhile is as long again; what is missing is found missing. */
static int mend_length(struct session *s)
{
	return pinlease_file_truncate(s->target.file, s->target.size);
}

/* Other chunks are leased: when they are not any more there is room for this one. */
static bool is_no_room(const struct pinlease_why *why)
{
	return why->reason == PINLEASE_WHY_MEMLOCK || why->reason == PINLEASE_WHY_BUDGET;
}

static int lease(struct chunk *c)
{
	struct session *s = c->session;
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .pd = s->conn.pd,
				      .access = PINLEASE_WRITE,
				      .flags = PINLEASE_L_GRANTED,
				      .ibv_access = IBV_ACCESS_REMOTE_WRITE,
				      .restore_ms = PATIENCE_NS / 1000000,
				      .user = c };
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	int r = pinlease_acquire(s->target.file, c->index * CHUNK_BYTES, chunk_len(s->target.size, c->index),
				 &opts, &why, &c->lease);

	if (!r)
		return CHUNK_IS_LEASED;
	if (why.reason == PINLEASE_WHY_RANGE) {
		r = mend_length(s);
		return give_up(s, &c->trouble, r ? r : -EAGAIN, "somebody has truncated it");
	}
	trouble_say(&c->trouble, r, "%.80s: %s", s->target.dest,
		    r == -ENOSPC || r == -EDQUOT ? strerror(-r) : pinlease_reason_str(why.reason));
	c->trouble.again = r == -EAGAIN || is_no_room(&why);
	if (r == -EAGAIN && why.pid)
		trouble_say(&c->trouble, r, "%.80s: process %d has %.60s open", s->target.dest, why.pid,
			    s->target.temp);
	return r;
}

static int prepare(struct chunk *c)
{
	struct session *s = c->session;
	uint32_t len = chunk_len(s->target.size, c->index);
	int r = scratch(c);

	if (!r && !c->map)
		r = target_punch(&s->target, c->index * CHUNK_BYTES, len);
	if (r)
		return give_up(s, &c->trouble, r, "hole");
	if (!c->map || (s->target.there && !c->repeated)) {
		r = prove(s, c->index, &c->sum, c->scratch);
		if (r < 0)
			return give_up(s, &c->trouble, r, "read");
		if (r)
			return CHUNK_IS_THERE;
	}
	return lease(c);
}

void work_prepare(struct job *job)
{
	struct chunk *c = chunk_of(job);

	c->result = prepare(c);
}

/* The blocks that are holes at the sender were allocated for the lease. */
static int punch_holes(struct chunk *c)
{
	struct target *t = &c->session->target;
	uint64_t start = c->index * CHUNK_BYTES, from, end, len = chunk_len(t->size, c->index);
	int r = 0;

	for (from = 0; from < len && !r; from = end) {
		end = from + BLOCK_BYTES;
		if (c->map & 1ull << from / BLOCK_BYTES)
			continue;
		while (end < len && !(c->map & 1ull << end / BLOCK_BYTES))
			end += BLOCK_BYTES;
		r = target_punch(t, start + from, (end < len ? end : len) - from);
	}
	return r;
}

/* A second release of a lease whose first one failed drops what is left of it. */
static int release(struct chunk *c)
{
	int r = pinlease_release(c->lease);

	if (r && pinlease_release(c->lease))
		return r;
	c->lease = NULL;
	return r;
}

static int settle(struct chunk *c)
{
	struct session *s = c->session;
	int r = c->lease ? release(c) : 0;

	if (r)
		return give_up(s, &c->trouble, r, "write");
	r = punch_holes(c);
	if (r)
		return give_up(s, &c->trouble, r, "hole");
	if (fdatasync(s->target.fd))
		return give_up(s, &c->trouble, -errno, "sync");
	r = prove(s, c->index, &c->sum, c->scratch);
	if (r < 0)
		return give_up(s, &c->trouble, r, "read");
	return r ? CHUNK_IS_DURABLE : CHUNK_IS_WRONG;
}

void work_settle(struct job *job)
{
	struct chunk *c = chunk_of(job);

	c->result = settle(c);
}

/* What it could not write is offered again. */
void work_drop(struct job *job)
{
	struct chunk *c = chunk_of(job);

	c->result = c->lease ? release(c) : 0;
}

void work_open(struct job *job)
{
	struct session *s = session_of(job);
	struct target *t = &s->target;

	s->trouble = (struct trouble){ .again = false };
	s->result = target_open(t, s->server->root, s->server->ctx, &s->trouble);
	if (!s->result && !s->proof) {
		s->proof = calloc(t->chunks + 1, sizeof(*s->proof));
		if (!s->proof)
			s->result = trouble_say(&s->trouble, -ENOMEM, "out of memory for so many sums");
	}
}

/* Holds the guard while all is looked at: a lease of what is read, that no device reaches. */
static int hold(struct session *s, struct pinlease **holder)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .mode = PINLEASE_MODE_STAGED,
				      .access = PINLEASE_READ };
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	uint64_t len = s->target.size < 4096 ? s->target.size : 4096;
	int r = pinlease_acquire(s->target.file, 0, len, &opts, &why, holder);

	if (why.reason == PINLEASE_WHY_RANGE)
		r = mend_length(s) ?: -EAGAIN;
	if (r && why.pid)
		trouble_say(&s->trouble, r, "%.80s: process %d has %.60s open", s->target.dest, why.pid,
			    s->target.temp);
	else if (r)
		trouble_say(&s->trouble, r, "%.80s: %s", s->target.dest, pinlease_reason_str(why.reason));
	s->trouble.again = r == -EAGAIN;
	return r;
}

/* 0; s->bad_count chunks are to be sent again. */
static int check_chunks(struct session *s, uint64_t breaks)
{
	char *buf = malloc(CHUNK_BYTES);
	struct sum sum;
	uint64_t i;
	int r = buf ? 0 : -ENOMEM;

	s->bad_count = 0;
	for (i = 0; i < s->target.chunks && r >= 0 && s->bad_count < WINDOW; i++) {
		if (s->proof[i].there && s->proof[i].breaks == breaks)
			continue;
		sum = s->proof[i].sum;
		r = prove(s, i, &sum, buf);
		if (!r)
			s->bad[s->bad_count++] = i;
	}
	free(buf);
	return r < 0 ? give_up(s, &s->trouble, r, "read") : 0;
}

/* An opener that comes now waits for the guard, which tells of it: nobody has changed what was looked at. */
static int check(struct session *s)
{
	uint64_t breaks = guarded(s);
	int r = target_length(&s->target) == s->target.size ? 0 : mend_length(s);

	if (!r)
		r = check_chunks(s, breaks);
	if (!r && !s->bad_count)
		r = target_seal(&s->target, &s->trouble);
	if (!r && (breaks == NO_GUARD || breaks != guarded(s))) {
		r = trouble_say(&s->trouble, -EAGAIN, "%.80s: is opened again and again", s->target.dest);
		s->trouble.again = true;
	}
	return r;
}

void work_check(struct job *job)
{
	struct session *s = session_of(job);
	struct pinlease *holder = NULL;

	s->trouble = (struct trouble){ .again = false };
	s->bad_count = 0;
	s->result = s->target.file ? hold(s, &holder) : 0;
	if (!s->result)
		s->result = s->target.file ? check(s) : target_seal(&s->target, &s->trouble);
	if (!s->result && !s->bad_count)
		s->result = sum_total(&s->proof->sum, sizeof(*s->proof), s->target.chunks, &s->total);
	if (!s->result && !s->bad_count)
		s->result = target_name(&s->target, &s->trouble);
	if (holder)
		pinlease_release(holder);
}

void work_close(struct job *job)
{
	struct session *s = session_of(job);
	int i;

	for (i = 0; i < (int)WINDOW; i++) {
		if (s->chunk[i].lease)
			release(&s->chunk[i]);
		free(s->chunk[i].scratch);
	}
	target_close(&s->target);
}
