/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 4: the owner's side of a grant. From the moment its descriptor is read a grant is out, in the
 * generation of that moment, and a break waits for it as for an operation, until it is returned or
 * the peer is known to be gone. What a generation leaves out is settled by its fence: the next one
 * starts with none.
 */
#include <errno.h>

#include <pinlease/peers.h>

#include "api_export.h"
#include "lease.h"
#include "opts.h"
#include "sys.h"
#include "wire.h"

struct pinlease_grant {
	struct pinlease *lease;		/* constant, with what follows */
	uint32_t fork_gen;
	uint64_t id, off, len;
	uint32_t access, align, mr_index;
	void *user;
	struct pl_list link;		/* file's lock, with what follows */
	uint32_t gen;			/* that it was last out in */
	bool given;			/* a descriptor was ever read */
	bool out;			/* of gen: neither returned nor disconnected */
	bool recalled;			/* RECALL of gen was given to the application */
	bool answered;			/* RETURNED of gen came, if too late */
	bool disconnected, gone;
};

static _Atomic uint64_t grant_ids = 1;

/* Locked. */
static bool grant_is_out(const struct pinlease_grant *g)
{
	return g->out && g->gen == pl_account_gen(&g->lease->account);
}

/* Locked. Not out any more; told: it has said what it wrote. True: a break may go on. */
static bool grant_back(struct pinlease_grant *g, bool told)
{
	bool was = grant_is_out(g);

	g->out = false;
	if (!was)
		return false;
	g->lease->grants->out--;
	if (told && g->access == PINLEASE_WRITE)
		g->lease->grants->untold--;
	return true;
}

static int grant_check(struct pinlease *lease, const struct pinlease_grant_opts *o)
{
	if (o->access > PINLEASE_WRITE || o->reserved || (o->align & (o->align - 1)))
		return -EINVAL;
	if (o->access > lease->access)
		return -EACCES;
	if (o->off >= lease->range.len || o->len > lease->range.len - o->off)
		return -ERANGE;
	/* Parts of pages that nobody has read from the file would be written back as zeros. */
	if (lease->flags & PINLEASE_L_FILL_NONE)
		return -EINVAL;
	return 0;
}

/* Locked. The first grant names the lease to its peers. */
static int grants_make(struct pinlease *lease, uint64_t id)
{
	struct pl_grants *grants;

	if (lease->grants)
		return 0;
	grants = pl_sys_alloc(sizeof(*grants));
	if (!grants)
		return -ENOMEM;
	pl_list_init(&grants->list);
	grants->id = id;
	lease->grants = grants;
	return 0;
}

PL_API int pinlease_grant_new(struct pinlease *lease, const struct pinlease_grant_opts *opts,
			      struct pinlease_grant **grant)
{
	struct pinlease_grant_opts o;
	struct pinlease_grant *g;
	int r;

	if (!lease || !grant)
		return -EINVAL;
	if (pl_forked(lease->fork_gen))
		return -ECHILD;
	r = pl_opts_in(&o, sizeof(o), sizeof(o), opts);
	if (!r)
		r = grant_check(lease, &o);
	if (r)
		return r;
	g = pl_sys_alloc(sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->lease = lease;
	g->fork_gen = lease->fork_gen;
	g->id = atomic_fetch_add(&grant_ids, 1);
	g->off = o.off;
	g->len = o.len ? o.len : lease->range.len - o.off;
	g->access = o.access ? o.access : lease->access;
	g->align = o.align ? o.align : 1;
	g->mr_index = o.mr_index;
	g->user = o.user;
	pthread_mutex_lock(&lease->file->lock);
	r = g->mr_index >= lease->reg_count ? -ERANGE : grants_make(lease, g->id);
	if (!r)
		pl_list_add_tail(&lease->grants->list, &g->link);
	pthread_mutex_unlock(&lease->file->lock);
	if (r)
		pl_sys_free(g);
	else
		*grant = g;
	return r;
}

/* Locked. The message of this type; what it means for the break is counted only if buf holds it. */
static int grant_encode(struct pinlease_grant *g, uint32_t type, void *buf, size_t cap)
{
	struct pinlease *lease = g->lease;
	struct pl_wire w = { .type = type, .gen = g->gen, .lease = lease->grants->id, .grant = g->id };
	uint64_t left = pl_sub_sat(lease->until_ns, pl_sys_now()) / PL_NS_PER_MS;

	if (type == PL_WIRE_RECALL)
		w.left_ms = pl_lease_state(lease) == PINLEASE_ACTIVE ? UINT32_MAX :
								      (uint32_t)pl_min_u64(left, UINT32_MAX);
	if (type == PL_WIRE_GRANT || type == PL_WIRE_RESTORED) {
		w.gen = pl_account_gen(&lease->account);
		w.addr = lease->iova + g->off;
		w.len = g->len;
		w.rkey = lease->regs[g->mr_index].handle.rkey;
		w.access = g->access;
		w.align = g->align;
	}
	return pl_wire_encode(&w, buf, cap);
}

/* Locked, ACTIVE. From here on a break waits for it. */
static int grant_give(struct pinlease_grant *g, uint32_t type, void *buf, size_t cap)
{
	struct pinlease *lease = g->lease;
	bool again = grant_is_out(g);
	int r = grant_encode(g, type, buf, cap);

	if (r < 0)
		return r;
	g->gen = pl_account_gen(&lease->account);
	g->given = g->out = true;
	g->recalled = g->answered = false;
	if (!again) {
		lease->grants->out++;
		lease->grants->untold += g->access == PINLEASE_WRITE;
	}
	return r;
}

PL_API int pinlease_grant_descriptor(struct pinlease_grant *grant, void *buf, size_t cap)
{
	struct pinlease *lease;
	int r;

	if (!grant || !buf)
		return -EINVAL;
	if (pl_forked(grant->fork_gen))
		return -ECHILD;
	lease = grant->lease;
	pthread_mutex_lock(&lease->file->lock);
	if (grant->disconnected || grant->gone)
		r = -ENOTCONN;
	else if (pl_lease_state(lease) != PINLEASE_ACTIVE)
		r = -EAGAIN;
	else if (grant->off + grant->len > lease->now_len)
		r = -ENODATA;
	else
		r = grant_give(grant, PL_WIRE_GRANT, buf, cap);
	pthread_mutex_unlock(&lease->file->lock);
	return r;
}

/*
 * Locked, ACTIVE in a later generation. A peer that has not answered its RECALL yet is not given the
 * next one: it would hold up each break for the whole deadline, and do nothing with it.
 */
static uint32_t grant_due_anew(const struct pinlease_grant *g, bool ends)
{
	if (ends || g->off + g->len > g->lease->now_len)
		return PL_WIRE_GONE;
	return g->recalled && !g->answered ? 0 : PL_WIRE_RESTORED;
}

/* Locked. What the peer has to be told now; 0: nothing. */
static uint32_t grant_due(const struct pinlease_grant *g, bool ends)
{
	struct pinlease *lease = g->lease;
	enum pinlease_state state = pl_lease_state(lease);

	if (!g->given || g->disconnected || g->gone)
		return 0;
	if (state == PINLEASE_LOST)
		return PL_WIRE_GONE;
	if (state == PINLEASE_ACTIVE && g->gen != pl_account_gen(&lease->account))
		return grant_due_anew(g, ends);
	if (!g->out)
		return ends ? PL_WIRE_GONE : 0;
	return !g->recalled && (ends || state != PINLEASE_ACTIVE) ? PL_WIRE_RECALL : 0;
}

PL_API int pinlease_grant_message(struct pinlease_grant *grant, uint32_t flags, void *buf, size_t cap)
{
	struct pinlease *lease;
	uint32_t due;
	int r = 0;

	if (!grant || !buf || (flags & ~PINLEASE_GRANT_END))
		return -EINVAL;
	if (pl_forked(grant->fork_gen))
		return -ECHILD;
	lease = grant->lease;
	pthread_mutex_lock(&lease->file->lock);
	due = grant_due(grant, flags & PINLEASE_GRANT_END);
	if (due == PL_WIRE_RESTORED)
		r = grant_give(grant, due, buf, cap);
	else if (due)
		r = grant_encode(grant, due, buf, cap);
	if (r > 0) {
		grant->recalled |= due == PL_WIRE_RECALL;
		grant->gone |= due == PL_WIRE_GONE;
	}
	pthread_mutex_unlock(&lease->file->lock);
	return r;
}

/* Before anything is believed of it. */
static int grant_judge(const struct pinlease_grant *g, const struct pl_wire *w)
{
	uint32_t i;

	if (w->type != PL_WIRE_RETURNED || w->grant != g->id || w->lease != g->lease->grants->id)
		return -EPROTO;
	if (w->count && g->access != PINLEASE_WRITE)
		return -EPROTO;
	for (i = 0; i < w->count; i++)
		if (w->range[i].off + w->range[i].len > g->len)
			return -EPROTO;
	return 0;
}

/* Locked. 1: a break may go on. */
static int grant_take(struct pinlease_grant *g, const struct pl_wire *w)
{
	struct pinlease *lease = g->lease;
	uint32_t i;
	int r = grant_judge(g, w);

	if (r)
		return r;
	if (w->gen != g->gen)
		return -ESTALE;
	g->answered = true;
	if (!grant_is_out(g) || lease->written)
		return -ESTALE;
	for (i = 0; i < w->count && pl_lease_writes_back(lease); i++)
		pl_staged_mark(lease->staged, g->off + w->range[i].off, w->range[i].len);
	return grant_back(g, true);
}

PL_API int pinlease_grant_received(struct pinlease_grant *grant, const void *buf, size_t len)
{
	struct pinlease *lease;
	struct pl_wire w;
	int r;

	if (!grant || !buf)
		return -EINVAL;
	if (pl_forked(grant->fork_gen))
		return -ECHILD;
	r = pl_wire_decode(buf, len, &w);
	if (r)
		return r;
	lease = grant->lease;
	pthread_mutex_lock(&lease->file->lock);
	r = grant_take(grant, &w);
	pthread_mutex_unlock(&lease->file->lock);
	if (r < 0)
		return r;
	pl_lease_poke(lease);
	return 0;
}

PL_API int pinlease_grant_disconnected(struct pinlease_grant *grant)
{
	struct pinlease *lease;
	bool poke;

	if (!grant)
		return -EINVAL;
	if (pl_forked(grant->fork_gen))
		return -ECHILD;
	lease = grant->lease;
	pthread_mutex_lock(&lease->file->lock);
	grant->disconnected = true;
	poke = grant_back(grant, false);
	pthread_mutex_unlock(&lease->file->lock);
	if (poke)
		pl_lease_poke(lease);
	return 0;
}

PL_API int pinlease_grant_next(struct pinlease *lease, struct pinlease_grant *after,
			       struct pinlease_grant **next, void **user)
{
	struct pl_list *pos;
	int r = 0;

	if (!lease || !next || (after && after->lease != lease))
		return -EINVAL;
	if (pl_forked(lease->fork_gen))
		return -ECHILD;
	pthread_mutex_lock(&lease->file->lock);
	pos = after ? after->link.next : lease->grants ? lease->grants->list.next : NULL;
	if (pos && pos != &lease->grants->list) {
		*next = pl_container(pos, struct pinlease_grant, link);
		if (user)
			*user = (*next)->user;
		r = 1;
	}
	pthread_mutex_unlock(&lease->file->lock);
	return r;
}

PL_API int pinlease_grant_free(struct pinlease_grant *grant)
{
	struct pinlease *lease;
	bool poke;

	if (!grant)
		return 0;
	if (!pl_forked(grant->fork_gen)) {
		lease = grant->lease;
		pthread_mutex_lock(&lease->file->lock);
		poke = grant_back(grant, false);
		pthread_mutex_unlock(&lease->file->lock);
		/* Before it leaves the list: until then no release frees the lease. */
		if (poke)
			pl_lease_poke(lease);
		pthread_mutex_lock(&lease->file->lock);
		pl_list_del(&grant->link);
		pthread_mutex_unlock(&lease->file->lock);
	}
	pl_sys_free(grant);
	return 0;
}
