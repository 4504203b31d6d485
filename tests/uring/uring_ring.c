/* SPDX-License-Identifier: BSD-3-Clause */
/* The ring itself: what its calls move, refuse, keep and give back. */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct ut u;
static struct kt_fs fs;
static char path[KT_PATH_MAX];
static struct pinlease_file *file;
static struct pinlease *lease;

static int setup(void **state)
{
	(void)state;
	ut_start(&u, 8, 4);
	ut_file(path, fs.dir, "ring", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, PINLEASE_L_MANUAL, 1000);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_drop(lease, file);
	ut_stop(&u);
	return 0;
}

static void moves_data_both_ways(void **state)
{
	uint64_t in[UT_BLOCK / 8], out[UT_BLOCK / 8] = { 0 };
	struct pinlease_uring_completion done;
	int pipe_fd[2];

	(void)state;
	ut_stamp(in, 77);
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	assert_int_equal(write(pipe_fd[1], in, UT_BLOCK), UT_BLOCK);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 3 * UT_BLOCK, UT_BLOCK, pipe_fd[0], 0, 1), 0);
	done = ut_take(&u);
	assert_int_equal(done.res, UT_BLOCK);
	assert_int_equal(done.user_data, 1);
	assert_ptr_equal(done.lease, lease);
	assert_int_equal(done.gen, ut_view(lease).gen);
	assert_int_equal(ut_stamp_of((char *)ut_view(lease).addr + 3 * UT_BLOCK), 77);
	assert_int_equal(pinlease_uring_write(u.ring, lease, 3 * UT_BLOCK, UT_BLOCK, pipe_fd[1], 0, 2), 0);
	done = ut_take(&u);
	assert_int_equal(done.res, UT_BLOCK);
	assert_int_equal(read(pipe_fd[0], out, UT_BLOCK), UT_BLOCK);
	assert_memory_equal(in, out, UT_BLOCK);
	assert_int_equal(ut_info(lease).in_flight, 0);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
}

/* What a completion says is the kernel's own answer. */
static void answers_of_the_kernel(void **state)
{
	int fd = open(path, O_PATH | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 16, fd, 0, 1), 0);
	assert_int_equal(ut_take(&u).res, -EBADF);
	close(fd);
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 16, fd, 0, 1), 0);
	assert_int_equal(ut_take(&u).res, 0);
	close(fd);
}

static void refuses_wrong_arguments(void **state)
{
	struct pinlease_uring *ring = (void *)1;
	struct pinlease_uring_completion done = { .size = sizeof(done) - 1 };
	struct pinlease_uring_info info = { .size = 0 };

	(void)state;
	assert_int_equal(pinlease_uring_new(0, 1, &ring), -EINVAL);
	assert_int_equal(pinlease_uring_new(1, 0, &ring), -EINVAL);
	assert_int_equal(pinlease_uring_new(PINLEASE_URING_MAX_ENTRIES + 1, 1, &ring), -EINVAL);
	assert_int_equal(pinlease_uring_new(1, PINLEASE_URING_MAX_BUFFERS + 1, &ring), -EINVAL);
	assert_int_equal(pinlease_uring_new(1, 1, NULL), -EINVAL);
	assert_ptr_equal(ring, (void *)1);
	assert_int_equal(pinlease_uring_free(NULL), 0);
	assert_int_equal(pinlease_uring_fd(NULL), -EINVAL);
	assert_int_equal(pinlease_uring_read(NULL, lease, 0, 1, 0, 0, 0), -EINVAL);
	assert_int_equal(pinlease_uring_read(u.ring, NULL, 0, 1, 0, 0, 0), -EINVAL);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 0, 0, 0, 0), -EINVAL);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 1, -1, 0, 0), -EINVAL);
	assert_int_equal(pinlease_uring_write(u.ring, lease, UT_LEN, 1, 0, 0, 0), -ERANGE);
	assert_int_equal(pinlease_uring_write(u.ring, lease, UT_LEN - 1, 2, 0, 0, 0), -ERANGE);
	assert_int_equal(pinlease_uring_write(u.ring, lease, UINT64_MAX, 2, 0, 0, 0), -ERANGE);
	assert_int_equal(pinlease_uring_cancel(u.ring, NULL), -EINVAL);
	assert_int_equal(pinlease_uring_next(u.ring, &done, 0), -EINVAL);
	assert_int_equal(pinlease_uring_next(u.ring, NULL, 0), -EINVAL);
	assert_int_equal(pinlease_uring_info(u.ring, &info), -EINVAL);
	assert_int_equal(ut_info(lease).in_flight, 0);
	assert_int_equal(ut_ring_info(&u).in_flight, 0);
}

/* A lease that is registered elsewhere, or nowhere, is not reached through this ring. */
static void refuses_leases_of_others(void **state)
{
	struct pinlease_uring *other;

	(void)state;
	assert_int_equal(pinlease_uring_new(8, 4, &other), 0);
	assert_int_equal(pinlease_uring_write(other, lease, 0, 16, 1, 0, 0), -EINVAL);
	assert_int_equal(pinlease_uring_free(u.ring), -EBUSY);
	assert_int_equal(pinlease_uring_free(other), 0);
	assert_int_equal(ut_info(lease).in_flight, 0);
}

static void full_ring_is_busy(void **state)
{
	struct pollfd pfd = { .fd = pinlease_uring_fd(u.ring), .events = POLLIN };
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	(void)state;
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 64, fd, 0, i), 0);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 64, fd, 0, 9), -EBUSY);
	assert_int_equal(poll(&pfd, 1, (int)UT_LONG), 1);
	for (uint64_t i = 0; i < 8; i++) {
		assert_int_equal(poll(&pfd, 1, (int)UT_LONG), 1);
		assert_int_equal(ut_take(&u).res, 64);
	}
	assert_int_equal(poll(&pfd, 1, 0), 0);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 64, fd, 0, 9), 0);
	assert_int_equal(ut_take(&u).user_data, 9);
	assert_int_equal(ut_ring_info(&u).kept, 0);
	close(fd);
}

static void cancel_stops_what_waits(void **state)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };
	int pipe_fd[2];

	(void)state;
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	assert_int_equal(pinlease_uring_cancel(u.ring, lease), 0);
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 64, pipe_fd[0], 0, i), 0);
	assert_int_equal(pinlease_uring_next(u.ring, &done, 20), 0);
	assert_int_equal(ut_info(lease).in_flight, 8);
	assert_int_equal(pinlease_uring_cancel(u.ring, lease), 8);
	for (int i = 0; i < 8; i++)
		assert_int_equal(ut_take(&u).res, -ECANCELED);
	assert_int_equal(ut_info(lease).in_flight, 0);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
}

static void *submit_and_exit(void *arg)
{
	static int ret;

	ret = pinlease_uring_read(u.ring, lease, 0, 64, *(int *)arg, 0, 5);
	return &ret;
}

/* io_uring cancels what an exiting thread has submitted; here it is not the thread that submits. */
static void requests_outlive_their_thread(void **state)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };
	pthread_t thread;
	int pipe_fd[2];
	void *ret;

	(void)state;
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&thread, NULL, submit_and_exit, &pipe_fd[0]), 0);
	assert_int_equal(pthread_join(thread, &ret), 0);
	assert_int_equal(*(int *)ret, 0);
	assert_int_equal(pinlease_uring_next(u.ring, &done, 50), 0);
	assert_int_equal(write(pipe_fd[1], "hello", 5), 5);
	assert_int_equal(ut_take(&u).res, 5);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
}

static void child_only_frees_memory(void **state)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };
	int fd = pinlease_uring_fd(u.ring), status;
	pid_t pid = fork();

	(void)state;
	if (!pid) {
		bool ok = pinlease_uring_next(u.ring, &done, -1) == -ECHILD &&
			  pinlease_uring_read(u.ring, lease, 0, 1, 0, 0, 0) == -ECHILD &&
			  pinlease_uring_cancel(u.ring, lease) == -ECHILD &&
			  pinlease_uring_fd(u.ring) == -ECHILD && fcntl(fd, F_GETFD) < 0 &&
			  pinlease_uring_free(u.ring) == 0;

		_exit(!ok);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	moves_data_both_ways(NULL);
}

/* Up to 6.3 pages are given back up to a second after they were unregistered; 7.2 does not count for root. */
static void expect_pinned(uint32_t leases, bool counted)
{
	long want = (long)leases * UT_LEN / 1024;

	for (unsigned int i = 0; counted && i < UT_LONG && kt_pinned_kib() != want; i++)
		kt_sleep_ms(1);
	if (counted)
		assert_int_equal(kt_pinned_kib(), want);
}

/* Pages are really pinned, once a lease, and given back by release; the slot is free again. */
static void pins_and_unpins(void **state)
{
	struct pinlease_file *files[3];
	struct pinlease *leases[3];
	bool counted = kt_pinned_kib() > 0;
	char name[8] = "f0", more[KT_PATH_MAX];

	(void)state;
	expect_pinned(1, counted);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 3; i++, name[1]++) {
			ut_file(more, fs.dir, name, UT_BLOCKS);
			files[i] = ut_open(&u, more, PINLEASE_WRITE, 0);
			leases[i] = ut_lease(&u, files[i], UT_LEN, 0, 0);
			assert_int_equal(ut_view(leases[i]).mode, PINLEASE_MODE_PINNED);
		}
		expect_pinned(4, counted);
		assert_int_equal(ut_ring_info(&u).registered, 4);
		for (int i = 0; i < 3; i++)
			ut_drop(leases[i], files[i]);
		expect_pinned(1, counted);
	}
	for (unsigned int i = 0; i < UT_LONG && ut_ring_info(&u).retiring; i++)
		kt_sleep_ms(1);
	assert_int_equal(ut_ring_info(&u).retiring, 0);
	assert_int_equal(ut_ring_info(&u).registered, 1);
	if (!counted)
		kt_note("what is pinned (this kernel does not count it in VmPin)");
}

static void full_table(void **state)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .backend = pinlease_uring_backend() };
	struct pinlease_why why = { 0 };
	struct pinlease_uring *small;
	struct pinlease *one, *two = NULL;

	(void)state;
	assert_int_equal(pinlease_uring_new(1, 1, &small), 0);
	opts.backend_arg = small;
	assert_int_equal(pinlease_acquire(file, 0, UT_BLOCK, &opts, &why, &one), 0);
	assert_int_equal(pinlease_acquire(file, UT_BLOCK, UT_BLOCK, &opts, &why, &two), -ENOBUFS);
	assert_int_equal(why.stage, PINLEASE_AT_REGISTER);
	assert_null(two);
	assert_int_equal(pinlease_release(one), 0);
	assert_int_equal(pinlease_acquire(file, UT_BLOCK, UT_BLOCK, &opts, &why, &two), 0);
	assert_int_equal(pinlease_release(two), 0);
	assert_int_equal(pinlease_uring_free(small), 0);
}

/* Sixteen rings and what they made are gone when they are freed. */
static void frees_everything(void **state)
{
	struct pinlease_uring *ring;
	int first = dup(0);

	(void)state;
	assert_true(first >= 0);
	close(first);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(pinlease_uring_new(64, 64, &ring), 0);
		assert_int_equal(pinlease_uring_free(ring), 0);
	}
	assert_int_equal(dup(0), first);
	close(first);
}

#define RING_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RING_TEST(moves_data_both_ways),
		RING_TEST(answers_of_the_kernel),
		RING_TEST(refuses_wrong_arguments),
		RING_TEST(refuses_leases_of_others),
		RING_TEST(full_ring_is_busy),
		RING_TEST(cancel_stops_what_waits),
		RING_TEST(requests_outlive_their_thread),
		RING_TEST(child_only_frees_memory),
		RING_TEST(pins_and_unpins),
		RING_TEST(full_table),
		RING_TEST(frees_everything),
	};

	ut_begin_on(&fs, "tmpfs", 16);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
