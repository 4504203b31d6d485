/* SPDX-License-Identifier: BSD-3-Clause */
/* Events: one of a kind and lease, newest wins, order of the last occurrence, readable while any is there. */
#include <poll.h>

#include "events.h"
#include "sys.h"
#include "unit.h"

struct scene {
	struct pl_event_queue q;
	struct pl_event_box a, b;
};

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));

	*state = s;
	pl_event_box_init(&s->a);
	pl_event_box_init(&s->b);
	return pl_events_init(&s->q);
}

static int teardown(void **state)
{
	struct scene *s = *state;

	pl_events_fini(&s->q);
	free(s);
	return 0;
}

static bool readable(struct scene *s)
{
	struct pollfd p = { .fd = s->q.fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void put(struct scene *s, struct pl_event_box *box, struct pinlease_event ev)
{
	if (pl_event_put(&s->q, box, &ev))
		pl_events_wake(&s->q);
}

static void fill(struct pl_event_box *box, struct pinlease_event *ev)
{
	ev->user = box;
}

static void expect(struct scene *s, struct pl_event_box *box, uint32_t type, struct pinlease_event *ev)
{
	assert_true(readable(s));
	memset(ev, 0, sizeof(*ev));
	assert_ptr_equal(pl_event_next(&s->q, ev, fill), box);
	assert_ptr_equal(ev->user, box);
	assert_int_equal(ev->type, type);
}

static void expect_none(struct scene *s)
{
	struct pinlease_event ev;

	assert_null(pl_event_next(&s->q, &ev, fill));
	assert_false(readable(s));
}

static void empty(void **state)
{
	expect_none(*state);
}

static void everything_comes_back(void **state)
{
	struct pinlease_event ev, in = { .type = PINLEASE_EV_BREAK, .gen = 7, .cause = PINLEASE_BY_WRITER,
					 .off = 4096, .len = UINT64_MAX, .deadline_ns = 1234567890123 };
	struct scene *s = *state;

	put(s, &s->a, in);
	expect(s, &s->a, PINLEASE_EV_BREAK, &ev);
	assert_true(ev.gen == 7 && ev.cause == PINLEASE_BY_WRITER && ev.off == 4096 && ev.len == UINT64_MAX);
	assert_true(ev.deadline_ns == 1234567890123 && !ev.in_flight && !ev.lost_bytes && !ev.err);
	in = (struct pinlease_event){ .type = PINLEASE_EV_LOST, .gen = 8, .err = -EDQUOT, .in_flight = 3,
				      .lost_bytes = 1ull << 40, .off = 77, .len = 1ull << 50 };
	put(s, &s->a, in);
	expect(s, &s->a, PINLEASE_EV_LOST, &ev);
	assert_true(ev.gen == 8 && ev.err == -EDQUOT && ev.in_flight == 3 && ev.lost_bytes == 1ull << 40);
	assert_true(ev.off == 77 && ev.len == 1ull << 50 && !ev.deadline_ns);
	expect_none(s);
}

/* BREAK, REVOKED, BREAK again: the second BREAK stands behind the REVOKED, and the first is gone. */
static void newest_wins_at_its_place(void **state)
{
	struct scene *s = *state;
	struct pinlease_event ev;

	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_BREAK, .gen = 1, .deadline_ns = 1 });
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_REVOKED, .gen = 1 });
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_RESTORED, .gen = 2 });
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_BREAK, .gen = 2, .deadline_ns = 2 });
	expect(s, &s->a, PINLEASE_EV_REVOKED, &ev);
	expect(s, &s->a, PINLEASE_EV_RESTORED, &ev);
	expect(s, &s->a, PINLEASE_EV_BREAK, &ev);
	assert_true(ev.gen == 2 && ev.deadline_ns == 2);
	expect_none(s);
}

/* What a fence cut off and nobody was told of adds up; once told it starts again. */
static void cut_off_operations_add_up(void **state)
{
	struct scene *s = *state;
	struct pinlease_event ev;

	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_REVOKED, .gen = 1, .in_flight = 2 });
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_REVOKED, .gen = 2, .in_flight = 3 });
	expect(s, &s->a, PINLEASE_EV_REVOKED, &ev);
	assert_true(ev.in_flight == 5 && ev.gen == 2);
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_REVOKED, .gen = 3, .in_flight = 1 });
	expect(s, &s->a, PINLEASE_EV_REVOKED, &ev);
	assert_int_equal(ev.in_flight, 1);
	/* What is lost is a state, not a sum. */
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_LOST, .lost_bytes = 10, .in_flight = 1 });
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_LOST, .lost_bytes = 4, .in_flight = 1 });
	expect(s, &s->a, PINLEASE_EV_LOST, &ev);
	assert_true(ev.lost_bytes == 4 && ev.in_flight == 2);
}

static void every_kind_at_once(void **state)
{
	struct scene *s = *state;
	struct pinlease_event ev;
	uint32_t type, round;

	for (round = 0; round < 3; round++)
		for (type = PL_EVENT_KINDS; type; type--)
			put(s, &s->a, (struct pinlease_event){ .type = type });
	for (type = PL_EVENT_KINDS; type; type--)
		expect(s, &s->a, type, &ev);
	expect_none(s);
}

/* Level-triggered: not every event read leaves it readable, the last one does not. */
static void readable_to_the_last(void **state)
{
	struct scene *s = *state;
	struct pinlease_event ev;

	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_BREAK });
	put(s, &s->b, (struct pinlease_event){ .type = PINLEASE_EV_BREAK });
	put(s, &s->b, (struct pinlease_event){ .type = PINLEASE_EV_REVOKED });
	expect(s, &s->a, PINLEASE_EV_BREAK, &ev);
	expect(s, &s->b, PINLEASE_EV_BREAK, &ev);
	expect(s, &s->b, PINLEASE_EV_REVOKED, &ev);
	expect_none(s);
	put(s, &s->b, (struct pinlease_event){ .type = PINLEASE_EV_NOTICE });
	expect(s, &s->b, PINLEASE_EV_NOTICE, &ev);
	expect_none(s);
}

/* The consumer was faster than the waker: the fd must not stay readable with nothing behind it. */
static void a_late_wake_is_none(void **state)
{
	struct pinlease_event ev = { .type = PINLEASE_EV_BREAK };
	struct scene *s = *state;

	assert_true(pl_event_put(&s->q, &s->a, &ev));
	assert_false(readable(s));
	assert_false(pl_event_put(&s->q, &s->b, &ev));
	assert_non_null(pl_event_next(&s->q, &ev, fill));
	assert_non_null(pl_event_next(&s->q, &ev, fill));
	pl_events_wake(&s->q);
	expect_none(s);
}

static void purged_is_gone(void **state)
{
	struct scene *s = *state;
	struct pinlease_event ev;

	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_BREAK });
	put(s, &s->a, (struct pinlease_event){ .type = PINLEASE_EV_REVOKED });
	put(s, &s->b, (struct pinlease_event){ .type = PINLEASE_EV_BREAK });
	pl_event_purge(&s->q, &s->a);
	expect(s, &s->b, PINLEASE_EV_BREAK, &ev);
	expect_none(s);
	put(s, &s->b, (struct pinlease_event){ .type = PINLEASE_EV_BREAK });
	pl_event_purge(&s->q, &s->b);
	expect_none(s);
	pl_event_purge(&s->q, &s->b);
	expect_none(s);
}

#define PRODUCERS 3
#define PUTS	  20000

struct producer {
	struct scene *s;
	struct pl_event_box box;
	pthread_t thread;
	uint32_t last;
};

static void *produce(void *arg)
{
	struct producer *p = arg;
	struct pinlease_event ev = { .type = PINLEASE_EV_RESTORED };

	while (ev.gen < PUTS) {
		ev.gen++;
		put(p->s, &p->box, ev);
	}
	return NULL;
}

/* A consumer that sleeps in poll gets the last event of each, and generations never go back. */
static void nothing_is_missed(void **state)
{
	struct scene *s = *state;
	struct producer p[PRODUCERS] = { { .s = NULL } };
	struct pollfd poller = { .fd = s->q.fd, .events = POLLIN };
	unsigned int done = 0, i;
	struct pinlease_event ev;
	struct pl_event_box *box;

	for (i = 0; i < PRODUCERS; i++) {
		p[i].s = s;
		pl_event_box_init(&p[i].box);
		assert_int_equal(pl_sys_thread_new(produce, &p[i], "producer", &p[i].thread), 0);
	}
	while (done < PRODUCERS) {
		assert_int_equal(poll(&poller, 1, 30000), 1);
		while ((box = pl_event_next(&s->q, &ev, fill))) {
			struct producer *from = pl_container(box, struct producer, box);

			assert_true(ev.gen > from->last);
			from->last = ev.gen;
			done += ev.gen == PUTS;
		}
	}
	for (i = 0; i < PRODUCERS; i++)
		pl_sys_thread_join(p[i].thread);
	expect_none(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(empty, setup, teardown),
		cmocka_unit_test_setup_teardown(everything_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(newest_wins_at_its_place, setup, teardown),
		cmocka_unit_test_setup_teardown(cut_off_operations_add_up, setup, teardown),
		cmocka_unit_test_setup_teardown(every_kind_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(readable_to_the_last, setup, teardown),
		cmocka_unit_test_setup_teardown(a_late_wake_is_none, setup, teardown),
		cmocka_unit_test_setup_teardown(purged_is_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_is_missed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
