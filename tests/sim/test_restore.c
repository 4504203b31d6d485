/* SPDX-License-Identifier: BSD-3-Clause */
/* After the guard was let go: when it is taken again, by whom, and what comes back. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "world.h"

#define SHORT_NS SIM_MS
#define MIN_NS	 (20 * SIM_MS)
#define MAX_NS	 SIM_S

static const struct pinlease_opts by_hand = { .flags = PINLEASE_L_MANUAL };

/* How long after the opener went on the guard was taken again, to a few ten microseconds. */
static uint64_t time_to_restore(struct pinlease *lease, uint64_t let_go)
{
	world_reach(lease, PINLEASE_ACTIVE);
	return sim_now() - let_go;
}

static uint64_t break_and_restore(struct world *w, uint64_t in_flight_ns)
{
	struct pinlease *lease = w->lease[0];
	struct sim_opener *o;
	uint32_t gen = 0;
	uint64_t ns;

	if (in_flight_ns)
		gen = world_begin(lease, 1);
	o = sim_truncate(w->path, WORLD_SIZE);
	if (in_flight_ns) {
		sim_sleep(in_flight_ns);
		pinlease_dma_end(lease, 1, gen);
	}
	assert_true(sim_opener_wait(o, SIM_S));
	ns = time_to_restore(lease, sim_now());
	sim_opener_end(o);
	return ns;
}

static void test_never_earlier_than(struct world *w)
{
	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	assert_in_range(break_and_restore(w, 0), MIN_NS - 200000, MIN_NS + 2 * SIM_MS);
	sim_sleep(5 * SIM_S);
	assert_in_range(break_and_restore(w, 100 * SIM_MS), 200 * SIM_MS - 200000, 202 * SIM_MS);
	sim_sleep(5 * SIM_S);
	assert_in_range(break_and_restore(w, 0), MIN_NS - 200000, MIN_NS + 2 * SIM_MS);
	world_close(w);
}

/* Whoever comes back right after the restore finds more time each time, up to a second. */
static void test_doubled(struct world *w)
{
	uint64_t want = MIN_NS;
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	sim_sleep(2 * SIM_S);
	for (i = 0; i < 9; i++) {
		assert_in_range(break_and_restore(w, 0), want - 200000, want + 2 * SIM_MS);
		want = 2 * want < MAX_NS ? 2 * want : MAX_NS;
	}
	sim_sleep(2 * SIM_S);
	assert_in_range(break_and_restore(w, 0), MIN_NS - 200000, MIN_NS + 2 * SIM_MS);
	world_close(w);
}

/* An O_NONBLOCK opener that retries every millisecond gets in within a second, whatever the phase. */
static void test_nonblocking_opener_gets_in(struct world *w)
{
	unsigned int phase, tries;
	struct sim_opener *o;
	int ret;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	for (phase = 0; phase < 20; phase++) {
		sim_sleep(50 * SIM_MS + phase * 997000);
		for (tries = 0, ret = -EWOULDBLOCK; ret && tries < 1000; tries++) {
			o = sim_open(w->path, O_RDWR | O_NONBLOCK);
			ret = sim_opener_ret(o);
			sim_opener_end(o);
			sim_sleep(SIM_MS);
		}
		assert_int_equal(ret, 0);
		world_reach(w->lease[0], PINLEASE_ACTIVE);
	}
	world_close(w);
}

/* It is asked again and again, never more often than once a second, and that takes no memory. */
static void test_opener_stays(struct world *w)
{
	unsigned int tries, allocs, threads;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	o = sim_open(w->path, O_RDWR);
	sim_sleep(5 * SIM_S);
	tries = sim_calls("set_lease");
	allocs = sim_calls("alloc");
	threads = sim_calls("thread_new");
	sim_sleep(30 * SIM_S);
	assert_in_range(sim_calls("set_lease") - tries, 15, 31);
	assert_int_equal(sim_calls("alloc"), allocs);
	assert_int_equal(sim_calls("thread_new"), threads);
	assert_int_equal(world_state(w->lease[0]), PINLEASE_REVOKED);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_no_event(w);
	sim_opener_end(o);
	assert_in_range(time_to_restore(w->lease[0], sim_now()), 0, MAX_NS + 2 * SIM_MS);
	world_event(w, PINLEASE_EV_RESTORED);
	world_close(w);
}

static void test_given_up(struct world *w)
{
	const struct pinlease_opts o = { .restore_ms = 3000 };
	struct pinlease_event ev;
	struct sim_opener *opener;
	uint64_t start;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, SIM_PAGE, &o);
	world_lease(w, SIM_PAGE, SIM_PAGE, NULL);
	opener = sim_open(w->path, O_RDWR);
	start = sim_now();
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	ev = world_event(w, PINLEASE_EV_RESTORE_FAILED);
	assert_ptr_equal(ev.lease, w->lease[0]);
	assert_int_equal(ev.err, -EAGAIN);
	assert_in_range(sim_now() - start, 3 * SIM_S - SIM_MS, 4 * SIM_S + 2 * SIM_MS);
	/* Told once, however often the other one is tried. */
	sim_sleep(10 * SIM_S);
	world_no_event(w);
	sim_opener_end(opener);
	/* The other one goes on waiting, and this one may be brought back by hand. */
	world_reach(w->lease[1], PINLEASE_ACTIVE);
	sim_sleep(10 * SIM_S);
	assert_int_equal(world_state(w->lease[0]), PINLEASE_REVOKED);
	assert_int_equal(pinlease_restore(w->lease[0], NULL), 0);
	assert_int_equal(pinlease_restore(w->lease[0], NULL), 0);
	world_close(w);
}

static void test_by_hand(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &by_hand);
	gen = world_begin(lease, 1);
	o = sim_open(w->path, O_RDWR);
	world_reach(lease, PINLEASE_BREAKING);
	assert_int_equal(pinlease_restore(lease, &why), -EAGAIN);
	pinlease_dma_end(lease, 1, gen);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(pinlease_restore(lease, &why), -EAGAIN);
	assert_int_equal(why.stage, PINLEASE_AT_GUARD);
	assert_int_equal(why.reason, PINLEASE_WHY_OPENER);
	assert_int_equal(why.pid, sim_opener_pid(o));
	sim_opener_end(o);
	sim_sleep(60 * SIM_S);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	assert_int_equal(sim_lease(w->path), F_UNLCK);
	world_no_event(w);
	assert_int_equal(pinlease_restore(lease, &why), 0);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).gen, 2);
	world_opener_in(sim_open(w->path, O_RDONLY), SHORT_NS);
	world_close(w);
}

/* The file is leased again for another one, and is being given back: its guard is not to be relied on. */
static void test_by_hand_in_a_break(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *hand, *self;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	hand = world_lease(w, 0, SIM_PAGE, &by_hand);
	self = world_lease(w, SIM_PAGE, SIM_PAGE, NULL);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	world_reach(self, PINLEASE_ACTIVE);
	gen = world_begin(self, 1);
	o = sim_open(w->path, O_RDWR);
	world_reach(self, PINLEASE_BREAKING);
	assert_int_equal(pinlease_restore(hand, &why), -EAGAIN);
	assert_int_equal(why.stage, PINLEASE_AT_GUARD);
	assert_int_equal(why.reason, PINLEASE_WHY_BROKEN);
	assert_int_equal(world_state(hand), PINLEASE_REVOKED);
	pinlease_dma_end(self, 1, gen);
	world_opener_in(o, SHORT_NS);
	assert_int_equal(pinlease_restore(hand, NULL), 0);
	world_close(w);
}

/* One comes back by itself, the other does not: a break then is none of the other's business. */
static void test_one_by_hand_one_by_itself(struct world *w)
{
	struct pinlease *hand, *self;

	world_open(w, PINLEASE_WRITE);
	hand = world_lease(w, 0, SIM_PAGE, &by_hand);
	self = world_lease(w, SIM_PAGE, SIM_PAGE, NULL);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	world_reach(self, PINLEASE_ACTIVE);
	assert_int_equal(world_state(hand), PINLEASE_REVOKED);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	world_reach(self, PINLEASE_ACTIVE);
	assert_int_equal(world_info(hand).breaks, 1);
	assert_int_equal(world_info(self).breaks, 2);
	assert_int_equal(pinlease_restore(hand, NULL), 0);
	world_close(w);
}

/* By hand, while the others wait for their back-off: the guard is there, so they come back, too. */
static void test_by_hand_brings_the_others(struct world *w)
{
	struct pinlease *hand, *self;
	uint64_t start;

	world_open(w, PINLEASE_WRITE);
	hand = world_lease(w, 0, SIM_PAGE, &by_hand);
	self = world_lease(w, SIM_PAGE, SIM_PAGE, NULL);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	start = sim_now();
	assert_int_equal(pinlease_restore(hand, NULL), 0);
	world_reach(self, PINLEASE_ACTIVE);
	assert_in_range(sim_now() - start, 0, 30 * SIM_MS);
	world_close(w);
}

static void test_shrunk(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *low, *high;
	struct pinlease_event ev;

	world_open(w, PINLEASE_WRITE);
	low = world_lease(w, 0, 4 * SIM_PAGE, NULL);
	high = world_lease(w, 8 * SIM_PAGE, 4 * SIM_PAGE, NULL);
	world_opener_in(sim_truncate(w->path, 2 * SIM_PAGE + 10), SHORT_NS);
	world_reach(low, PINLEASE_ACTIVE);
	assert_int_equal(world_view(low).len, 2 * SIM_PAGE + 10);
	sim_sleep(10 * SIM_S);
	assert_int_equal(world_state(high), PINLEASE_REVOKED);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	ev = world_event(w, PINLEASE_EV_RESTORED);
	assert_ptr_equal(ev.lease, low);
	assert_int_equal(ev.len, 2 * SIM_PAGE + 10);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	ev = world_event(w, PINLEASE_EV_RESTORE_FAILED);
	assert_ptr_equal(ev.lease, high);
	assert_int_equal(ev.err, -ENODATA);
	assert_int_equal(pinlease_restore(high, &why), -ENODATA);
	assert_int_equal(why.stage, PINLEASE_AT_SIZE);
	assert_int_equal(why.reason, PINLEASE_WHY_SHRUNK);
	/* It grows again: all of it comes back. */
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	world_reach(low, PINLEASE_ACTIVE);
	assert_int_equal(world_view(low).len, 4 * SIM_PAGE);
	assert_int_equal(pinlease_restore(high, NULL), 0);
	assert_int_equal(world_view(high).len, 4 * SIM_PAGE);
	world_close(w);
}

/* Truncated to nothing, then grown: two breaks of the same opener, as `cp` over it does. */
static void test_emptied_and_written_again(struct world *w)
{
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	o = sim_open(w->path, O_WRONLY | O_TRUNC);
	assert_true(sim_opener_wait(o, SHORT_NS));
	assert_int_equal(sim_file_size(w->path), 0);
	sim_sleep(100 * SIM_MS);
	assert_int_equal(truncate(w->path, WORLD_SIZE), 0);
	sim_opener_end(o);
	world_reach(w->lease[0], PINLEASE_ACTIVE);
	assert_int_equal(world_view(w->lease[0]).len, WORLD_SIZE);
	world_close(w);
}

static void test_registration_fails(struct world *w)
{
	struct pinlease *lease;
	struct pinlease_event ev;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_fail("reg_mr", 1, -ENOMEM, 1);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	ev = world_event(w, PINLEASE_EV_RESTORE_FAILED);
	assert_int_equal(ev.err, -ENOMEM);
	/* Not tried for ever by itself, and nobody is kept waiting by the guard that is held. */
	sim_sleep(10 * SIM_S);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).gen, 2);
	world_close(w);
}

/* The second of two registrations fails, and then the first will not go: it may be reached, so the guard
 * stays. */
static void test_registration_fails_and_dereg_too(struct world *w)
{
	struct sim_opener *o;
	struct pinlease *lease;
	uint32_t index;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_mr_add(lease, sim_device(SIM_ODP_NONE), 0, &index), 0);
	sim_fail("reg_mr", 2, -EIO, 1);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	sim_sleep(SIM_S);
	assert_int_equal(sim_mrs(), 1);
	assert_int_equal(pinlease_restore(lease, NULL), -EBUSY);
	o = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(SIM_S);
	assert_false(sim_opener_done(o));
	sim_clear();
	world_opener_in(o, SIM_S + 100 * SIM_MS);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(sim_mrs(), 2);
	world_close(w);
}

/* The same, and nobody comes to help before the kernel's patience is over. */
static void test_registration_fails_and_dereg_till_expiry(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t index;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_mr_add(lease, sim_device(SIM_ODP_NONE), 0, &index), 0);
	sim_fail("reg_mr", 2, -EIO, 1);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	sim_sleep(SIM_S);
	o = sim_truncate(w->path, WORLD_SIZE);
	assert_true(sim_opener_wait(o, 60 * SIM_S));
	assert_true(sim_opener_expired(o));
	sim_opener_end(o);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	sim_clear();
	sim_sleep(SIM_S);
	assert_int_equal(sim_mrs(), 0);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORE_FAILED).err, -EIO);
	/* Reachable it was, but nobody was ever told the keys: nothing is lost. */
	world_no_event(w);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	world_close(w);
}

/* The guard has been taken, and the size of the file is asked: the next thing is to allocate. */
static _Atomic bool in_the_middle;

static void sleep_in_the_middle(void *arg)
{
	(void)arg;
	in_the_middle = true;
	sim_sleep(SIM_S);
}

static void guard_is_taken(void *arg)
{
	(void)arg;
	sim_hook("stat_id", 1, sleep_in_the_middle, NULL);
}

static bool is_in_the_middle(void *arg)
{
	(void)arg;
	return in_the_middle;
}

/*
 * Stopped there for longer than the kernel waits for a lease, with a writer at the door: when the
 * restore goes on, the file is somebody else's, and nobody has looked yet. It allocates no block
 * and faults in no page (the judge would see it), and starts anew when the writer is gone.
 */
static void stopped_while_restoring(struct world *w, const struct pinlease_opts *o)
{
	struct sim_opener *opener;
	struct pinlease *lease;
	unsigned int made;

	in_the_middle = false;
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, o);
	sim_hook("set_lease", 1, guard_is_taken, NULL);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	assert_true(sim_until(is_in_the_middle, NULL, SIM_S));
	/* The signal does not fit into the queue, and the slow pass is slow: the restore goes on first. */
	sim_signal_room(0);
	sim_slow("read_text", SIM_S);
	sim_stop();
	assert_int_equal(sim_lease(w->path), F_WRLCK);
	made = sim_calls("allocate") + sim_calls("advise");
	opener = sim_open(w->path, O_RDWR);
	sim_sleep((SIM_BREAK_TIME_S + 1) * SIM_S);
	assert_true(sim_opener_expired(opener));
	sim_continue();
	sim_sleep(10 * SIM_S);
	assert_int_equal(sim_calls("allocate") + sim_calls("advise"), made);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	assert_int_equal(sim_mrs(), 0);
	sim_opener_end(opener);
	world_reach(lease, PINLEASE_ACTIVE);
	sim_clear();
	world_close(w);
}

static void test_stopped_while_restoring_pinned(struct world *w)
{
	stopped_while_restoring(w, NULL);
}

static void test_stopped_while_restoring_staged(struct world *w)
{
	stopped_while_restoring(w, &(struct pinlease_opts){ .mode = PINLEASE_MODE_STAGED });
}

/* Ten generations, an operation of each still in flight: each has an account of its own. */
static void test_late_ends_of_many_generations(struct world *w)
{
	const struct pinlease_opts o = { .deadline_ms = 10 };
	struct pinlease *lease;
	uint32_t gen[10], i;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	for (i = 0; i < 10; i++) {
		gen[i] = world_begin(lease, i + 1);
		assert_int_equal(gen[i], i + 1);
		world_opener_in(sim_truncate(w->path, WORLD_SIZE), 11 * SIM_MS);
		world_reach(lease, PINLEASE_ACTIVE);
		assert_int_equal(world_info(lease).in_flight, 0);
	}
	assert_int_equal(world_info(lease).late, 55);
	for (i = 0; i < 10; i += 2)
		pinlease_dma_end(lease, i + 1, gen[i]);
	assert_int_equal(world_info(lease).late, 30);
	assert_int_equal(world_info(lease).in_flight, 0);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_never_earlier_than),
		world_test(test_doubled),
		world_test(test_nonblocking_opener_gets_in),
		world_test(test_opener_stays),
		world_test(test_given_up),
		world_test(test_by_hand),
		world_test(test_by_hand_in_a_break),
		world_test(test_one_by_hand_one_by_itself),
		world_test(test_by_hand_brings_the_others),
		world_test(test_shrunk),
		world_test(test_emptied_and_written_again),
		world_test(test_registration_fails),
		world_test(test_registration_fails_and_dereg_too),
		world_test(test_registration_fails_and_dereg_till_expiry),
		world_test(test_stopped_while_restoring_pinned),
		world_test(test_stopped_while_restoring_staged),
		world_test(test_late_ends_of_many_generations),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
