/* SPDX-License-Identifier: BSD-3-Clause */
/* What is due when runs in order, deadlines first, and nothing slow holds up what is quick. */
#include <stdatomic.h>

#include "agenda.h"
#include "sys.h"
#include "unit.h"
#include "util.h"

#define WORKERS 3
#define ITEMS	16

struct item {
	struct pl_work work;
	struct scene *scene;
	_Atomic int runs;
	_Atomic uint64_t ran_ns;
	_Atomic bool hold, entered;	/* run blocks while hold is set */
	int queue_again;		/* times that run queues it anew */
};

struct scene {
	struct pl_agenda agenda;
	pthread_t thread[WORKERS];
	unsigned int workers;
	struct item item[ITEMS];
	_Atomic int order[ITEMS];	/* items by number, in the order they ran */
	_Atomic int ran;
};

static void item_run(struct pl_work *work)
{
	struct item *it = pl_container(work, struct item, work);
	struct scene *s = it->scene;

	it->ran_ns = pl_sys_now();
	it->entered = true;
	while (it->hold)
		unit_sleep_ms(1);
	if (it->queue_again-- > 0)
		pl_agenda_queue(&s->agenda, work, 0, 0, false);
	s->order[s->ran++ % ITEMS] = (int)(it - s->item);
	it->runs++;
}

static void *work(void *arg)
{
	pl_agenda_work(arg);
	return NULL;
}

static void (*const runs[])(struct pl_work *work) = { NULL, item_run };

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	int i;

	*state = s;
	for (i = 0; i < ITEMS; i++) {
		pl_work_init(&s->item[i].work, 1);
		s->item[i].scene = s;
	}
	return pl_agenda_init(&s->agenda, WORKERS, runs);
}

static void start(struct scene *s, unsigned int workers)
{
	while (s->workers < workers) {
		assert_int_equal(pl_sys_thread_new(work, &s->agenda, "worker", &s->thread[s->workers]), 0);
		s->workers++;
	}
}

static int teardown(void **state)
{
	struct scene *s = *state;

	pl_agenda_stop(&s->agenda);
	while (s->workers)
		pl_sys_thread_join(s->thread[--s->workers]);
	pl_agenda_fini(&s->agenda);
	free(s);
	return 0;
}

static void queue(struct scene *s, int i, uint64_t due, uint64_t deadline, bool slow)
{
	pl_agenda_queue(&s->agenda, &s->item[i].work, due, deadline, slow);
}

struct count {
	_Atomic int *is;
	int wanted;
};

static bool count_reached(void *arg)
{
	struct count *c = arg;

	return *c->is >= c->wanted;
}

static void wait_ran(struct scene *s, int n)
{
	assert_true(unit_until(count_reached, &(struct count){ &s->ran, n }));
}

static bool is_true(void *arg)
{
	return *(_Atomic bool *)arg;
}

static void expect_order(struct scene *s, const int *order, int n)
{
	int i;

	wait_ran(s, n);
	for (i = 0; i < n; i++)
		assert_int_equal(s->order[i], order[i]);
}

/* One worker, everything queued before it starts. */
static void earliest_deadline_first(void **state)
{
	struct scene *s = *state;

	uint64_t now = pl_sys_now();

	queue(s, 0, 0, 30, false);
	queue(s, 1, 0, 10, true);
	queue(s, 2, 0, 20, false);
	queue(s, 3, 0, PL_NEVER, false);
	/* What is due stays due. */
	queue(s, 3, now + 3600 * PL_NS_PER_S, PL_NEVER, false);
	/* Queued again for later, but with less time when it is due. */
	queue(s, 4, now + 1, 17, false);
	queue(s, 4, now + 2, 5, false);
	unit_sleep_ms(1);
	start(s, 1);
	expect_order(s, (const int[]){ 4, 1, 2, 0, 3 }, 5);
}

/* A deadline near by does not make anything run before it is due. */
static void not_before_it_is_due(void **state)
{
	struct scene *s = *state;
	uint64_t now = pl_sys_now();

	start(s, WORKERS);
	queue(s, 0, now + 90 * PL_NS_PER_MS, 0, false);
	queue(s, 1, now + 30 * PL_NS_PER_MS, PL_NEVER, false);
	queue(s, 2, now + 60 * PL_NS_PER_MS, PL_NEVER, false);
	wait_ran(s, 3);
	assert_true(s->item[0].ran_ns >= now + 90 * PL_NS_PER_MS);
	assert_true(s->item[1].ran_ns >= now + 30 * PL_NS_PER_MS);
	assert_true(s->item[2].ran_ns >= now + 60 * PL_NS_PER_MS);
}

static void the_earlier_due_wins(void **state)
{
	struct scene *s = *state;
	uint64_t now = pl_sys_now(), hour = 3600 * PL_NS_PER_S;

	start(s, 2);
	queue(s, 0, now + hour, 0, false);
	queue(s, 0, now + 5 * PL_NS_PER_MS, 0, false);
	queue(s, 0, now + hour, 0, false);
	queue(s, 1, now + hour, 0, false);
	queue(s, 1, 0, 0, false);
	wait_ran(s, 2);
	unit_sleep_ms(20);
	assert_true(s->item[0].runs == 1 && s->item[1].runs == 1);
}

/* Three slow items hang; the quick one does not wait for them, and a third slow one does not start. */
static void slow_never_gets_all_workers(void **state)
{
	struct scene *s = *state;
	int i;

	for (i = 0; i < WORKERS; i++) {
		s->item[i].hold = true;
		queue(s, i, 0, (uint64_t)i, true);
	}
	start(s, WORKERS);
	for (i = 0; i < WORKERS - 1; i++)
		assert_true(unit_until(is_true, &s->item[i].entered));
	queue(s, 8, 0, PL_NEVER, false);
	wait_ran(s, 1);
	assert_int_equal(s->order[0], 8);
	assert_false(s->item[WORKERS - 1].entered);
	s->item[0].hold = false;
	assert_true(unit_until(is_true, &s->item[WORKERS - 1].entered));
	for (i = 0; i < WORKERS; i++)
		s->item[i].hold = false;
	wait_ran(s, WORKERS + 1);
}

/* Queued as slow while it runs, it is slow the next time. */
static void slow_from_now_on(void **state)
{
	struct scene *s = *state;
	int i;

	for (i = 0; i < WORKERS; i++)
		s->item[i].hold = true;
	queue(s, 2, 0, 0, false);
	start(s, WORKERS);
	assert_true(unit_until(is_true, &s->item[2].entered));
	for (i = 0; i < WORKERS; i++)
		queue(s, i, 0, 0, true);
	for (i = 0; i < WORKERS - 1; i++)
		assert_true(unit_until(is_true, &s->item[i].entered));
	s->item[2].hold = false;
	wait_ran(s, 1);
	queue(s, 8, 0, PL_NEVER, false);
	wait_ran(s, 2);
	assert_int_equal(s->order[1], 8);
	assert_int_equal(s->item[2].runs, 1);
	s->item[0].hold = s->item[1].hold = false;
	wait_ran(s, 5);
}

/* Queued any number of times while it runs: once more, and never twice at the same time. */
static void queued_while_it_runs(void **state)
{
	struct scene *s = *state;

	s->item[0].hold = true;
	queue(s, 0, 0, 0, false);
	start(s, WORKERS);
	assert_true(unit_until(is_true, &s->item[0].entered));
	queue(s, 0, pl_sys_now() + 3600 * PL_NS_PER_S, 0, false);
	queue(s, 0, 0, 0, false);
	queue(s, 0, 0, 0, false);
	queue(s, 0, pl_sys_now() + 3600 * PL_NS_PER_S, 0, false);
	unit_sleep_ms(5);
	assert_int_equal(s->item[0].runs, 0);
	s->item[0].hold = false;
	wait_ran(s, 2);
	unit_sleep_ms(20);
	assert_int_equal(s->item[0].runs, 2);
	s->item[1].queue_again = 3;
	queue(s, 1, 0, 0, false);
	wait_ran(s, 6);
	unit_sleep_ms(20);
	assert_int_equal(s->item[1].runs, 4);
}

static void cancelled_before_it_ran(void **state)
{
	struct scene *s = *state;

	queue(s, 0, 0, 0, false);
	queue(s, 1, 0, 0, true);
	queue(s, 2, pl_sys_now() + PL_NS_PER_MS, 0, false);
	pl_agenda_cancel(&s->agenda, &s->item[0].work);
	pl_agenda_cancel(&s->agenda, &s->item[1].work);
	pl_agenda_cancel(&s->agenda, &s->item[2].work);
	pl_agenda_cancel(&s->agenda, &s->item[3].work);
	queue(s, 0, 0, 0, false);
	queue(s, 4, 0, PL_NEVER, false);
	start(s, WORKERS);
	wait_ran(s, 1);
	unit_sleep_ms(20);
	assert_int_equal(s->ran, 1);
	assert_int_equal(s->order[0], 4);
}

struct canceller {
	struct scene *s;
	_Atomic bool done;
};

static void *cancel_first(void *arg)
{
	struct canceller *c = arg;

	pl_agenda_cancel(&c->s->agenda, &c->s->item[0].work);
	c->done = true;
	return NULL;
}

static bool is_cancelled(void *arg)
{
	struct item *it = arg;
	bool cancelled;

	pthread_mutex_lock(&it->scene->agenda.lock);
	cancelled = it->work.cancelled;
	pthread_mutex_unlock(&it->scene->agenda.lock);
	return cancelled;
}

/* cancel returns when the item has run to its end; what was queued meanwhile does not run. */
static void cancelled_while_it_runs(void **state)
{
	struct scene *s = *state;
	struct canceller c = { .s = s };
	pthread_t thread;

	s->item[0].hold = true;
	s->item[0].queue_again = 5;
	queue(s, 0, 0, 0, false);
	start(s, WORKERS);
	assert_true(unit_until(is_true, &s->item[0].entered));
	queue(s, 0, 0, 0, false);
	assert_int_equal(pl_sys_thread_new(cancel_first, &c, "canceller", &thread), 0);
	/* On a busy machine its turn may come late, and what is not cancelled yet may run again. */
	assert_true(unit_until(is_cancelled, &s->item[0]));
	unit_sleep_ms(20);
	assert_false(c.done);
	s->item[0].hold = false;
	pl_sys_thread_join(thread);
	assert_int_equal(s->item[0].runs, 1);
	unit_sleep_ms(20);
	assert_int_equal(s->item[0].runs, 1);
}

/* Many due at once are shared out among the workers, and each runs exactly once. */
static void many_at_once(void **state)
{
	struct scene *s = *state;
	uint64_t due = pl_sys_now() + 20 * PL_NS_PER_MS;
	int i;

	start(s, WORKERS);
	for (i = 0; i < ITEMS; i++)
		queue(s, i, due, (uint64_t)i, i % 2);
	wait_ran(s, ITEMS);
	unit_sleep_ms(20);
	for (i = 0; i < ITEMS; i++)
		assert_int_equal(s->item[i].runs, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(earliest_deadline_first, setup, teardown),
		cmocka_unit_test_setup_teardown(not_before_it_is_due, setup, teardown),
		cmocka_unit_test_setup_teardown(the_earlier_due_wins, setup, teardown),
		cmocka_unit_test_setup_teardown(slow_never_gets_all_workers, setup, teardown),
		cmocka_unit_test_setup_teardown(slow_from_now_on, setup, teardown),
		cmocka_unit_test_setup_teardown(queued_while_it_runs, setup, teardown),
		cmocka_unit_test_setup_teardown(cancelled_before_it_ran, setup, teardown),
		cmocka_unit_test_setup_teardown(cancelled_while_it_runs, setup, teardown),
		cmocka_unit_test_setup_teardown(many_at_once, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
