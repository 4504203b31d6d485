/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ladder_keep FS: a peer that returns keeps its connection. Breaks under full load, over one connection: none
 * is lost, no acknowledged write is missing, no break runs into its deadline. On tmpfs (pinned) the
 * connection that is written over carries the messages, too; on ext4 (staged) a TCP socket does.
 *
 * Throughput: the writes acknowledged in the second after RESTORED, but for its first quarter, of many
 * breaks, by those in as long a time before these breaks, which begins a second after the one before. So a
 * connection that stands still after some breaks counts as much as one that is slow after all. What the
 * second half of that time has by the first, with no break between, shows what of it is the machine's. It is
 * judged where there are enough breaks, in the long tier.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ladder.h"
#include "rounds.h"

#define SLOTS	    64u
#define FULL	    (SLOTS * (uint64_t)RT_SLOT)
#define LOAD	    200u /* writes acknowledged before each break */
#define DEADLINE_MS 5000u
#define SECOND_NS   1000000000u
#define QUARTER_NS  (SECOND_NS / 4)
#define HALF_NS	    (3 * QUARTER_NS / 2) /* of what is measured */
#define JUDGED	    200u		 /* breaks, at least */
#define BREAKS	    256u

/* Writes acknowledged before each break, in two halves, and after it. */
static struct {
	double first, second, after;
} got[BREAKS];
static unsigned int measured;

/* Writes acknowledged from ns on. */
static double window(struct ladder *l, uint64_t ns, uint64_t len)
{
	struct ladder_peer *p = l->link[0].peer;
	uint64_t before;

	ladder_until(l, kt_now() >= ns, "a window");
	before = atomic_load(&p->books.acked);
	ladder_until(l, kt_now() >= ns + len, "its end");
	return (double)(atomic_load(&p->books.acked) - before);
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

static unsigned int break_measured(struct ladder *l, unsigned int round)
{
	uint64_t at = l->restored_ns + SECOND_NS, now = kt_now();
	unsigned int ms;

	at = now > at ? now : at;
	got[measured].first = window(l, at, HALF_NS);
	got[measured].second = window(l, at + HALF_NS, HALF_NS);
	ms = break_under_load(l, round);
	got[measured].after = window(l, l->restored_ns + QUARTER_NS, 2 * HALF_NS);
	measured++;
	return ms;
}

static void judge(void)
{
	double first = 0, second = 0, after = 0, squares = 0, off, back;
	unsigned int i;

	for (i = 0; i < measured; i++) {
		first += got[i].first;
		second += got[i].second;
		after += got[i].after;
	}
	rt_assert(first > 0 && second > 0, "no write was acknowledged undisturbed");
	back = after / (first + second);
	for (i = 0; i < measured; i++) {
		off = got[i].after - back * (got[i].first + got[i].second);
		squares += off * off;
	}
	printf("writes within a second of RESTORED, by those before the break: %.3f, standard error %.3f "
	       "(%.0f in %u "
	       "breaks; with no break between: %.3f)\n",
	       back, sqrt(squares) / (first + second), after, measured, second / first);
	if (measured >= JUDGED)
		rt_assert(back >= 0.95, "throughput does not come back");
}

int main(int argc, char **argv)
{
	unsigned int i, ms, longest = 0, rounds, bare;
	static struct ladder l;
	uint64_t acked;
	bool tcp;

	rt_assert(argc == 2, "usage: ladder_keep FILESYSTEM");
	kt_init();
	rt_require();
	tcp = strcmp(argv[1], "tmpfs");
	rounds = pl_rounds(tcp ? PL_R_ladder_breaks_tcp : PL_R_ladder_breaks);
	bare = rounds - pl_rounds(PL_R_ladder_measured);
	ladder_setup(&l, argv[1], 1, FULL, tcp);
	l.dev.stubborn = true;
	ladder_open(&l, PINLEASE_L_GRANTED, DEADLINE_MS);
	for (i = 0; i < rounds; i++) {
		ms = i >= bare && measured < BREAKS ? break_measured(&l, i) : break_under_load(&l, i);
		longest = ms > longest ? ms : longest;
	}
	acked = atomic_load(&l.link[0].peer->books.acked);
	ladder_close(&l);
	printf("%s, %s: %u breaks, 1 connection, 0 lost, %llu writes acknowledged, 0 missing, opener held up "
	       "at most %u ms\n",
	       argv[1], tcp ? "TCP" : "SEND", rounds, (unsigned long long)acked, longest);
	judge();
	return 0;
}
