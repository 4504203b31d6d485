/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ladder_keep FS: a peer that returns keeps its connection. Breaks under full load, over one connection: none
 * is lost, no acknowledged write is missing, no break runs into its deadline. On tmpfs (pinned) the
 * connection that is written over carries the messages, too; on ext4 (staged) a TCP socket does.
 *
 * Throughput after a break is measured in pairs: half a second from half a second after RESTORED,
 * and the half second behind it. It is judged where there are enough pairs for a median, in the long tier.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ladder.h"
#include "rounds.h"

#define SLOTS	    64u
#define FULL	    (SLOTS * (uint64_t)RT_SLOT)
#define LOAD	    200u /* writes acknowledged before each break */
#define DEADLINE_MS 5000u
#define WINDOW_NS   500000000u
#define JUDGED	    50u /* pairs, at least */
#define PAIRS	    256u

static double ratio[PAIRS];
static unsigned int pairs;

static int by_size(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(void)
{
	qsort(ratio, pairs, sizeof(ratio[0]), by_size);
	return (ratio[(pairs - 1) / 2] + ratio[pairs / 2]) / 2;
}

/* Writes acknowledged from ns on for a window. */
static uint64_t window(struct ladder *l, uint64_t ns)
{
	struct ladder_peer *p = l->link[0].peer;
	uint64_t before;

	ladder_until(l, kt_now() >= ns, "a window");
	before = atomic_load(&p->books.acked);
	ladder_until(l, kt_now() >= ns + WINDOW_NS, "its end");
	return atomic_load(&p->books.acked) - before;
}

static void measure(struct ladder *l)
{
	uint64_t at = l->restored_ns + WINDOW_NS, after = window(l, at), later = window(l, at + WINDOW_NS);

	/* A busy machine may do nothing for half a second; the median bears that. */
	ratio[pairs++] = (double)after / (double)(later ? later : 1);
}

/* Answers how long the opener was held up, in ms. */
static unsigned int break_under_load(struct ladder *l, unsigned int round)
{
	struct ladder_peer *p = l->link[0].peer;
	struct kt_call *opener;
	unsigned int ms;
	uint32_t keys;

	ladder_load(l, LOAD);
	keys = atomic_load(&p->grants);
	opener = ladder_break(l);
	ms = ladder_opener_ms(l, opener);
	ladder_until(l, l->restored > round, "RESTORED");
	rt_assert(l->broken == round + 1 && l->revoked == round + 1, "%u breaks, %u revoked in round %u",
		  l->broken, l->revoked, round);
	rt_assert(!l->cut, "%llu operations cut off", (unsigned long long)l->cut);
	ladder_until(l, atomic_load(&p->grants) > keys || !ladder_lives(&l->link[0]), "the new key");
	rt_assert(ladder_lives(&l->link[0]), "round %u lost the connection: %d, status %u, peer %d", round,
		  l->link[0].dead, atomic_load(&p->books.error), atomic_load(&p->ended));
	return ms;
}

int main(int argc, char **argv)
{
	unsigned int i, ms, longest = 0, rounds, every;
	static struct ladder l;
	uint64_t acked;
	double back;
	bool tcp;

	rt_assert(argc == 2, "usage: ladder_keep FILESYSTEM");
	kt_init();
	rt_require();
	tcp = strcmp(argv[1], "tmpfs");
	rounds = pl_rounds(tcp ? PL_R_ladder_breaks_tcp : PL_R_ladder_breaks);
	every = rounds / pl_rounds(PL_R_ladder_pairs);
	ladder_setup(&l, argv[1], 1, FULL, tcp);
	l.dev.stubborn = true;
	ladder_open(&l, PINLEASE_L_GRANTED, DEADLINE_MS);
	for (i = 0; i < rounds; i++) {
		ms = break_under_load(&l, i);
		longest = ms > longest ? ms : longest;
		if (i % every == every - 1 && pairs < PAIRS)
			measure(&l);
	}
	acked = atomic_load(&l.link[0].peer->books.acked);
	ladder_close(&l);
	back = median();
	printf("%s, %s: %u breaks, 1 connection, 0 lost, %llu writes acknowledged, 0 missing, opener held up "
	       "at "
	       "most %u ms, throughput within a second of RESTORED %.3f (median of %u pairs, %.3f to %.3f)\n",
	       argv[1], tcp ? "TCP" : "SEND", rounds, (unsigned long long)acked, longest, ratio[pairs / 2],
	       pairs, ratio[0], ratio[pairs - 1]);
	if (pairs >= JUDGED)
		rt_assert(back >= 0.95, "throughput does not come back");
	return 0;
}
