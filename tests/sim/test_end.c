/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A thread ends the last operation while another one releases the lease: who releases has seen that
 * nothing is in flight any more before the end has returned, and must not free what the end still looks at.
 */
#include <errno.h>
#include <sched.h>

#include "account.h"
#include "lease.h"
#include "sys.h"
#include "world.h"

#define ROUNDS 100

static struct {
	struct pinlease *lease;
	pthread_t thread;
	uint32_t gen;
} last;

static void *end_last(void *arg)
{
	(void)arg;
	pinlease_dma_end(last.lease, 1, last.gen);
	return NULL;
}

static void last_begins(struct world *w, const struct pinlease_opts *o)
{
	last.lease = world_lease(w, 0, SIM_PAGE, o);
	last.gen = world_begin(last.lease, 1);
}

static void last_thread(void)
{
	assert_int_equal(pl_sys_thread_new(end_last, NULL, "end", &last.thread), 0);
}

/* The lock is held: the thread is counted, and then waits for the lock to say so. */
static void end_in_release(void *arg)
{
	(void)arg;
	last_thread();
	while (pl_account_in_flight(&last.lease->account))
		sched_yield();
}

/*
 * Nothing is registered, so that release fences without letting go of the lock: all is seen to
 * have ended, and the thread has not come out of the call.
 */
static void test_end_waits_for_the_lock(struct world *w)
{
	const struct pinlease_opts o = { .pd = WORLD_NO_PD, .mode = PINLEASE_MODE_PINNED };
	uint64_t before;

	/* Under TSan the library has no membarrier, whose call would be the moment. */
	assert_int_equal(pl_account_setup(), 0);
	if (!pl_account_has_membarrier())
		return;
	world_open(w, PINLEASE_WRITE);
	last_begins(w, &o);
	before = sim_now();
	sim_hook("membarrier", 1, end_in_release, NULL);
	assert_int_equal(pinlease_release(last.lease), 0);
	/* It looked again after a while: the calls themselves take microseconds. */
	assert_true(sim_now() - before >= SIM_MS);
	pl_sys_thread_join(last.thread);
	world_forget(w, last.lease);
	world_close(w);
}

static void *end_later(void *arg)
{
	sim_sleep(10 * SIM_MS);
	return end_last(arg);
}

/* Nothing to fence, so no worker comes by: the end itself wakes who waits for it, before the deadline. */
static void test_end_wakes_release(struct world *w)
{
	const struct pinlease_opts o = { .mode = PINLEASE_MODE_PINNED,
					 .pd = WORLD_NO_PD,
					 .deadline_ms = 5000 };
	struct sim_thread *thread;
	uint64_t before;

	world_open(w, PINLEASE_WRITE);
	last_begins(w, &o);
	before = sim_now();
	thread = sim_thread_start(end_later, NULL);
	assert_int_equal(pinlease_release(last.lease), 0);
	assert_in_range(sim_now() - before, 10 * SIM_MS, 20 * SIM_MS);
	sim_thread_join(thread);
	world_forget(w, last.lease);
	world_close(w);
}

/* At whatever moment: for ThreadSanitizer, and AddressSanitizer. */
static void test_end_beside_release(struct world *w)
{
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	for (i = 0; i < ROUNDS; i++) {
		/* Which world_forget has left empty. */
		w->leases = 0;
		last_begins(w, NULL);
		last_thread();
		assert_int_equal(pinlease_release(last.lease), 0);
		pl_sys_thread_join(last.thread);
		world_forget(w, last.lease);
	}
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_end_waits_for_the_lock),
		world_test(test_end_wakes_release),
		world_test(test_end_beside_release),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
