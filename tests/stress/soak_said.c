/* SPDX-License-Identifier: BSD-3-Clause */
/* What an owner hears of its leases, and what it tells the judge of them. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "soak_owner.h"

static uint64_t missing_of(struct leased *l)
{
	uint64_t off = 0, len, from = 0, bits = 0, b;
	int r;

	while ((r = pinlease_dirty_next(l->lease, from, &off, &len)) == 1) {
		for (b = off / SOAK_BLOCK; b * SOAK_BLOCK < off + len; b++)
			bits |= 1ull << (atomic_load(&l->slot->first) + b);
		from = off + len;
	}
	if (r && r != -ERANGE)
		soak_report(NULL, "dirty_next: %s", strerror(-r));
	return bits;
}

/*
 * LOST: the blocks that are not in the file are named, and what the file has instead is from
 * now on what is in them: the lease will come back with that. The opener that looks at them now
 * may be waiting for what is to be said of the other lease.
 */
static void settle_lost(struct owner *o)
{
	int fd;

	while (!judge_try_lock(o->f)) {
		hear(o);
		kt_sleep_ms(1);
	}
	fd = open(o->f->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		soak_report(o->f, "open: %s", strerror(errno));
	else
		judge_look(o->f, fd, kt_now(), &o->look);
	close(fd);
	judge_unlock(o->f);
}

static void publish_lost(struct owner *o, struct leased *l)
{
	uint64_t missing;

	take_all(o);
	missing = missing_of(l);
	atomic_store(&l->slot->missing, missing);
	soak_count(&soak->n.lost_blocks, (uint64_t)__builtin_popcountll(missing));
	atomic_store(&l->slot->state, SLOT_LOST);
}

static void publish(struct owner *o, struct leased *l)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };
	uint64_t now = kt_now();
	int r = pinlease_lease_info(l->lease, &info);

	if (r)
		soak_report(o->f, "lease_info: %s", strerror(-r));
	if (info.state == PINLEASE_LOST && l->lost_told) {
		if (atomic_load(&l->slot->state) != SLOT_LOST)
			publish_lost(o, l);
	} else {
		atomic_store(&l->slot->state,
			     info.state == PINLEASE_REVOKED ? SLOT_REVOKED : SLOT_HELD);
	}
	atomic_store(&l->slot->since, now);
}

static struct leased *leased_of(struct owner *o, const struct pinlease *lease)
{
	for (unsigned int i = 0; i < SOAK_SLOTS; i++)
		if (o->leased[i].lease == lease)
			return &o->leased[i];
	return NULL;
}

static void told_lost(struct owner *o, struct leased *l, const struct pinlease_event *ev)
{
	l->lost_told = true;
	l->settled = false;
	soak_count(&soak->n.lost, 1);
	/* Nothing else on this machine is as slow as a stop. */
	if (!atomic_load(&o->mine->ran_ns) ||
	    kt_now() - atomic_load(&o->mine->ran_ns) > 2 * SOAK_STUCK_NS) {
		soak_count(&soak->n.unexplained, 1);
		soak_report(o->f, "owner %u: LOST without having been stopped, %llu bytes, error %d",
			    o->number, (unsigned long long)ev->lost_bytes, ev->err);
	}
}

static void told(struct owner *o, const struct pinlease_event *ev)
{
	struct leased *l = leased_of(o, ev->lease);

	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		soak_count(&soak->n.breaks, 1);
		/* Who does not acknowledge is waited for until the deadline. */
		if ((l->flags & PINLEASE_L_ACK) && !chance(o, 4))
			pinlease_ack(ev->lease, ev->gen);
		break;
	case PINLEASE_EV_REVOKED:
		o->unsaved = false;
		soak_count(&soak->n.revoked, 1);
		break;
	case PINLEASE_EV_RESTORED:
		soak_count(&soak->n.restored, 1);
		l->lost_told = l->settled = false;
		atomic_store(&l->slot->state, SLOT_HELD);
		break;
	case PINLEASE_EV_RESTORE_FAILED:
		soak_count(&soak->n.restore_failed, 1);
		break;
	case PINLEASE_EV_LOST:
		told_lost(o, l, ev);
		break;
	}
}

void hear(struct owner *o)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(o->ctx, &ev) == 1)
		told(o, &ev);
	for (unsigned int i = 0; i < SOAK_SLOTS; i++)
		if (o->leased[i].lease)
			publish(o, &o->leased[i]);
}

void settle(struct owner *o)
{
	for (unsigned int i = 0; i < SOAK_SLOTS; i++) {
		struct leased *l = &o->leased[i];

		if (!l->lease || l->settled || atomic_load(&l->slot->state) != SLOT_LOST)
			continue;
		settle_lost(o);
		l->settled = true;
	}
}
