/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A chunk of the window at the receiver: its grant, and what is told of it in both directions.
 *
 * A break comes as an event of the chunk's lease, and goes to the peer as RECALL; the same message ends
 * a grant whose data is complete. Either way the peer answers with RETURNED, and what it
 * means is said by where the chunk stands.
 */
#include <errno.h>

#include "session.h"

static void submit(struct chunk *c, enum chunk_step step, void (*run)(struct job *job));

static void answer(struct chunk *c, uint32_t type, uint32_t flags)
{
	struct frame f = { .type = type, .flags = flags, .chunk = c->index };

	session_say(c->session, &f);
}

static void idle(struct chunk *c)
{
	c->step = CHUNK_IDLE;
	c->since_ns = c->retry_ns = 0;
}

/* The type of a message, pinlease_peers(7): its sixth byte. */
#define TYPE_AT	      5
#define TYPE_RESTORED 4
#define TYPE_GONE     5

/* RECALL, RESTORED or GONE, if one of them is due. */
static void tell(struct chunk *c)
{
	char buf[PINLEASE_MESSAGE_MAX];
	struct frame f = { .type = FRAME_PEER, .chunk = c->index, .body = buf };
	uint32_t flags = c->step == CHUNK_ENDING ? PINLEASE_GRANT_END : 0;
	int n = c->grant ? pinlease_grant_message(c->grant, flags, buf, sizeof(buf)) : 0;

	if (n <= 0)
		return;
	if (buf[TYPE_AT] == TYPE_RESTORED)
		c->out = true;
	if (buf[TYPE_AT] == TYPE_GONE)
		c->out = false;
	f.body_len = (uint32_t)n;
	session_say(c->session, &f);
}

static void end_grant(struct chunk *c)
{
	pinlease_grant_free(c->grant);
	c->grant = NULL;
	c->out = false;
}

static void drop(struct chunk *c)
{
	end_grant(c);
	submit(c, CHUNK_DROPPING, work_drop);
}

/* -EAGAIN: a break is being answered; RESTORED, or the next tick, brings us here again. */
static void lend(struct chunk *c)
{
	struct pinlease_grant_opts opts = { .size = sizeof(opts) };
	char buf[PINLEASE_MESSAGE_MAX];
	struct frame f = { .type = FRAME_GRANT, .chunk = c->index, .body = buf };
	int n = c->grant ? 0 : pinlease_grant_new(c->lease, &opts, &c->grant);

	if (!n)
		n = pinlease_grant_descriptor(c->grant, buf, sizeof(buf));
	if (n == -EAGAIN && !c->broken)
		return;
	if (n < 0) {
		drop(c);
		return;
	}
	f.body_len = (uint32_t)n;
	c->out = true;
	c->step = CHUNK_LENT;
	session_say(c->session, &f);
}

/*
 * Somebody has the file open, perhaps for long: the sender's user is told who. Or there is no room for
 * another chunk in memory, as long as the others of the session get on.
 */
static void try_later(struct chunk *c, enum chunk_step step)
{
	uint64_t now = now_ns();

	c->step = step;
	c->retry_ns = now + RETRY_NS;
	if (!c->since_ns || (c->result != -EAGAIN && c->since_ns < c->session->moved_ns))
		c->since_ns = now;
	if (now - c->since_ns > PATIENCE_NS)
		session_fail(c->session, &c->trouble, 0);
	else if (now - c->since_ns > TELL_NS && c->result == -EAGAIN)
		session_waits(c->session, &c->trouble);
}

static void wrong(struct chunk *c)
{
	struct session *s = c->session;

	if (++s->proof[c->index].wrong > WRONG_MAX) {
		trouble_say(&c->trouble, -EILSEQ, "%.80s: checksum mismatch at offset %llu, again and again",
			    s->target.dest, (unsigned long long)(c->index * CHUNK_BYTES));
		session_fail(s, &c->trouble, 0);
		return;
	}
	idle(c);
	answer(c, FRAME_AGAIN, FRAME_WRONG);
}

static void finished(struct chunk *c)
{
	enum chunk_step step = c->step;
	int result = c->result;

	if (step == CHUNK_DROPPING) {
		idle(c);
		answer(c, FRAME_AGAIN, 0);
	} else if (result == CHUNK_IS_WRONG) {
		wrong(c);
	} else if (result == CHUNK_IS_LEASED) {
		c->since_ns = 0;
		c->step = CHUNK_LEASED;
		lend(c);
	} else if (result == CHUNK_IS_THERE || result == CHUNK_IS_DURABLE) {
		idle(c);
		c->session->moved_ns = now_ns();
		answer(c, result == CHUNK_IS_THERE ? FRAME_HAVE : FRAME_DURABLE, 0);
	} else if (c->trouble.again) {
		try_later(c, step);
	} else {
		if (result == -ENOSPC || result == -EDQUOT)
			target_discard(&c->session->target);
		session_fail(c->session, &c->trouble, 0);
	}
}

static void job_done(struct job *job)
{
	struct chunk *c = (struct chunk *)((char *)job - offsetof(struct chunk, job));

	c->busy = false;
	/* A session that is over only waits for its jobs. */
	if (c->session->state == SESSION_OPEN && !c->session->ending)
		finished(c);
}

static void submit(struct chunk *c, enum chunk_step step, void (*run)(struct job *job))
{
	c->step = step;
	c->busy = true;
	c->retry_ns = 0;
	c->trouble = (struct trouble){ .again = false };
	c->job = (struct job){ .run = run, .done = job_done };
	pool_submit(c->session->server->pool, &c->job);
}

void chunk_offer(struct chunk *c, const struct frame *f)
{
	c->index = f->chunk;
	c->map = f->map;
	c->sum = f->sum;
	c->broken = c->out = false;
	c->repeated = c->session->proof[c->index].wrong;
	submit(c, CHUNK_PREPARING, work_prepare);
}

/* All is written, as the sender's completions say. */
void chunk_done(struct chunk *c)
{
	c->step = CHUNK_ENDING;
	if (c->out)
		tell(c);
	if (c->out)
		return;
	end_grant(c);
	submit(c, CHUNK_SETTLING, work_settle);
}

void chunk_message(struct chunk *c, const struct frame *f)
{
	int r = c->grant ? pinlease_grant_received(c->grant, f->body, f->body_len) : 0;

	/* ESTALE: too late, the fence was faster, or the answer to an older RECALL. */
	if (r && r != -ESTALE) {
		session_protocol_error(c->session);
		return;
	}
	if (!r)
		c->out = false;
	if (c->step == CHUNK_ENDING && !c->out)
		chunk_done(c);
}

void chunk_event(struct chunk *c, const struct pinlease_event *ev)
{
	switch (ev->type) {
	case PINLEASE_EV_RESTORED:
		c->broken = ev->len < chunk_len(c->session->target.size, c->index);
		break;
	case PINLEASE_EV_RESTORE_FAILED:
	case PINLEASE_EV_LOST:
		c->broken = true;
		break;
	case PINLEASE_EV_REVOKED:
		/* Who was cut off has nothing of that generation any more. */
		c->out = false;
		break;
	default:
		break;
	}
	if (c->busy || c->session->state == SESSION_OVER)
		return;
	if (c->step == CHUNK_LEASED) {
		lend(c);
	} else if (c->step == CHUNK_ENDING && !c->out) {
		chunk_done(c);
	} else if (c->step == CHUNK_LENT && c->broken) {
		tell(c);
		drop(c);
	} else if (c->step == CHUNK_LENT || c->step == CHUNK_ENDING) {
		tell(c);
	}
}

void chunk_tick(struct chunk *c)
{
	if (c->busy)
		return;
	if (c->step == CHUNK_LEASED)
		lend(c);
	else if (c->retry_ns && now_ns() >= c->retry_ns)
		submit(c, c->step, c->step == CHUNK_PREPARING ? work_prepare : work_settle);
}

void chunk_forget(struct chunk *c)
{
	if (c->grant) {
		pinlease_grant_disconnected(c->grant);
		end_grant(c);
	}
}
