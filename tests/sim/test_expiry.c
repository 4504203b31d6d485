/* SPDX-License-Identifier: BSD-3-Clause */
/* The kernel did not wait: stopped processes, providers that do not let go, disks that hang. */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>

#include "sys.h"
#include "world.h"

#define SHORT_NS SIM_MS
#define LIMIT	 (SIM_BREAK_TIME_S * SIM_S)

static const struct pinlease_opts staged = { .mode = PINLEASE_MODE_STAGED };

/* The process is stopped with a writer at the door, longer than the kernel waits. */
static void stopped_past_the_limit(struct sim_opener *o)
{
	sim_sleep(LIMIT + SIM_S);
	assert_true(sim_opener_expired(o));
	sim_continue();
	sim_opener_end(o);
}

static void test_stopped_with_a_writer(struct world *w)
{
	struct pinlease_view view;
	struct pinlease_event ev;
	struct pinlease *lease;
	struct sim_dma dma;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	view = world_view(lease);
	gen = world_begin(lease, 3);
	sim_stop();
	sim_dma_write(&dma, view.rkey, view.iova, 100, 5, LIMIT + SIM_MS);
	stopped_past_the_limit(sim_open(w->path, O_RDWR));
	/* Nothing can be done about it, and nothing is passed over in silence. */
	assert_int_equal(sim_dma_late(), 1);
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(ev.err, -ETIME);
	assert_int_equal(ev.in_flight, 3);
	assert_int_equal(pinlease_dma_begin(lease, 1, &gen), -ESTALE);
	/* Never left by automatic restore. */
	sim_sleep(10 * SIM_S);
	world_no_event(w);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).gen, view.gen + 1);
	pinlease_dma_end(lease, 3, gen);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	world_close(w);
}

/* The reader's expiry downgrades the lease, and F_UNLCK answers 0: only our own clock tells. */
static void test_stopped_with_a_reader(struct world *w)
{
	struct pinlease *pinned, *memory;
	struct pinlease_event ev;

	world_open(w, PINLEASE_WRITE);
	pinned = world_lease(w, 0, 4 * SIM_PAGE, NULL);
	memory = world_lease(w, 8 * SIM_PAGE, 4 * SIM_PAGE, &staged);
	world_write(memory, 0, 2 * SIM_PAGE, 33);
	sim_stop();
	stopped_past_the_limit(sim_open(w->path, O_RDONLY));
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_REVOKED);
	assert_ptr_equal(ev.lease, pinned);
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_ptr_equal(ev.lease, memory);
	assert_int_equal(ev.lost_bytes, 4 * SIM_PAGE);
	/* What the reader saw from the first moment is what stays there. */
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	world_reach(pinned, PINLEASE_ACTIVE);
	assert_int_equal(world_state(memory), PINLEASE_LOST);
	world_close(w);
}

/* Written in time, but let go too late, with a reader inside since: nobody can tell what it saw. */
static void test_written_in_time_and_let_go_late(struct world *w)
{
	struct pinlease *memory;
	struct pinlease_event ev;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	memory = world_lease(w, 8 * SIM_PAGE, 4 * SIM_PAGE,
			     &(struct pinlease_opts){ .mode = PINLEASE_MODE_STAGED, .pd = WORLD_NO_PD });
	world_lease(w, 0, 4 * SIM_PAGE, NULL);
	pinlease_dma_end(memory, 1, world_begin(memory, 1));
	sim_fill(world_view(memory).addr, 4 * SIM_PAGE, 34);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	o = sim_open(w->path, O_RDONLY);
	sim_sleep(SIM_S);
	assert_true(sim_file_is(w->path, 8 * SIM_PAGE, 4 * SIM_PAGE, 34));
	sim_sleep(LIMIT);
	assert_true(sim_opener_expired(o));
	sim_opener_end(o);
	sim_clear();
	world_reach(memory, PINLEASE_LOST);
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_ptr_equal(ev.lease, memory);
	assert_int_equal(ev.err, -ETIME);
	assert_int_equal(ev.lost_bytes, 0);
	world_close(w);
}

static void test_stopped_staged_data_is_kept(struct world *w)
{
	const char *other = sim_file("other", 0);
	struct pinlease *lease;
	struct pinlease_event ev;
	int fd;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, SIM_PAGE, 4 * SIM_PAGE, &staged);
	world_write(lease, 0, 4 * SIM_PAGE, 44);
	sim_stop();
	stopped_past_the_limit(sim_truncate(w->path, WORLD_SIZE));
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_LOST);
	assert_int_equal(ev.lost_bytes, 4 * SIM_PAGE);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	fd = open(other, O_RDWR);
	assert_int_equal(pinlease_save(lease, fd), 0);
	close(fd);
	assert_true(sim_file_is(other, SIM_PAGE, 4 * SIM_PAGE, 44));
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	assert_true(sim_file_is(w->path, 0, WORLD_SIZE, 1));
	world_close(w);
}

/* Long, but not too long: what is left of the time is enough. */
static void test_stopped_and_continued_in_time(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, 4 * SIM_PAGE, &staged);
	world_write(lease, 0, 4 * SIM_PAGE, 55);
	world_begin(lease, 1);
	sim_stop();
	o = sim_open(w->path, O_RDWR);
	sim_sleep(LIMIT - 2 * SIM_S);
	sim_continue();
	world_opener_in(o, LIMIT - 2 * SIM_S + SHORT_NS);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 1);
	assert_true(sim_file_is(w->path, 0, 4 * SIM_PAGE, 55));
	world_close(w);
}

struct call {
	int (*fn)(struct pinlease *lease);
	struct pinlease *lease;
	int ret;
};

static int call_sync(struct pinlease *lease)
{
	return pinlease_sync(lease, 0, 0, 0);
}

static void *call(void *arg)
{
	struct call *c = arg;

	c->ret = c->fn(c->lease);
	return NULL;
}

/*
 * Stopped in the middle of writing, and continued when the file is somebody else's. The
 * writing thread runs first, the breaker has heard of nothing yet: not a byte more.
 */
static void stopped_while_writing(struct world *w, struct call *c)
{
	struct sim_thread *t;

	world_open(w, PINLEASE_WRITE);
	assert_int_equal(truncate(w->path, 4 << 20), 0);
	c->lease = world_lease(w, 0, 4 << 20, &staged);
	sim_slow("pwrite", SIM_S);
	t = sim_thread_start(call, c);
	sim_sleep(SIM_S / 2);
	sim_signal_room(0);
	sim_slow("read_text", SIM_S);
	sim_stop();
	stopped_past_the_limit(sim_truncate(w->path, 4 << 20));
	sim_thread_join(t);
	assert_int_equal(sim_calls("pwrite"), 1);
	world_reach(c->lease, PINLEASE_LOST);
	world_take_events(w);
	assert_int_equal(pinlease_release(c->lease), 0);
	world_forget(w, c->lease);
	sim_clear();
	world_close(w);
}

static void test_stopped_in_sync(struct world *w)
{
	struct call c = { .fn = call_sync, .ret = 1 };

	stopped_while_writing(w, &c);
	assert_int_equal(c.ret, -EAGAIN);
}

static void test_stopped_in_release(struct world *w)
{
	struct call c = { .fn = pinlease_release, .ret = 1 };

	stopped_while_writing(w, &c);
	assert_int_equal(c.ret, -ETIME);
}

/* Somebody has changed the file and gone, unheard of: who speaks first must not say that all is well. */
static struct pinlease *gone_unnoticed(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	world_write(lease, 0, SIM_PAGE, 46);
	sim_signal_room(0);
	sim_slow("read_text", SIM_S);
	sim_stop();
	stopped_past_the_limit(sim_truncate(w->path, WORLD_SIZE));
	return lease;
}

static void test_gone_unnoticed_before_release(struct world *w)
{
	struct pinlease *lease = gone_unnoticed(w);

	assert_int_equal(pinlease_release(lease), -ETIME);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	sim_clear();
	world_close(w);
}

static void then_it_is_lost(struct world *w)
{
	sim_clear();
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_LOST).err, -ETIME);
	world_close(w);
}

static void test_gone_unnoticed_before_sync(struct world *w)
{
	assert_int_equal(pinlease_sync(gone_unnoticed(w), 0, 0, 0), -EAGAIN);
	then_it_is_lost(w);
}

static void test_gone_unnoticed_before_a_change(struct world *w)
{
	int r = gone_unnoticed(w) ? pinlease_file_truncate(w->file, WORLD_SIZE / 2) : -EINVAL;

	assert_true(!r || r == -EAGAIN);
	then_it_is_lost(w);
}

static void test_dereg_fails_once(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_fail("dereg_mr", 1, -EINVAL, 1);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), 5 * SIM_MS);
	assert_int_equal(sim_faults(), 1);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_reach(lease, PINLEASE_ACTIVE);
	world_close(w);
}

/* Dropped with the lease, its events tell nobody: then the answer does, and what is kept can be had. */
static void test_release_tells_what_no_event_did(struct world *w)
{
	const char *other = sim_file("other", 0);
	struct pinlease *lease;
	int fd;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, SIM_PAGE, 4 * SIM_PAGE, &staged);
	world_write(lease, 0, 4 * SIM_PAGE, 45);
	sim_stop();
	stopped_past_the_limit(sim_truncate(w->path, WORLD_SIZE));
	world_reach(lease, PINLEASE_LOST);
	assert_int_equal(pinlease_release(lease), -ETIME);
	fd = open(other, O_RDWR);
	assert_int_equal(pinlease_save(lease, fd), 0);
	close(fd);
	assert_true(sim_file_is(other, SIM_PAGE, 4 * SIM_PAGE, 45));
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	world_no_event(w);
	world_close(w);
}

/* Guard kept, since the memory may still be reached; then the kernel's clock decides: LOST. */
static void dereg_fails_till_lost(struct world *w, struct pinlease *lease)
{
	struct sim_opener *o;

	sim_fail("dereg_mr", 1, -EBUSY, 0);
	o = sim_truncate(w->path, WORLD_SIZE);
	world_event(w, PINLEASE_EV_BREAK);
	sim_sleep(LIMIT - 2 * SIM_S);
	assert_false(sim_opener_done(o));
	assert_int_equal(world_state(lease), PINLEASE_FENCING);
	world_no_event(w);
	assert_true(sim_opener_wait(o, 3 * SIM_S));
	assert_true(sim_opener_expired(o));
	assert_int_equal(world_event(w, PINLEASE_EV_LOST).err, -EBUSY);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	sim_opener_end(o);
}

static void test_dereg_fails_always(struct world *w)
{
	struct pinlease_why why = { .reason = 0 };
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	dereg_fails_till_lost(w, lease);
	assert_int_equal(pinlease_restore(lease, &why), -EBUSY);
	assert_int_equal(why.reason, PINLEASE_WHY_DEREG);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	assert_int_equal(pinlease_file_close(w->file), -EBUSY);
	sim_clear();
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	world_close(w);
}

/* The application has dealt with its windows: the fence comes late, the lease can be used again. */
static void test_dereg_works_again_after_lost(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	dereg_fails_till_lost(w, lease);
	assert_int_equal(sim_mrs(), 1);
	sim_clear();
	sim_sleep(SIM_S);
	assert_int_equal(sim_mrs(), 0);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	world_close(w);
}

static void test_dereg_works_again_in_time(struct world *w)
{
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	o = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(20 * SIM_S);
	sim_clear();
	world_opener_in(o, 20 * SIM_S + 100 * SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_close(w);
}

/* No break at all: release is refused, and a break that comes then still waits for the fence. */
static void test_release_without_dereg(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	assert_int_equal(pinlease_release(lease), -EBUSY);
	o = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(SIM_S);
	assert_false(sim_opener_done(o));
	sim_clear();
	world_opener_in(o, SIM_S + 100 * SIM_MS);
	assert_int_equal(pinlease_release(lease), 0);
	world_forget(w, lease);
	world_close(w);
}

/* Two registrations, one of which will not go: what could be fenced is fenced once. */
static void test_one_of_two_registrations_stuck(struct world *w)
{
	struct pinlease *lease;
	uint32_t index;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_mr_add(lease, sim_device(SIM_ODP_NONE), 0, &index), 0);
	sim_fail("dereg_mr", 2, -EBUSY, 3);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), 50 * SIM_MS);
	assert_int_equal(sim_calls("dereg_mr"), 5);
	world_close(w);
}

static void test_dereg_takes_long(struct world *w)
{
	struct pinlease_view view;
	struct sim_dma dma;

	world_open(w, PINLEASE_WRITE);
	view = world_view(world_lease(w, 0, WORLD_SIZE, NULL));
	sim_slow("dereg_mr", 800 * SIM_MS);
	sim_dma_write(&dma, view.rkey, view.iova, SIM_PAGE, 66, 400 * SIM_MS);
	world_opener_in(sim_open(w->path, O_RDWR), 801 * SIM_MS);
	assert_int_equal(sim_dma_state(&dma), SIM_DMA_LANDED);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 66));
	world_close(w);
}

static void test_dereg_takes_longer_than_the_kernel_waits(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_slow("dereg_mr", LIMIT + 5 * SIM_S);
	o = sim_truncate(w->path, WORLD_SIZE);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_LOST).err, -ETIME);
	assert_true(sim_opener_expired(o));
	sim_opener_end(o);
	assert_int_equal(world_state(lease), PINLEASE_LOST);
	sim_slow("dereg_mr", 0);
	world_close(w);
}

/* lease-break-time 0: no expiry ever, so the guard is kept and nothing is lost. */
static void test_dereg_fails_and_the_kernel_waits_for_ever(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;

	sim_break_time(0);
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_fail("dereg_mr", 1, -EBUSY, 0);
	o = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(300 * SIM_S);
	assert_int_equal(world_state(lease), PINLEASE_FENCING);
	assert_false(sim_opener_done(o));
	sim_clear();
	world_opener_in(o, 301 * SIM_S);
	world_event(w, PINLEASE_EV_BREAK);
	world_event(w, PINLEASE_EV_REVOKED);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_stopped_with_a_writer),
		world_test(test_stopped_with_a_reader),
		world_test(test_written_in_time_and_let_go_late),
		world_test(test_stopped_staged_data_is_kept),
		world_test(test_stopped_and_continued_in_time),
		world_test(test_stopped_in_sync),
		world_test(test_stopped_in_release),
		world_test(test_gone_unnoticed_before_release),
		world_test(test_gone_unnoticed_before_sync),
		world_test(test_gone_unnoticed_before_a_change),
		world_test(test_dereg_fails_once),
		world_test(test_dereg_fails_always),
		world_test(test_dereg_works_again_after_lost),
		world_test(test_dereg_works_again_in_time),
		world_test(test_release_tells_what_no_event_did),
		world_test(test_release_without_dereg),
		world_test(test_one_of_two_registrations_stuck),
		world_test(test_dereg_takes_long),
		world_test(test_dereg_takes_longer_than_the_kernel_waits),
		world_test(test_dereg_fails_and_the_kernel_waits_for_ever),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
