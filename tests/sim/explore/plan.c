/* SPDX-License-Identifier: BSD-3-Clause */
/* What a seed means. Each part has dice of its own, so that shrinking one changes no other. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "explore.h"

static const char *const kinds[X_KINDS] = {
	"nothing", "sync", "truncate", "punch",	     "restore",	    "anew",  "mr_add", "grant", "return",
	"fork",	   "save", "write",    "burst",	     "hold",	    "bare",  "open",   "cut",	"stop",
	"signals", "disk", "dereg",    "sync_error", "write_error", "stale", "heal",   "kill",
};

/* How long an actor waits before its next operation: mostly not, or for moments; at times for long. */
static uint32_t roll_pause(struct x_dice *d)
{
	switch (x_roll(d, 8)) {
	case 0:
		return x_roll(d, 1000 * 1000);
	case 1:
	case 2:
		return x_roll(d, 50 * 1000);
	case 3:
		return x_roll(d, 500);
	default:
		return 0;
	}
}

static void op_add(struct x_plan *p, struct x_dice *d, uint32_t actor, enum x_kind kind, uint32_t a,
		   uint32_t b)
{
	if (p->ops == X_OPS)
		return;
	p->op[p->ops++] = (struct x_op){
		.actor = (uint8_t)actor, .kind = (uint8_t)kind, .a = a, .b = b, .pause_us = roll_pause(d)
	};
}

/* A kind by its weight in the table. */
struct weight {
	uint8_t kind, weight;
};

static enum x_kind roll_kind(struct x_dice *d, const struct weight *w, unsigned int n)
{
	uint32_t sum = 0, at;
	unsigned int i;

	for (i = 0; i < n; i++)
		sum += w[i].weight;
	at = x_roll(d, sum);
	for (i = 0; at >= w[i].weight; i++)
		at -= w[i].weight;
	return w[i].kind;
}

#define ROLL_KIND(d, table) roll_kind(d, table, sizeof(table) / sizeof(*(table)))

static const struct weight main_kinds[X_PROFILES][10] = {
	[X_ALL] = { { X_SYNC, 6 },
		    { X_TRUNCATE, 2 },
		    { X_PUNCH, 2 },
		    { X_RESTORE, 3 },
		    { X_ANEW, 3 },
		    { X_MR_ADD, 1 },
		    { X_GRANT, 3 },
		    { X_FORK, 1 },
		    { X_SAVE, 1 },
		    { X_NOTHING, 1 } },
	[X_ACCOUNT] = { { X_RESTORE, 2 }, { X_GRANT, 2 }, { X_NOTHING, 2 }, { X_PUNCH, 4 } },
	[X_STAGED] = { { X_SYNC, 8 }, { X_RESTORE, 2 }, { X_PUNCH, 1 }, { X_ANEW, 1 } },
	[X_SYNCS] = { { X_SYNC, 8 } },
	[X_CHURN] = { { X_ANEW, 6 }, { X_RESTORE, 4 }, { X_MR_ADD, 2 }, { X_PUNCH, 2 }, { X_TRUNCATE, 1 } },
	[X_DEATH] = { { X_FORK, 4 }, { X_SYNC, 1 }, { X_NOTHING, 2 } },
};

static const struct weight writer_kinds[X_PROFILES][5] = {
	[X_ALL] = { { X_WRITE, 8 }, { X_BURST, 3 }, { X_HOLD, 3 }, { X_BARE, 3 }, { X_SYNC, 1 } },
	[X_ACCOUNT] = { { X_WRITE, 2 }, { X_BURST, 10 }, { X_HOLD, 6 } },
	[X_STAGED] = { { X_WRITE, 8 }, { X_BARE, 4 }, { X_SYNC, 4 }, { X_HOLD, 2 } },
	[X_SYNCS] = { { X_WRITE, 6 }, { X_SYNC, 6 } },
	[X_CHURN] = { { X_WRITE, 6 }, { X_BARE, 2 }, { X_HOLD, 1 } },
	[X_DEATH] = { { X_WRITE, 4 }, { X_BARE, 4 } },
};

static const struct weight trouble_kinds[X_PROFILES][10] = {
	[X_ALL] = { { X_STOP, 3 },
		    { X_SIGNALS, 2 },
		    { X_DISK, 2 },
		    { X_DEREG, 3 },
		    { X_SYNC_ERROR, 2 },
		    { X_WRITE_ERROR, 2 },
		    { X_STALE, 2 },
		    { X_HEAL, 2 },
		    { X_NOTHING, 6 } },
	[X_ACCOUNT] = { { X_STALE, 2 }, { X_SIGNALS, 1 }, { X_NOTHING, 8 } },
	[X_STAGED] = { { X_SIGNALS, 2 },
		       { X_STOP, 4 },
		       { X_DISK, 3 },
		       { X_SYNC_ERROR, 4 },
		       { X_WRITE_ERROR, 2 },
		       { X_HEAL, 3 } },
	[X_SYNCS] = { { X_SYNC_ERROR, 6 }, { X_DISK, 3 }, { X_STOP, 2 }, { X_HEAL, 1 } },
	[X_CHURN] = { { X_WRITE_ERROR, 4 },
		      { X_DEREG, 2 },
		      { X_SIGNALS, 1 },
		      { X_DISK, 1 },
		      { X_HEAL, 1 },
		      { X_NOTHING, 6 } },
	[X_DEATH] = { { X_KILL, 4 }, { X_NOTHING, 3 } },
};

static void plan_leases(struct x_plan *p, struct x_dice *d, enum x_profile profile)
{
	static const uint32_t modes[] = { PINLEASE_MODE_AUTO, PINLEASE_MODE_PINNED, PINLEASE_MODE_STAGED,
					  PINLEASE_MODE_STAGED };
	static const uint32_t deadlines[] = { 1, 20, 100, 400, 3000 };
	uint32_t i, at[X_FILES] = { 0 };
	struct x_lease_plan *l;

	p->leases = 1 + x_roll(d, X_LEASES - 1);
	for (i = 0; i < p->leases; i++) {
		l = &p->lease[i];
		l->file = i % p->files;
		l->page = at[l->file];
		l->pages = 1 + x_roll(d, X_PAGES / (X_LEASES - 1));
		at[l->file] += l->pages;
		l->access = p->access[l->file] == PINLEASE_READ || !x_roll(d, 12) ? PINLEASE_READ
										  : PINLEASE_WRITE;
		l->mode = profile == X_STAGED || profile == X_SYNCS ? PINLEASE_MODE_STAGED
								    : modes[x_roll(d, 4)];
		/* Refused: dirty-tracked page cache is never pinned for writing. */
		if (p->fs == SIM_EXT4 && l->mode == PINLEASE_MODE_PINNED && l->access == PINLEASE_WRITE)
			l->mode = PINLEASE_MODE_AUTO;
		l->deadline_ms = deadlines[x_roll(d, 5)];
		if (!x_roll(d, 4))
			l->flags |= PINLEASE_L_ACK;
		if (!x_roll(d, 5))
			l->flags |= PINLEASE_L_MANUAL;
		if (l->access == PINLEASE_WRITE && x_roll(d, 2))
			l->flags |= PINLEASE_L_DIRTY_TOLD;
	}
}

/* One lease, which is fenced as soon as nothing is counted, and everybody at it. */
static void plan_race(struct x_plan *p)
{
	p->leases = p->files = 1;
	p->writers = X_WRITERS;
	p->lease[0].flags = 0;
	p->lease[0].deadline_ms = 400;
	p->odp = SIM_ODP_NONE;
	p->break_time_s = 45;
}

static void plan_ops(struct x_plan *p, enum x_profile profile)
{
	struct x_dice d = { .state = p->seed * 31 + 7 };
	uint32_t i, n, actor;

	for (i = 0, n = x_roll(&d, 6); i < n; i++)
		op_add(p, &d, X_MAIN, ROLL_KIND(&d, main_kinds[profile]), x_roll(&d, p->leases),
		       x_roll(&d, 1u << 20));
	for (actor = 0; actor < p->writers; actor++)
		for (i = 0, n = 1 + x_roll(&d, 7); i < n; i++)
			op_add(p, &d, X_WRITER + actor, ROLL_KIND(&d, writer_kinds[profile]),
			       x_roll(&d, p->leases), x_roll(&d, 1u << 20));
	for (actor = 0; actor < p->openers; actor++)
		for (i = 0, n = 1 + x_roll(&d, 3); i < n; i++)
			op_add(p, &d, X_OPENER + actor, x_roll(&d, 3) ? X_OPEN : X_CUT, x_roll(&d, p->files),
			       x_roll(&d, 1u << 20));
	for (i = 0, n = x_roll(&d, 2) ? x_roll(&d, 4) : 0; i < n || (!i && profile == X_DEATH); i++)
		op_add(p, &d, X_TROUBLE, ROLL_KIND(&d, trouble_kinds[profile]), x_roll(&d, p->leases),
		       x_roll(&d, 1u << 20));
	/* A death at any moment, in one run of eight. */
	if (profile == X_ALL && !x_roll(&d, 8))
		op_add(p, &d, X_TROUBLE, X_KILL, 0, x_roll(&d, 1u << 20));
}

void x_plan_make(struct x_plan *p, uint64_t seed, enum x_profile profile)
{
	static const uint32_t times[] = { 2, 5, 10, 45, 45, 45 };
	struct x_dice d = { .state = seed * 17 + 3 };
	uint32_t i;

	if (profile == X_IN_TURN)
		profile = (enum x_profile)(seed % X_PROFILES);
	*p = (struct x_plan){ .seed = seed, .order = seed, .profile = profile };
	p->files = 1 + !x_roll(&d, 3);
	for (i = 0; i < p->files; i++)
		p->access[i] = x_roll(&d, 6) ? PINLEASE_WRITE : PINLEASE_READ;
	p->fs = x_roll(&d, 3) ? SIM_TMPFS : SIM_EXT4;
	p->odp = x_roll(&d, 2) ? SIM_ODP_NONE : SIM_ODP_GOOD;
	p->break_time_s = times[x_roll(&d, profile == X_STAGED || profile == X_SYNCS ? 3 : 6)];
	p->no_membarrier = !x_roll(&d, profile == X_ACCOUNT ? 2 : 8);
	p->buffers = x_roll(&d, 3);
	p->drain = (const uint32_t[]){ 4, 40, 400 }[x_roll(&d, 3)];
	p->late_device = x_roll(&d, 2);
	p->stall = (const uint32_t[]){ 12, 40, 120 }[x_roll(&d, 3)];
	p->strategy = x_roll(&d, 2);
	p->stay = (const uint32_t[]){ 0, 32, 56, 62 }[x_roll(&d, 4)];
	p->writers = 1 + x_roll(&d, X_WRITERS);
	p->openers = 1 + x_roll(&d, X_OPENERS);
	plan_leases(p, &d, profile);
	if (profile == X_ACCOUNT)
		plan_race(p);
	plan_ops(p, profile);
}

void x_plan_print(const struct x_plan *p)
{
	const struct x_lease_plan *l;
	const struct x_op *op;
	uint32_t i;

	printf("  %s, ODP %d, lease-break-time %u s%s%s, device opened %s the files, order %llu\n",
	       p->fs == SIM_TMPFS ? "tmpfs" : "ext4", p->odp, p->break_time_s,
	       p->no_membarrier ? ", no membarrier" : "", p->buffers ? ", store buffers" : "",
	       p->late_device ? "after" : "before", (unsigned long long)p->order);
	for (i = 0; i < p->leases; i++) {
		l = &p->lease[i];
		printf("  lease %u: file %u pages %u+%u mode %u access %u flags %#x deadline %u ms\n", i,
		       l->file, l->page, l->pages, l->mode, l->access, l->flags, l->deadline_ms);
	}
	for (i = 0; i < p->ops; i++) {
		op = &p->op[i];
		if (!op->off)
			printf("  op %u: actor %u, %u us later: %s %u %u\n", i, op->actor, op->pause_us,
			       kinds[op->kind], op->a, op->b);
	}
}
