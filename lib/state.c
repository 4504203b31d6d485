/* SPDX-License-Identifier: BSD-3-Clause */
#include "state.h"

/*
 *          acquired            break                 drained, acks in
 *   INIT ────────────▶ ACTIVE ────────▶ BREAKING ─────────────────────▶ FENCING
 *                        ▲                          or the deadline        │
 *                        │ restored                                        │ let go
 *                        └───────────────────── REVOKED ◀──────────────────┤
 *                        ▲                                                 │ expired,
 *                        └─ restored by hand ── LOST ◀─────────────────────┘ not writable
 *
 * FENCING covers deregistration, writeback and the wait until no lease of the file
 * needs the guard; a lease becomes REVOKED only when the guard has been let go, since
 * only the answer to F_UNLCK tells whether the opener was still waiting. A release
 * takes the same way (BREAKING, FENCING), so a break that comes in the middle of it
 * finds nothing left to mark and is answered when the release has fenced.
 */
const struct pl_arrow pl_lease_arrows[] = {
	{ PINLEASE_INIT, PINLEASE_ACTIVE, "acquired" },
	{ PINLEASE_INIT, PINLEASE_CLOSED, "refused" },
	{ PINLEASE_ACTIVE, PINLEASE_BREAKING, "break" },
	{ PINLEASE_BREAKING, PINLEASE_FENCING, "drained" },
	{ PINLEASE_FENCING, PINLEASE_REVOKED, "let go" },
	{ PINLEASE_FENCING, PINLEASE_LOST, "lost" },
	{ PINLEASE_FENCING, PINLEASE_CLOSED, "released" },
	{ PINLEASE_REVOKED, PINLEASE_ACTIVE, "restored" },
	{ PINLEASE_REVOKED, PINLEASE_CLOSED, "released" },
	{ PINLEASE_LOST, PINLEASE_ACTIVE, "restored by hand" },
	{ PINLEASE_LOST, PINLEASE_CLOSED, "released" },
};
const size_t pl_lease_arrow_count = sizeof(pl_lease_arrows) / sizeof(pl_lease_arrows[0]);

const struct pl_arrow pl_file_arrows[] = {
	{ PL_FILE_HELD, PL_FILE_BREAKING, "break" },
	{ PL_FILE_HELD, PL_FILE_FREE, "closed" },
	{ PL_FILE_BREAKING, PL_FILE_FREE, "let go" },
	{ PL_FILE_BREAKING, PL_FILE_EXPIRED, "expired" },
	{ PL_FILE_EXPIRED, PL_FILE_FREE, "told" },
	{ PL_FILE_FREE, PL_FILE_REARMING, "rearm" },
	{ PL_FILE_REARMING, PL_FILE_HELD, "taken" },
	{ PL_FILE_REARMING, PL_FILE_FREE, "refused" },
};
const size_t pl_file_arrow_count = sizeof(pl_file_arrows) / sizeof(pl_file_arrows[0]);

static const char *arrow_find(const struct pl_arrow *arrows, size_t count, int from, int to)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (arrows[i].from == from && arrows[i].to == to)
			return arrows[i].name;
	return NULL;
}

const char *pl_lease_arrow(enum pinlease_state from, enum pinlease_state to)
{
	return arrow_find(pl_lease_arrows, pl_lease_arrow_count, (int)from, (int)to);
}

const char *pl_file_arrow(enum pl_file_state from, enum pl_file_state to)
{
	return arrow_find(pl_file_arrows, pl_file_arrow_count, (int)from, (int)to);
}

const char *pl_lease_state_name(enum pinlease_state state)
{
	static const char *const names[] = { "INIT",	"ACTIVE",  "BREAKING", "FENCING",
					     "REVOKED", "LOST",	   "CLOSED" };

	return (size_t)state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}

const char *pl_file_state_name(enum pl_file_state state)
{
	static const char *const names[] = { "HELD", "BREAKING", "FREE", "EXPIRED", "REARMING" };

	return (size_t)state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}
