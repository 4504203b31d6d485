/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Everything at once, by the dice: leases of all modes on one file, threads that write
 * through them, openers of all kinds, own changes, syncs, acks that come or do not, a
 * provider that refuses now and then, a slow disk, lost signals. The judge watches; at
 * the end every write that landed must be in the file (I4), unless LOST said otherwise,
 * no opener may have waited for the kernel's own clock (I6), and nothing is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "rounds.h"
#include "world.h"

#define LEASES	  3
#define PAGES	  4u /* of each lease, one thread each lease */
#define LASTS	  (3 * SIM_S)
#define OPENERS	  8
#define OPENER_NS (2 * SIM_S) /* the longest deadline, and what may come on top of it */

struct dice {
	uint64_t state;
};

static uint32_t roll(struct dice *d, uint32_t sides)
{
	uint64_t z = (d->state += 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)((z ^ z >> 31) % sides);
}

struct writer {
	struct pinlease *lease;
	struct dice dice;
	_Atomic bool stop;
	unsigned int landed[PAGES]; /* the last seed that landed in each page */
	unsigned int writes;
};

struct storm {
	struct world *w;
	struct dice dice;
	struct writer writer[LEASES];
	struct sim_thread *thread[LEASES];
	struct sim_opener *opener[OPENERS];
	uint64_t leaves[OPENERS]; /* when the opener closes */
	bool killed[OPENERS];	  /* or is killed, wherever it is then */
	bool lost[LEASES];
	bool stopped; /* longer than the kernel waits: openers may have gone on */
	unsigned int events[8], openers;
};

/* One write, from begin to end; sometimes the end comes much later, or the application never waited. */
static void write_once(struct writer *t)
{
	struct pinlease_view view = { .size = sizeof(view) };
	unsigned int page = roll(&t->dice, PAGES), seed = 1000 + t->writes;
	struct sim_dma dma = { .state = SIM_DMA_IDLE };
	uint32_t gen;

	if (pinlease_dma_begin(t->lease, 1, &gen)) {
		sim_sleep((1 + roll(&t->dice, 20)) * SIM_MS);
		return;
	}
	if (!pinlease_view_get(t->lease, 0, &view) && view.gen == gen && view.len == PAGES * SIM_PAGE) {
		t->writes++;
		pinlease_mark_dirty(t->lease, page * SIM_PAGE, SIM_PAGE);
		sim_dma_write(&dma, view.rkey, view.iova + page * SIM_PAGE, SIM_PAGE, seed,
			      roll(&t->dice, 8) ? roll(&t->dice, 3000) * 1000 : roll(&t->dice, 600) * SIM_MS);
		if (sim_dma_wait(&dma) == SIM_DMA_LANDED)
			t->landed[page] = seed;
	}
	if (!roll(&t->dice, 10))
		sim_sleep(roll(&t->dice, 700) * SIM_MS);
	pinlease_dma_end(t->lease, 1, gen);
}

static void *write_on(void *arg)
{
	struct writer *t = arg;
	int r;

	while (!atomic_load(&t->stop)) {
		write_once(t);
		if (roll(&t->dice, 16))
			continue;
		r = pinlease_sync(t->lease, 0, 0, 0);
		assert_true(!r || r == -EAGAIN || r == -ENOSPC);
	}
	return NULL;
}

static void storm_lease(struct storm *s, unsigned int i)
{
	static const uint32_t modes[] = { PINLEASE_MODE_PINNED, PINLEASE_MODE_STAGED };
	struct pinlease_opts o = { .mode = modes[roll(&s->dice, 2)], .user = &s->lost[i] };

	o.deadline_ms = 20 + roll(&s->dice, 400);
	if (!roll(&s->dice, 3))
		o.flags |= PINLEASE_L_ACK;
	if (!roll(&s->dice, 3))
		o.flags |= PINLEASE_L_MANUAL;
	if (roll(&s->dice, 2))
		o.flags |= PINLEASE_L_DIRTY_TOLD;
	s->writer[i].lease = world_lease(s->w, i * PAGES * SIM_PAGE, PAGES * SIM_PAGE, &o);
	s->writer[i].dice.state = s->dice.state + i;
	s->thread[i] = sim_thread_start(write_on, &s->writer[i]);
}

static void storm_event(struct storm *s, const struct pinlease_event *ev)
{
	s->events[ev->type]++;
	if (ev->type == PINLEASE_EV_LOST)
		*(bool *)ev->user = true;
	if (ev->type == PINLEASE_EV_BREAK && roll(&s->dice, 3))
		assert_int_equal(pinlease_ack(ev->lease, ev->gen), 0);
	/* By hand, at once: it may be too early, and then comes another break, or none. */
	if (ev->type == PINLEASE_EV_REVOKED || ev->type == PINLEASE_EV_LOST ||
	    ev->type == PINLEASE_EV_RESTORE_FAILED)
		pinlease_restore(ev->lease, NULL);
}

static void storm_events(struct storm *s)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(s->w->ctx, &ev) == 1)
		storm_event(s, &ev);
}

static struct sim_opener *storm_comer(struct storm *s)
{
	static const int flags[] = { O_RDONLY, O_RDWR, O_WRONLY, O_RDONLY | O_NONBLOCK, O_RDWR | O_NONBLOCK };
	uint32_t kind = roll(&s->dice, 8);

	if (kind >= sizeof(flags) / sizeof(*flags))
		return sim_truncate(s->w->path, WORLD_SIZE);
	return sim_open(s->w->path, flags[kind]);
}

static void storm_leave(struct storm *s, unsigned int i)
{
	if (!s->stopped) {
		assert_false(sim_opener_expired(s->opener[i]));
		assert_in_range(sim_opener_ns(s->opener[i]), 0, OPENER_NS);
	}
	sim_opener_end(s->opener[i]);
	s->opener[i] = NULL;
}

static void storm_openers(struct storm *s)
{
	unsigned int i;

	for (i = 0; i < OPENERS; i++) {
		if (!s->opener[i] && !roll(&s->dice, 600)) {
			s->opener[i] = storm_comer(s);
			s->leaves[i] = sim_now() + roll(&s->dice, 30) * SIM_MS;
			s->killed[i] = !roll(&s->dice, 4);
			s->openers++;
		} else if (s->opener[i] && sim_now() >= s->leaves[i] &&
			   (s->killed[i] || sim_opener_done(s->opener[i]))) {
			storm_leave(s, i);
		}
	}
}

static void storm_trouble(struct storm *s)
{
	int r = 0;

	switch (roll(&s->dice, 120)) {
	case 0:
		sim_clear();
		sim_fail("dereg_mr", 1 + roll(&s->dice, 3), -EBUSY, 1 + roll(&s->dice, 4));
		break;
	case 1:
		sim_slow("pwrite", roll(&s->dice, 20) * SIM_MS);
		break;
	case 2:
		sim_slow("dereg_mr", roll(&s->dice, 30) * SIM_MS);
		break;
	case 3:
		sim_signal_room(roll(&s->dice, 2) * 100);
		break;
	case 4:
		r = pinlease_file_truncate(s->w->file, WORLD_SIZE - roll(&s->dice, 4) * SIM_PAGE);
		break;
	case 5:
	case 6:
		/* tmpfs says no, but nobody knows that before the leases are out of the way. */
		r = pinlease_file_allocate(s->w->file, FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE,
					   roll(&s->dice, 10) * SIM_PAGE, 3 * SIM_PAGE);
		break;
	case 7:
		s->stopped |= !roll(&s->dice, 30);
		sim_stop();
		if (s->stopped && !roll(&s->dice, 4))
			storm_openers(s);
		sim_sleep(s->stopped ? 7 * SIM_S : roll(&s->dice, 300) * SIM_MS);
		sim_continue();
		break;
	case 8:
		sim_clear();
		break;
	case 9:
		sim_clear();
		sim_fail("pwrite", 1 + roll(&s->dice, 5), -ENOSPC, 1);
		break;
	default:
		break;
	}
	assert_true(!r || r == -EAGAIN || r == -EBUSY || r == -EOPNOTSUPP);
}

/* Writers stop, everybody leaves, everything is given back. */
static void storm_ends(struct storm *s)
{
	unsigned int i;

	sim_clear();
	sim_signal_room(1000);
	for (i = 0; i < LEASES; i++)
		atomic_store(&s->writer[i].stop, true);
	for (i = 0; i < LEASES; i++)
		sim_thread_join(s->thread[i]);
	for (i = 0; i < OPENERS; i++) {
		if (!s->opener[i])
			continue;
		assert_true(sim_opener_wait(s->opener[i], 4 * OPENER_NS));
		storm_leave(s, i);
	}
	sim_sleep(2 * SIM_S);
	storm_events(s);
}

static void storm_check(const struct storm *s, const char *path)
{
	unsigned int i, page, seed;

	for (i = 0; i < LEASES; i++) {
		for (page = 0; page < PAGES && !s->lost[i]; page++) {
			seed = s->writer[i].landed[page];
			if (seed && !sim_file_is(path, (i * PAGES + page) * SIM_PAGE, SIM_PAGE, seed))
				fail_msg("lease %u page %u: write %u is not in the file", i, page, seed);
		}
	}
}

/* Answers how often a lease was restored, beside traffic. */
static unsigned int storm(struct world *w, uint64_t number)
{
	struct storm *s = calloc(1, sizeof(*s));
	unsigned int i, writes = 0, restored;
	const char *path;
	uint64_t end;

	assert_non_null(s);
	s->w = w;
	s->dice.state = number * 7919;
	sim_break_time(2 + roll(&s->dice, 5));
	world_open(w, PINLEASE_WRITE);
	path = w->path;
	sim_sleep(SIM_S);
	for (i = 0; i < LEASES; i++)
		storm_lease(s, i);
	for (end = sim_now() + LASTS; sim_now() < end; sim_sleep(SIM_MS)) {
		storm_openers(s);
		storm_trouble(s);
		storm_events(s);
	}
	storm_ends(s);
	world_close(w);
	storm_check(s, path);
	for (i = 0; i < LEASES; i++)
		writes += s->writer[i].writes;
	print_message(
		"storm %2u: %3u openers, %4u writes, %3u breaks told, %3u revoked, %2u lost, %3u restored\n",
		(unsigned int)number, s->openers, writes, s->events[PINLEASE_EV_BREAK],
		s->events[PINLEASE_EV_REVOKED], s->events[PINLEASE_EV_LOST], s->events[PINLEASE_EV_RESTORED]);
	restored = writes && s->openers ? s->events[PINLEASE_EV_RESTORED] : 0;
	free(s);
	sim_check();
	return restored;
}

static void test_storm(struct world *w)
{
	unsigned int i, rounds = pl_rounds(PL_R_sim_storms), restored = 0;

	for (i = 1; i <= rounds; i++)
		restored += storm(w, i);
	assert_in_range(restored, rounds, 100 * rounds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_storm),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
