/* SPDX-License-Identifier: BSD-3-Clause */
/* A break from mark to let-go: who is told what, who is waited for, and how long. */
#include <errno.h>
#include <fcntl.h>

#include "world.h"

#define SHORT_NS SIM_MS /* nobody is waited for */

static void test_idle_lease(struct world *w)
{
	struct pinlease_view before, after;
	struct pinlease_event ev;
	struct pinlease *lease;
	struct sim_dma dma;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, SIM_PAGE, 8 * SIM_PAGE, &(struct pinlease_opts){ .user = w });
	before = world_view(lease);
	assert_int_equal(before.mode, PINLEASE_MODE_PINNED);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE / 2), SHORT_NS);
	ev = world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(ev.cause, PINLEASE_BY_WRITER);
	assert_int_equal(ev.gen, before.gen);
	assert_ptr_equal(ev.lease, lease);
	assert_ptr_equal(ev.user, w);
	assert_in_range(ev.deadline_ns, sim_now(), sim_now() + 5 * SIM_S);
	ev = world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(ev.in_flight, 0);
	sim_dma_write(&dma, before.rkey, before.iova, 100, 9, 0);
	assert_int_equal(sim_dma_wait(&dma), SIM_DMA_CUT);
	ev = world_event(w, PINLEASE_EV_RESTORED);
	assert_int_equal(ev.gen, before.gen + 1);
	assert_int_equal(ev.len, WORLD_SIZE / 2 - SIM_PAGE);
	after = world_view(lease);
	assert_ptr_equal(after.addr, before.addr);
	assert_int_equal(after.len, WORLD_SIZE / 2 - SIM_PAGE);
	assert_int_not_equal(after.rkey, before.rkey);
	assert_int_equal(world_info(lease).breaks, 1);
	world_close(w);
}

static void test_reader(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, NULL);
	world_opener_in(sim_open(w->path, O_RDONLY), SHORT_NS);
	assert_int_equal(world_event(w, PINLEASE_EV_BREAK).cause, PINLEASE_BY_READER);
	world_event(w, PINLEASE_EV_REVOKED);
	world_reach(lease, PINLEASE_ACTIVE);
	world_close(w);
}

/* A read lease stands beside readers; a writer breaks it. */
static void test_read_lease(struct world *w)
{
	struct sim_opener *reader;
	struct pinlease *lease;

	world_open(w, PINLEASE_READ);
	reader = sim_open(w->path, O_RDONLY);
	assert_int_equal(sim_opener_ret(reader), 0);
	lease = world_lease(w, 0, SIM_PAGE, NULL);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_int_equal(world_event(w, PINLEASE_EV_BREAK).cause, PINLEASE_BY_WRITER);
	world_reach(lease, PINLEASE_ACTIVE);
	sim_opener_end(reader);
	world_close(w);
}

struct ender {
	struct pinlease *lease;
	uint32_t gen, n;
	uint64_t after;
};

static void *end_later(void *arg)
{
	struct ender *e = arg;

	sim_sleep(e->after);
	pinlease_dma_end(e->lease, e->n, e->gen);
	return NULL;
}

/* Begun here, ended elsewhere, and the last end is what everybody waits for. */
static void test_last_end_on_another_thread(struct world *w)
{
	struct ender e[3];
	struct sim_thread *t[3];
	struct sim_opener *o;
	unsigned int i;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	gen = world_begin(w->lease[0], 7);
	for (i = 0; i < 3; i++) {
		e[i] = (struct ender){
			.lease = w->lease[0], .gen = gen, .n = i + 1, .after = (i + 1) * 30 * SIM_MS
		};
		t[i] = sim_thread_start(end_later, &e[i]);
	}
	pinlease_dma_end(w->lease[0], 1, gen);
	o = sim_truncate(w->path, 0);
	sim_sleep(89 * SIM_MS);
	assert_false(sim_opener_done(o));
	assert_int_equal(world_state(w->lease[0]), PINLEASE_BREAKING);
	assert_int_equal(world_info(w->lease[0]).in_flight, 3);
	world_opener_in(o, 91 * SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 0);
	for (i = 0; i < 3; i++)
		sim_thread_join(t[i]);
	world_close(w);
}

static void *begin_and_exit(void *arg)
{
	world_begin(arg, 2);
	return NULL;
}

/* A thread that is gone still owes its ends: they are paid by another one. */
static void test_begun_by_a_thread_that_exited(struct world *w)
{
	struct sim_opener *o;
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	sim_thread_join(sim_thread_start(begin_and_exit, lease));
	assert_int_equal(world_info(lease).in_flight, 2);
	o = sim_truncate(w->path, 0);
	sim_sleep(50 * SIM_MS);
	assert_false(sim_opener_done(o));
	pinlease_dma_end(lease, 2, 1);
	world_opener_in(o, 51 * SIM_MS);
	world_close(w);
}

static void test_begin_is_refused(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t gen, none = 77;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, SIM_PAGE, &(struct pinlease_opts){ .flags = PINLEASE_L_MANUAL });
	gen = world_begin(lease, 1);
	o = sim_truncate(w->path, WORLD_SIZE);
	sim_settle();
	assert_int_equal(world_state(lease), PINLEASE_BREAKING);
	assert_int_equal(pinlease_dma_begin(lease, 1, &none), -EAGAIN);
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(o, SHORT_NS);
	assert_int_equal(pinlease_dma_begin(lease, 1, &none), -EAGAIN);
	assert_int_equal(none, 77);
	assert_int_equal(world_state(lease), PINLEASE_REVOKED);
	world_close(w);
}

/* I6: the application does nothing at all. And the late ends of that generation disturb nothing. */
static void test_deadline(struct world *w)
{
	struct pinlease_view view;
	struct pinlease *lease;
	struct sim_dma in_time, late;
	uint32_t old, new;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 200 });
	view = world_view(lease);
	old = world_begin(lease, 5);
	sim_dma_write(&in_time, view.rkey, view.iova, SIM_PAGE, 21, 150 * SIM_MS);
	sim_dma_write(&late, view.rkey, view.iova + SIM_PAGE, SIM_PAGE, 22, 250 * SIM_MS);
	world_opener_in(sim_open(w->path, O_RDWR), 201 * SIM_MS);
	assert_int_equal(sim_dma_state(&in_time), SIM_DMA_LANDED);
	assert_int_equal(sim_dma_state(&late), SIM_DMA_CUT);
	assert_true(sim_file_is(w->path, 0, SIM_PAGE, 21));
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 5);
	world_event(w, PINLEASE_EV_RESTORED);
	assert_int_equal(world_info(lease).in_flight, 0);
	assert_int_equal(world_info(lease).late, 5);
	new = world_begin(lease, 1);
	assert_int_equal(new, old + 1);
	pinlease_dma_end(lease, 3, old);
	assert_int_equal(world_info(lease).in_flight, 1);
	assert_int_equal(world_info(lease).late, 2);
	pinlease_dma_end(lease, 1, new);
	pinlease_dma_end(lease, 2, old);
	/* The old generation's ends are not the new one's: this one is idle, and nobody is waited for. */
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 0);
	world_close(w);
}

static void test_deadline_is_capped_below_the_kernels(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;

	sim_break_time(3);
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 60000 });
	world_begin(lease, 1);
	sim_sleep(SIM_S);
	o = sim_truncate(w->path, 0);
	world_opener_in(o, 3 * SIM_S - 250 * SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 1);
	world_close(w);
}

/* fs.lease-break-time 0: the kernel waits for ever, so the option alone counts. */
static void test_break_time_never(struct world *w)
{
	struct pinlease *lease;

	sim_break_time(0);
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 90000 });
	world_begin(lease, 1);
	sim_sleep(SIM_S);
	world_opener_in(sim_truncate(w->path, 0), 90 * SIM_S + SHORT_NS);
	world_close(w);
}

static void test_break_time_is_read_again(struct world *w)
{
	struct pinlease *lease;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 60000 });
	world_begin(lease, 1);
	sim_break_time(2);
	sim_sleep(SIM_S);
	world_opener_in(sim_truncate(w->path, 0), 2 * SIM_S - 250 * SIM_MS);
	world_close(w);
}

static void test_ack(struct world *w)
{
	const struct pinlease_opts o = { .flags = PINLEASE_L_ACK, .deadline_ms = 1000 };
	struct pinlease *lease;
	struct sim_opener *opener;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	/* Not due: forgotten. */
	assert_int_equal(pinlease_ack(lease, 1), 0);
	opener = sim_truncate(w->path, 0);
	gen = world_event(w, PINLEASE_EV_BREAK).gen;
	sim_sleep(300 * SIM_MS);
	assert_false(sim_opener_done(opener));
	assert_int_equal(pinlease_ack(lease, gen + 1), 0);
	sim_sleep(100 * SIM_MS);
	assert_false(sim_opener_done(opener));
	assert_int_equal(pinlease_ack(lease, gen), 0);
	world_opener_in(opener, 401 * SIM_MS);
	world_event(w, PINLEASE_EV_REVOKED);
	world_close(w);
}

static void test_ack_and_the_account(struct world *w)
{
	const struct pinlease_opts o = { .flags = PINLEASE_L_ACK, .deadline_ms = 1000 };
	struct sim_opener *opener;
	struct pinlease *lease;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &o);
	gen = world_begin(lease, 1);
	opener = sim_truncate(w->path, 0);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_ack(lease, gen), 0);
	sim_sleep(100 * SIM_MS);
	assert_false(sim_opener_done(opener));
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(opener, 101 * SIM_MS);
	world_close(w);
}

static void test_ack_that_never_comes(struct world *w)
{
	const struct pinlease_opts o = { .flags = PINLEASE_L_ACK, .deadline_ms = 500 };

	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, SIM_PAGE, &o);
	world_opener_in(sim_open(w->path, O_RDWR), 501 * SIM_MS);
	world_close(w);
}

/* One lease of the file is idle, the other one stuck: the first is fenced at once, the guard goes at the
 * deadline. */
static void test_two_leases_one_stuck(struct world *w)
{
	struct pinlease *idle, *stuck;
	struct pinlease_event ev;
	struct sim_opener *o;

	world_open(w, PINLEASE_WRITE);
	idle = world_lease(w, 0, 4 * SIM_PAGE, NULL);
	stuck = world_lease(w, 2 * SIM_PAGE, 4 * SIM_PAGE, &(struct pinlease_opts){ .deadline_ms = 700 });
	world_begin(stuck, 2);
	assert_int_equal(sim_mrs(), 2);
	o = sim_truncate(w->path, 0);
	sim_sleep(100 * SIM_MS);
	assert_int_equal(sim_mrs(), 1);
	assert_int_equal(world_state(idle), PINLEASE_FENCING);
	assert_int_equal(world_state(stuck), PINLEASE_BREAKING);
	world_opener_in(o, 701 * SIM_MS);
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_REVOKED);
	assert_ptr_equal(ev.lease, idle);
	assert_int_equal(ev.in_flight, 0);
	world_event(w, PINLEASE_EV_BREAK);
	ev = world_event(w, PINLEASE_EV_REVOKED);
	assert_ptr_equal(ev.lease, stuck);
	assert_int_equal(ev.in_flight, 2);
	world_close(w);
}

/* Nobody reads the events of two breaks: one of each kind, the newest, in the order of the last occurrence.
 */
static void test_events_coalesce(struct world *w)
{
	struct pinlease *lease;
	struct pinlease_event ev;
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 50 });
	for (i = 0; i < 3; i++) {
		world_begin(lease, i + 1);
		world_opener_in(sim_open(w->path, O_RDWR), 51 * SIM_MS);
		world_reach(lease, PINLEASE_ACTIVE);
	}
	assert_int_equal(world_event(w, PINLEASE_EV_BREAK).gen, 3);
	ev = world_event(w, PINLEASE_EV_REVOKED);
	assert_int_equal(ev.gen, 3);
	assert_int_equal(ev.in_flight, 6);
	assert_int_equal(world_event(w, PINLEASE_EV_RESTORED).gen, 4);
	world_no_event(w);
	world_close(w);
}

static void test_release_purges_events(struct world *w)
{
	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	world_opener_in(sim_open(w->path, O_RDWR), SHORT_NS);
	assert_int_equal(pinlease_release(w->lease[0]), 0);
	world_forget(w, w->lease[0]);
	world_no_event(w);
	world_close(w);
}

static void test_lease_without_registration(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	uint32_t gen;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .pd = WORLD_NO_PD });
	assert_int_equal(world_info(lease).registrations, 0);
	gen = world_begin(lease, 1);
	o = sim_truncate(w->path, WORLD_SIZE);
	sim_sleep(10 * SIM_MS);
	assert_false(sim_opener_done(o));
	pinlease_dma_end(lease, 1, gen);
	world_opener_in(o, 10 * SIM_MS + SHORT_NS);
	world_reach(lease, PINLEASE_ACTIVE);
	world_close(w);
}

/* A file that is held and has no lease: the break is answered, and the next acquire takes the guard again. */
static void test_file_without_leases(struct world *w)
{
	world_open(w, PINLEASE_WRITE);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	assert_int_equal(sim_lease(w->path), F_UNLCK);
	world_lease(w, 0, SIM_PAGE, NULL);
	assert_int_equal(sim_lease(w->path), F_WRLCK);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	world_close(w);
}

static void test_several_registrations(struct world *w)
{
	struct pinlease_view view[2] = { { .size = sizeof(*view) }, { .size = sizeof(*view) } };
	struct pinlease *lease;
	uint32_t index = 0;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_mr_add(lease, sim_device(SIM_ODP_NONE), 0, &index), 0);
	assert_int_equal(index, 1);
	assert_int_equal(pinlease_view_get(lease, 1, &view[0]), 0);
	assert_int_equal(pinlease_view_get(lease, 2, &view[1]), -ERANGE);
	assert_int_equal(sim_mrs(), 2);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), SHORT_NS);
	world_reach(lease, PINLEASE_ACTIVE);
	assert_int_equal(sim_mrs(), 2);
	assert_int_equal(pinlease_view_get(lease, 1, &view[1]), 0);
	assert_int_not_equal(view[0].rkey, view[1].rkey);
	world_close(w);
}

static void *release_it(void *arg)
{
	assert_int_equal(pinlease_release(arg), 0);
	return NULL;
}

/* A release waits for its drain as long as the application allowed; the kernel does not. */
static void test_break_during_release(struct world *w)
{
	struct pinlease *lease;
	struct sim_thread *t;

	sim_break_time(2);
	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &(struct pinlease_opts){ .deadline_ms = 60000 });
	world_begin(lease, 1);
	sim_sleep(SIM_S);
	t = sim_thread_start(release_it, lease);
	sim_sleep(5 * SIM_S);
	world_opener_in(sim_truncate(w->path, WORLD_SIZE), 2 * SIM_S);
	sim_thread_join(t);
	world_forget(w, lease);
	/* The release was the application's own: there is nobody to tell. */
	world_no_event(w);
	world_close(w);
}

/* An idle lease's release does not wait, nor does anybody wait for it. */
static void test_release_then_break(struct world *w)
{
	world_open(w, PINLEASE_WRITE);
	world_lease(w, 0, WORLD_SIZE, NULL);
	assert_int_equal(pinlease_release(w->lease[0]), 0);
	world_forget(w, w->lease[0]);
	assert_int_equal(sim_mrs(), 0);
	assert_int_equal(sim_lease(w->path), F_WRLCK);
	world_opener_in(sim_truncate(w->path, 0), SHORT_NS);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_idle_lease),
		world_test(test_reader),
		world_test(test_read_lease),
		world_test(test_last_end_on_another_thread),
		world_test(test_begun_by_a_thread_that_exited),
		world_test(test_begin_is_refused),
		world_test(test_deadline),
		world_test(test_deadline_is_capped_below_the_kernels),
		world_test(test_break_time_never),
		world_test(test_break_time_is_read_again),
		world_test(test_ack),
		world_test(test_ack_and_the_account),
		world_test(test_ack_that_never_comes),
		world_test(test_two_leases_one_stuck),
		world_test(test_events_coalesce),
		world_test(test_release_purges_events),
		world_test(test_lease_without_registration),
		world_test(test_file_without_leases),
		world_test(test_several_registrations),
		world_test(test_break_during_release),
		world_test(test_release_then_break),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
