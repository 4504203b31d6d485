/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The public calls and what comes from outside, in any order, on the simulated kernel. Its judge
 * looks for I1 and I2 (sim_judge.c); here it is seen that a lease that is broken grants nothing
 * (I3), that what landed is in the file unless LOST said it is not (I4), that a sync which
 * returns 0 has put it there, that no opener waits for the kernel's clock (I6), and that at
 * the end everything can be given back and nothing is left.
 *
 * An input: the world in a byte, then a byte for each step, with what belongs to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <linux/falloc.h>
#include <stdbool.h>

#include <pinlease.h>

#include "fuzz.h"
#include "sim.h"

#define LEASES	  3
#define PAGES	  4u /* of each */
#define SIZE	  (16 * SIM_PAGE)
#define WRITES	  8
#define OPENERS	  4
#define STEPS	  64u
#define OPENER_NS (2 * SIM_S) /* the longest deadline, and what may come on top of it */

/* One operation, from begin to end. */
struct write {
	struct sim_dma dma;
	bool flying;
	unsigned int lease, page;
	uint32_t gen;
};

/* What is known of a page: the last seed that landed in it; 0: nothing is. */
struct page {
	unsigned int seed;
	uint64_t when;
	uint32_t gen;
};

struct owner {
	struct pinlease *lease;
	struct page page[PAGES];
	uint32_t lost_gen;
};

static struct api {
	struct fuzz_input in;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct ibv_pd *pd;
	const char *path;
	struct owner owner[LEASES];
	struct write write[WRITES];
	struct sim_opener *opener[OPENERS];
	unsigned int seed;
	bool stopped; /* longer than the kernel waits: openers may have gone on */
} api;

static uint32_t state_of(struct pinlease *lease, uint32_t *gen)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	fuzz_require(!pinlease_lease_info(lease, &info));
	*gen = info.gen;
	return info.state;
}

static void step_acquire(void)
{
	static const uint32_t modes[] = { PINLEASE_MODE_AUTO, PINLEASE_MODE_PINNED, PINLEASE_MODE_ODP,
					  PINLEASE_MODE_STAGED };
	struct pinlease_opts o = { .size = sizeof(o), .pd = api.pd };
	unsigned int i = fuzz_byte(&api.in) % LEASES;
	uint8_t how = fuzz_byte(&api.in);

	if (api.owner[i].lease)
		return;
	o.mode = modes[how & 3];
	o.flags = (how & 4 ? PINLEASE_L_ACK : 0) | (how & 8 ? PINLEASE_L_MANUAL : 0) |
		  (how & 16 ? PINLEASE_L_DIRTY_TOLD : 0);
	o.deadline_ms = 20 + (how >> 5) * 50;
	o.ibv_access = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	o.user = &api.owner[i];
	if (pinlease_acquire(api.file, i * PAGES * SIM_PAGE, PAGES * SIM_PAGE, &o, NULL, &api.owner[i].lease))
		fuzz_require(!api.owner[i].lease);
	api.owner[i].lost_gen = 0;
}

static struct owner *some_owner(void)
{
	struct owner *o = &api.owner[fuzz_byte(&api.in) % LEASES];

	return o->lease ? o : NULL;
}

/* Granted, unless it was broken all the while (I3). */
static bool begin(struct pinlease *lease, uint32_t *gen)
{
	uint32_t gen_before, gen_after, before = state_of(lease, &gen_before), after;
	int r = pinlease_dma_begin(lease, 1, gen);

	after = state_of(lease, &gen_after);
	fuzz_require(!r || r == -EAGAIN || r == -ESTALE);
	if (before != PINLEASE_ACTIVE && after == before && gen_before == gen_after)
		fuzz_require(r);
	return !r;
}

static void step_write(void)
{
	struct pinlease_view view = { .size = sizeof(view) };
	struct write *w = &api.write[fuzz_byte(&api.in) % WRITES];
	struct owner *o = some_owner();
	uint64_t delay = fuzz_int(&api.in, 2) * 10000;

	if (!o || w->flying || !begin(o->lease, &w->gen))
		return;
	w->lease = (unsigned int)(o - api.owner);
	w->page = (unsigned int)(delay / 10000) % PAGES;
	w->flying = true;
	w->dma = (struct sim_dma){ .state = SIM_DMA_IDLE };
	if (pinlease_view_get(o->lease, 0, &view) || view.gen != w->gen || view.len != PAGES * SIM_PAGE)
		return;
	pinlease_mark_dirty(o->lease, w->page * SIM_PAGE, SIM_PAGE);
	sim_dma_write(&w->dma, view.rkey, view.iova + w->page * SIM_PAGE, SIM_PAGE, ++api.seed, delay);
}

static void write_landed(const struct write *w)
{
	struct owner *o = &api.owner[w->lease];
	struct page *p = &o->page[w->page];

	if (w->gen <= o->lost_gen || w->dma.ended < p->when)
		return;
	/* Which of two that land at once is the last nobody can tell. */
	*p = (struct page){ .seed = w->dma.ended == p->when ? 0 : w->dma.seed,
			    .when = w->dma.ended,
			    .gen = w->gen };
}

static void write_end(struct write *w)
{
	if (!w->flying)
		return;
	if (w->dma.state != SIM_DMA_IDLE && sim_dma_wait(&w->dma) == SIM_DMA_LANDED)
		write_landed(w);
	pinlease_dma_end(api.owner[w->lease].lease, 1, w->gen);
	w->flying = false;
}

static void step_end(void)
{
	write_end(&api.write[fuzz_byte(&api.in) % WRITES]);
}

static void lost(struct owner *o, uint32_t gen)
{
	unsigned int i;

	o->lost_gen = gen;
	for (i = 0; i < PAGES; i++)
		o->page[i].seed = 0;
}

static void step_events(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	uint8_t how = fuzz_byte(&api.in);

	while (pinlease_ctx_next_event(api.ctx, &ev) == 1) {
		fuzz_require(ev.type >= PINLEASE_EV_BREAK && ev.type <= PINLEASE_EV_NOTICE);
		if (ev.type == PINLEASE_EV_LOST)
			lost(ev.user, ev.gen);
		if (ev.type == PINLEASE_EV_BREAK && how & 1)
			fuzz_require(!pinlease_ack(ev.lease, ev.gen));
		if (ev.type == PINLEASE_EV_LOST && how & 2)
			pinlease_restore(ev.lease, NULL);
	}
}

/* Each page of which the last write is known, and over. */
static void data_check(unsigned int i)
{
	struct owner *o = &api.owner[i];
	unsigned int page, w;
	bool flying;

	for (page = 0; page < PAGES; page++) {
		flying = false;
		for (w = 0; w < WRITES; w++)
			flying |= api.write[w].flying && api.write[w].lease == i && api.write[w].page == page;
		if (o->page[page].seed && !flying)
			fuzz_require(sim_file_is(api.path, (i * PAGES + page) * SIM_PAGE, SIM_PAGE,
						 o->page[page].seed));
	}
}

static void step_sync(void)
{
	struct owner *o = some_owner();
	int r;

	if (!o)
		return;
	r = pinlease_sync(o->lease, 0, 0, 0);
	step_events();
	if (!r)
		data_check((unsigned int)(o - api.owner));
}

static void step_restore(void)
{
	struct owner *o = some_owner();

	step_events();
	if (o)
		pinlease_restore(o->lease, NULL);
}

static void step_ack(void)
{
	struct owner *o = some_owner();
	uint32_t gen = (uint32_t)fuzz_int(&api.in, 1);

	if (o)
		fuzz_require(!pinlease_ack(o->lease, gen));
}

static void step_release(void)
{
	struct owner *o = some_owner();
	unsigned int i;

	if (!o)
		return;
	/* Its operations end first: a lease that is gone takes no end. */
	for (i = 0; i < WRITES; i++)
		if (api.write[i].flying && &api.owner[api.write[i].lease] == o)
			write_end(&api.write[i]);
	step_events();
	if (pinlease_release(o->lease)) {
		step_events();
		return;
	}
	data_check((unsigned int)(o - api.owner));
	*o = (struct owner){ .lease = NULL };
}

static void opener_end(struct sim_opener **o)
{
	if (!api.stopped) {
		fuzz_require(!sim_opener_expired(*o));
		fuzz_require(sim_opener_ns(*o) <= OPENER_NS);
	}
	sim_opener_end(*o);
	*o = NULL;
}

static void step_opener(void)
{
	static const int flags[] = { O_RDONLY, O_RDWR, O_WRONLY, O_RDWR | O_NONBLOCK };
	struct sim_opener **o = &api.opener[fuzz_byte(&api.in) % OPENERS];
	uint8_t how = fuzz_byte(&api.in) % 5;

	if (*o)
		opener_end(o);
	else
		*o = how == 4 ? sim_truncate(api.path, SIZE) : sim_open(api.path, flags[how]);
}

static void step_sleep(void)
{
	sim_sleep(fuzz_int(&api.in, 2) * 20000);
}

static void step_change(void)
{
	uint8_t how = fuzz_byte(&api.in);
	int r;

	if (how & 1)
		r = pinlease_file_truncate(api.file, SIZE - (how >> 1) % 4 * SIM_PAGE);
	else
		r = pinlease_file_allocate(api.file, FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE,
					   (how >> 1) % 12 * SIM_PAGE, 3 * SIM_PAGE);
	/* ENOMEM: the kernel's own, by step_trouble. */
	fuzz_require(!r || r == -EAGAIN || r == -EBUSY || r == -EOPNOTSUPP || r == -ENOMEM);
}

static void step_trouble(void)
{
	uint8_t how = fuzz_byte(&api.in);
	unsigned int nth = 1 + (how >> 4);

	sim_clear();
	switch (how % 8) {
	case 0:
		sim_fail("dereg_mr", nth % 4 + 1, -EBUSY, nth % 4 + 1);
		break;
	case 1:
		sim_fail("pwrite", nth, -ENOSPC, 1);
		break;
	case 2:
		sim_slow("pwrite", nth * SIM_MS);
		break;
	case 3:
		sim_slow("dereg_mr", nth * SIM_MS);
		break;
	case 4:
		sim_fail("reg_mr", 1, -ENOMEM, nth % 3 + 1);
		break;
	case 5:
		sim_fail_class(SIM_MEMORY, nth, -ENOMEM, 1);
		break;
	case 6:
		sim_signal_room(nth % 2 * 100);
		break;
	default:
		break;
	}
}

static void step_stop(void)
{
	uint8_t how = fuzz_byte(&api.in);

	api.stopped |= how & 1;
	sim_stop();
	sim_sleep(how & 1 ? 7 * SIM_S : how * SIM_MS);
	sim_continue();
}

static void step_stale(void)
{
	sim_signal_process(fuzz_byte(&api.in) & 1 ? 62 : 34, fuzz_byte(&api.in));
}

/*
 * The device's data path is checked before anything goes wrong: what a provider refuses three times to give
 * up is kept for good then (lib/datacheck.c), and would count as lost here. test_datacheck does that.
 */
static void device_check(void)
{
	struct pinlease_opts o = { .size = sizeof(o), .pd = api.pd, .mode = PINLEASE_MODE_ODP };
	struct pinlease *lease;

	fuzz_require(!pinlease_acquire(api.file, 0, SIM_PAGE, &o, NULL, &lease));
	fuzz_require(!pinlease_release(lease));
}

static void world_make(void)
{
	struct pinlease_file_opts o = { .size = sizeof(o), .access = PINLEASE_WRITE };
	uint8_t how = fuzz_byte(&api.in);

	sim_break_time(2 + how % 5);
	sim_file_system(how & 0x10 ? SIM_EXT4 : SIM_TMPFS);
	api.pd = sim_device(how & 0x20 ? SIM_ODP_GOOD : SIM_ODP_NONE);
	api.path = sim_file("file", SIZE);
	fuzz_require(!pinlease_ctx_new(NULL, &api.ctx));
	fuzz_require(!pinlease_file_open(api.ctx, api.path, &o, NULL, &api.file));
	if (how & 0x20)
		device_check();
	sim_sleep(SIM_S);
}

/* Nothing goes wrong any more: all is given back, and all openers have come in. */
static void world_end(void)
{
	unsigned int i, tries;

	sim_clear();
	sim_signal_room(1000);
	for (i = 0; i < WRITES; i++)
		write_end(&api.write[i]);
	for (i = 0; i < OPENERS; i++) {
		if (!api.opener[i])
			continue;
		fuzz_require(sim_opener_wait(api.opener[i], 4 * OPENER_NS));
		opener_end(&api.opener[i]);
	}
	for (i = 0; i < LEASES; i++) {
		if (!api.owner[i].lease)
			continue;
		step_events();
		for (tries = 0; pinlease_release(api.owner[i].lease); tries++) {
			fuzz_require(tries < 3);
			step_events();
			sim_sleep(SIM_S);
		}
		data_check(i);
	}
	/* What a failed acquire could not undo is tried again until it can, and is in the way till then. */
	if (pinlease_file_close(api.file)) {
		sim_sleep(SIM_S);
		fuzz_require(!pinlease_file_close(api.file));
	}
	fuzz_require(!pinlease_ctx_free(api.ctx));
}

static void run(const uint8_t *data, size_t len)
{
	static void (*const steps[])(void) = {
		step_acquire, step_write,  step_end,   step_events, step_sync,	  step_restore, step_ack,
		step_release, step_opener, step_sleep, step_change, step_trouble, step_stop,	step_stale,
	};
	unsigned int i;

	api = (struct api){ .in = { .at = data, .end = data + len } };
	world_make();
	for (i = 0; i < STEPS && api.in.at < api.in.end; i++)
		steps[fuzz_byte(&api.in) % (sizeof(steps) / sizeof(*steps))]();
	world_end();
}

/* What a process makes once and keeps, as its counters, is made before anything is counted. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const uint8_t first[] = { 0, 0, 0, 1, 1, 0, 0, 0, 0, 2, 0 };

	(void)argc;
	(void)argv;
	sim_begin();
	run(first, sizeof(first));
	sim_rebase();
	sim_end();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	sim_begin();
	run(data, len);
	sim_end();
	return 0;
}
