/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What libpinlease-uring rests on: io_uring alone, without the library. What can be
 * registered at all is in kernel_uring.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kt.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEN   65536u
#define TAG   0x1000u
#define NEVER 200u /* ms: what has not come by then waits for something */
#define LATER KT_LONG

static struct io_uring ring;
static char *buffer[2];
static int pipe_fd[2];

static int setup(void **state)
{
	int ret = io_uring_queue_init(16, &ring, 0);

	(void)state;
	if (ret == -EPERM || ret == -ENOSYS)
		kt_skip("no io_uring here: %s", strerror(-ret));
	assert_int_equal(ret, 0);
	assert_int_equal(io_uring_register_buffers_sparse(&ring, 4), 0);
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	for (int i = 0; i < 2; i++) {
		buffer[i] = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		assert_true(buffer[i] != MAP_FAILED);
		memset(buffer[i], 0, LEN);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	io_uring_queue_exit(&ring);
	for (int i = 0; i < 2; i++) {
		munmap(buffer[i], LEN);
		close(pipe_fd[i]);
	}
	return 0;
}

static int set_buffer(uint32_t slot, void *addr, size_t len, uint64_t tag)
{
	struct iovec iov = { addr, len };
	__u64 tags[1] = { tag };
	int ret = io_uring_register_buffers_update_tag(&ring, slot, &iov, tags, 1);

	return ret < 0 ? ret : 0;
}

static void start_read(uint32_t slot, uint64_t name)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_read_fixed(sqe, pipe_fd[0], buffer[slot], 4096, 0, (int)slot);
	sqe->user_data = name;
	assert_int_equal(io_uring_submit(&ring), 1);
}

static void cancel(uint64_t name)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_cancel64(sqe, name, 0);
	sqe->user_data = 0;
	assert_int_equal(io_uring_submit(&ring), 1);
}

/* Takes completions until the one named comes, within ms: true and its res. */
static bool completes(uint64_t name, unsigned int ms, int *res)
{
	uint64_t until = kt_now() + ms * 1000000ull, now;
	struct io_uring_cqe *cqe;

	while ((now = kt_now()) < until) {
		struct __kernel_timespec ts = { .tv_sec = (long long)(until - now) / 1000000000,
						.tv_nsec = (long long)(until - now) % 1000000000 };
		uint64_t got;

		if (io_uring_wait_cqe_timeout(&ring, &cqe, &ts))
			continue;
		got = cqe->user_data;
		if (res)
			*res = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
		if (got == name)
			return true;
	}
	return false;
}

/* Out of the table, the buffer is still written to by what was in flight; cancelled and reaped, it is not. */
static void unregistering_is_no_fence(void **state)
{
	int res;

	(void)state;
	assert_int_equal(set_buffer(0, buffer[0], LEN, TAG), 0);
	start_read(0, 1);
	assert_int_equal(set_buffer(0, NULL, 0, 0), 0);
	assert_false(completes(TAG, NEVER, NULL));
	assert_int_equal(write(pipe_fd[1], "late", 4), 4);
	assert_true(completes(1, LATER, &res));
	assert_int_equal(res, 4);
	assert_memory_equal(buffer[0], "late", 4);
	/* The tag says when nothing holds the pages any more. */
	assert_true(completes(TAG, LATER, NULL));
}

static void cancel_and_reap_is_one(void **state)
{
	char left[8];
	int res;

	(void)state;
	assert_int_equal(set_buffer(0, buffer[0], LEN, TAG), 0);
	start_read(0, 1);
	cancel(1);
	assert_true(completes(1, LATER, &res));
	assert_int_equal(res, -ECANCELED);
	assert_int_equal(write(pipe_fd[1], "late", 4), 4);
	assert_int_equal(set_buffer(0, NULL, 0, 0), 0);
	assert_true(completes(TAG, LATER, NULL));
	kt_sleep_ms(20);
	assert_int_equal(buffer[0][0], 0);
	assert_int_equal(read(pipe_fd[0], left, sizeof(left)), 4);
}

/* 6.4 and newer do it in the call; before, a worker does, a second later. */
static void when_idle_pages_are_unpinned(void **state)
{
	bool at_once = kt_kernel_from(6, 4);

	(void)state;
	assert_int_equal(set_buffer(0, buffer[0], LEN, TAG), 0);
	assert_int_equal(set_buffer(0, NULL, 0, 0), 0);
	assert_int_equal(completes(TAG, at_once ? LATER : NEVER, NULL), at_once);
	if (!at_once)
		assert_true(completes(TAG, LATER, NULL));
}

/* Before 6.13 the requests of the whole ring hold what was unregistered after they had started. */
static void requests_on_other_buffers(void **state)
{
	bool alone = kt_kernel_from(6, 13);

	(void)state;
	assert_int_equal(set_buffer(0, buffer[0], LEN, TAG), 0);
	assert_int_equal(set_buffer(1, buffer[1], LEN, TAG + 1), 0);
	start_read(1, 1);
	assert_int_equal(set_buffer(0, NULL, 0, 0), 0);
	assert_int_equal(completes(TAG, alone ? LATER : 2000, NULL), alone);
	if (alone)
		return;
	cancel(1);
	assert_true(completes(TAG, LATER, NULL));
}

static void *read_and_exit(void *arg)
{
	(void)arg;
	start_read(0, 1);
	return NULL;
}

/* Why requests are submitted by a thread of the library: they end with the thread that did. */
static void requests_end_with_their_thread(void **state)
{
	pthread_t thread;
	int res = 0;

	(void)state;
	assert_int_equal(set_buffer(0, buffer[0], LEN, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, read_and_exit, NULL), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(write(pipe_fd[1], "late", 4), 4);
	assert_true(completes(1, LATER, &res));
	assert_true(res < 0);
	assert_int_equal(buffer[0][0], 0);
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(unregistering_is_no_fence),      FACT(cancel_and_reap_is_one),
		FACT(when_idle_pages_are_unpinned),   FACT(requests_on_other_buffers),
		FACT(requests_end_with_their_thread),
	};

	kt_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
