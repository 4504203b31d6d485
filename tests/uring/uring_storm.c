/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Everything at once: threads that submit, take, cancel and ask, on two leases of one
 * ring, while other processes break both. Every request that was accepted completes
 * once, and the accounts are even in the end.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define SUBMITTERS 3u
#define TAKERS	   2u
#define BREAKS	   12u

static struct kt_fs fs;
static struct ut u;
static char path[2][KT_PATH_MAX];
static struct pinlease_file *file[2];
static struct pinlease *lease[2];
static int waiting[2]; /* a pipe that is written to now and then */
static _Atomic bool stop;
static _Atomic uint64_t accepted, completed, cancelled, broken_off;
static _Atomic int error;

/* Which request this is; every one completes once, so each bit is set once and cleared once. */
static _Atomic uint8_t out[1u << 16];
static _Atomic uint32_t next_name;

static void note(int ret)
{
	int none = 0;

	atomic_compare_exchange_strong(&error, &none, ret);
}

static void submit_one(int zero, uint32_t k)
{
	uint32_t name = atomic_fetch_add(&next_name, 1) % (1u << 16);
	struct pinlease *to = lease[k % 2];
	uint64_t off = k % UT_BLOCKS * (uint64_t)UT_BLOCK;
	int ret;

	if (atomic_exchange(&out[name], 1))
		return;
	if (k % 7 == 0)
		ret = pinlease_uring_read(u.ring, to, off, 64, waiting[0], 0, name);
	else if (k % 3 == 0)
		ret = pinlease_uring_write(u.ring, to, off, UT_BLOCK, zero, 0, name);
	else
		ret = pinlease_uring_read(u.ring, to, off, UT_BLOCK, zero, 0, name);
	if (!ret)
		atomic_fetch_add(&accepted, 1);
	else
		atomic_store(&out[name], 0);
	if (ret && ret != -EAGAIN && ret != -EBUSY)
		note(ret);
}

static void *submitter(void *arg)
{
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	uint32_t k = (uint32_t)(uintptr_t)arg;

	while (!atomic_load(&stop)) {
		submit_one(zero, k++);
		if (k % 64 == 0)
			usleep(100);
	}
	/* Open until the last request on it is over. */
	while (atomic_load(&completed) < atomic_load(&accepted))
		usleep(1000);
	close(zero);
	return NULL;
}

static void take_one(const struct pinlease_uring_completion *done)
{
	if (!atomic_exchange(&out[done->user_data], 0))
		note(-EEXIST);
	if (done->res == -ECANCELED)
		atomic_fetch_add(&broken_off, 1);
	else if (done->res < 0)
		note(done->res);
	atomic_fetch_add(&completed, 1);
}

static void *taker(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop) || atomic_load(&completed) < atomic_load(&accepted)) {
		struct pinlease_uring_completion done = { .size = sizeof(done) };
		int ret = pinlease_uring_next(u.ring, &done, 10);

		if (ret == 1)
			take_one(&done);
		else if (ret)
			note(ret);
	}
	return NULL;
}

/* As at BREAK, but at any time; and what feeds the pipe, so that some of its reads end well. */
static void *meddler(void *arg)
{
	static const char data[640];
	uint32_t k = 0;
	int ret;

	(void)arg;
	while (!atomic_load(&stop) || atomic_load(&completed) < atomic_load(&accepted)) {
		ret = pinlease_uring_cancel(u.ring, lease[k++ % 2]);
		if (ret < 0)
			note(ret);
		else
			atomic_fetch_add(&cancelled, (uint64_t)ret);
		if (write(waiting[1], data, sizeof(data)) < 0 && errno != EAGAIN)
			note(-errno);
		usleep(3000);
	}
	return NULL;
}

static void start_thread(pthread_t *thread, void *(*fn)(void *arg), uint32_t number)
{
	assert_int_equal(pthread_create(thread, NULL, fn, (void *)(uintptr_t)number), 0);
}

static void storm(void **state)
{
	pthread_t threads[SUBMITTERS + TAKERS + 1];
	struct pinlease_event ev;
	uint32_t n = 0;

	(void)state;
	assert_int_equal(pipe2(waiting, O_CLOEXEC | O_NONBLOCK), 0);
	/* The reading end waits: io_uring would answer EAGAIN at once for O_NONBLOCK. */
	assert_int_equal(fcntl(waiting[0], F_SETFL, 0), 0);
	for (uint32_t i = 0; i < SUBMITTERS; i++)
		start_thread(&threads[n++], submitter, i);
	for (uint32_t i = 0; i < TAKERS; i++)
		start_thread(&threads[n++], taker, i);
	start_thread(&threads[n++], meddler, 0);
	for (uint32_t i = 0; i < BREAKS; i++) {
		assert_int_equal(kt_truncate_now(path[i % 2], UT_LEN, UT_LONG), 0);
		assert_true(ut_event(&u, PINLEASE_EV_RESTORED, UT_LONG, &ev));
	}
	atomic_store(&stop, true);
	while (n)
		pthread_join(threads[--n], NULL);
	printf("%llu requests, %llu asked to stop, %llu cut off, %u breaks\n", (unsigned long long)accepted,
	       (unsigned long long)cancelled, (unsigned long long)broken_off, BREAKS);
	assert_int_equal(atomic_load(&error), 0);
	assert_int_equal(atomic_load(&completed), atomic_load(&accepted));
	assert_true(atomic_load(&accepted) > 1000 && atomic_load(&broken_off) > 0);
	assert_int_equal(ut_ring_info(&u).in_flight, 0);
	assert_int_equal(ut_ring_info(&u).kept, 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ut_info(lease[i]).in_flight, 0);
		assert_int_equal(ut_info(lease[i]).late, 0);
		assert_int_equal(ut_info(lease[i]).breaks, BREAKS / 2);
		close(waiting[i]);
	}
}

static int setup(void **state)
{
	(void)state;
	ut_start(&u, 64, 4);
	for (int i = 0; i < 2; i++) {
		ut_file(path[i], fs.dir, i ? "b" : "a", UT_BLOCKS);
		file[i] = ut_open(&u, path[i], PINLEASE_WRITE, 0);
		lease[i] = ut_lease(&u, file[i], UT_LEN, 0, 500);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		ut_drop(lease[i], file[i]);
	ut_stop(&u);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(storm, setup, teardown) };

	ut_begin_on(&fs, "tmpfs", 16);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
