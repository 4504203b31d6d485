/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * io_uring fixed buffers: a GUP long-term pin on machines without RDMA. What can be
 * registered, and what ends the reach of a request that is already under way.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scene.h"

static int uring_setup(void **state)
{
	struct io_uring ring;
	int ret = io_uring_queue_init(4, &ring, 0);

	if (ret)
		kt_skip("io_uring is not to be had: %s", strerror(-ret));
	io_uring_queue_exit(&ring);
	return scene_setup(state);
}

static int try_register(void *map)
{
	struct iovec iov = { map, SCENE_SIZE };
	struct io_uring ring;
	int ret;

	assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
	ret = io_uring_register_buffers(&ring, &iov, 1);
	io_uring_queue_exit(&ring);
	return ret;
}

static void tmpfs_memfd_and_anonymous_memory_can_be_registered(void **state)
{
	int memfd = memfd_create("kt", MFD_CLOEXEC);
	struct held h;
	void *map;

	(void)state;
	held_open(&h, TMPFS, F_WRLCK);
	assert_int_equal(try_register(h.map), 0);
	held_is_untouched(&h);
	held_close(&h);
	assert_int_equal(ftruncate(memfd, SCENE_SIZE), 0);
	map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	assert_int_equal(try_register(map), 0);
	munmap(map, SCENE_SIZE);
	close(memfd);
	map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(try_register(map), 0);
	munmap(map, SCENE_SIZE);
}

/* Before 6.5 io_uring had a rule of its own against file mappings; since then GUP refuses dirty-tracked ones.
 */
static void page_cache_of_ext4_xfs_btrfs_cannot_be_registered(void **state)
{
	struct held h;

	(void)state;
	for (enum scene_fs which = EXT4; which <= BTRFS; which++) {
		held_open(&h, which, F_WRLCK);
		memset(h.map, 'k', SCENE_SIZE);
		assert_int_equal(try_register(h.map), kt_kernel_from(6, 5) ? -EFAULT : -EOPNOTSUPP);
		held_close(&h);
	}
}

static void a_read_only_mapping_cannot_be_registered(void **state)
{
	struct held h;

	(void)state;
	held_open(&h, TMPFS, F_RDLCK);
	assert_int_equal(try_register(h.map), -EFAULT);
	held_close(&h);
}

/* A READ_FIXED that waits on an empty pipe for data to put into a registered tmpfs page. */
struct reading {
	struct io_uring ring;
	struct held h;
	int pipe[2];
};

static void reading_start(struct reading *r)
{
	struct iovec iov;
	struct io_uring_sqe *sqe;

	held_open(&r->h, TMPFS, F_WRLCK);
	iov = (struct iovec){ r->h.map, SCENE_SIZE };
	assert_int_equal(pipe2(r->pipe, O_CLOEXEC), 0);
	assert_int_equal(io_uring_queue_init(4, &r->ring, 0), 0);
	assert_int_equal(io_uring_register_buffers(&r->ring, &iov, 1), 0);
	sqe = io_uring_get_sqe(&r->ring);
	io_uring_prep_read_fixed(sqe, r->pipe[0], r->h.map, 4096, 0, 0);
	sqe->user_data = 1;
	assert_int_equal(io_uring_submit(&r->ring), 1);
	kt_sleep_ms(SCENE_MS);
	assert_int_equal(io_uring_cq_ready(&r->ring), 0);
}

static void reading_end(struct reading *r)
{
	io_uring_queue_exit(&r->ring);
	held_close(&r->h);
	close(r->pipe[0]);
	close(r->pipe[1]);
}

#define NEVER_MS 200 /* what has not come by then does not come */

/* Data comes now: does it still reach the page? The completion, if there is one, comes within ms. */
static bool data_lands(struct reading *r, unsigned int ms)
{
	struct __kernel_timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long long)(ms % 1000) * 1000000 };
	struct io_uring_cqe *cqe;

	assert_int_equal(write(r->pipe[1], "landed", 6), 6);
	if (!io_uring_wait_cqe_timeout(&r->ring, &cqe, &ts))
		io_uring_cqe_seen(&r->ring, cqe);
	return !memcmp(r->h.map, "landed", 6);
}

static void without_a_fence_the_read_lands(void **state)
{
	struct reading r;

	(void)state;
	reading_start(&r);
	assert_true(data_lands(&r, SCENE_LONG));
	reading_end(&r);
}

struct unregistering {
	struct io_uring *ring;
	int ret;
	uint64_t ns;
};

static void *unregister(void *arg)
{
	struct unregistering *u = arg;
	uint64_t began = kt_now();

	u->ret = io_uring_unregister_buffers(u->ring);
	u->ns = kt_now() - began;
	return NULL;
}

/*
 * Up to 6.12 it waits for the requests that use the buffers, for ever if need be; later
 * it returns at once and they go on. Either way it does not end them.
 */
static void unregister_is_not_a_fence(void **state)
{
	bool waits = !kt_kernel_from(6, 13);
	int joined = EBUSY;
	struct unregistering u;
	struct reading r;
	pthread_t thread;

	(void)state;
	reading_start(&r);
	u.ring = &r.ring;
	assert_int_equal(pthread_create(&thread, NULL, unregister, &u), 0);
	for (int ms = 0; ms < (waits ? NEVER_MS : SCENE_LONG) && joined == EBUSY; ms++) {
		kt_sleep_ms(1);
		joined = pthread_tryjoin_np(thread, NULL);
	}
	assert_int_equal(joined, waits ? EBUSY : 0);
	assert_true(data_lands(&r, SCENE_LONG));
	if (waits)
		assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(u.ret, 0);
	print_message("unregister took %.1f us with a read pending\n", (double)u.ns / 1e3);
	reading_end(&r);
}

static void cancel_reap_unregister_is_a_fence(void **state)
{
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct reading r;

	(void)state;
	reading_start(&r);
	sqe = io_uring_get_sqe(&r.ring);
	io_uring_prep_cancel64(sqe, 1, 0);
	sqe->user_data = 2;
	assert_int_equal(io_uring_submit(&r.ring), 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(io_uring_wait_cqe(&r.ring, &cqe), 0);
		assert_int_equal(cqe->res, cqe->user_data == 1 ? -ECANCELED : 0);
		io_uring_cqe_seen(&r.ring, cqe);
	}
	assert_int_equal(io_uring_unregister_buffers(&r.ring), 0);
	assert_false(data_lands(&r, NEVER_MS));
	reading_end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tmpfs_memfd_and_anonymous_memory_can_be_registered),
		cmocka_unit_test(page_cache_of_ext4_xfs_btrfs_cannot_be_registered),
		cmocka_unit_test(a_read_only_mapping_cannot_be_registered),
		cmocka_unit_test(without_a_fence_the_read_lands),
		cmocka_unit_test(unregister_is_not_a_fence),
		cmocka_unit_test(cancel_reap_unregister_is_a_fence),
	};

	kt_init();
	return cmocka_run_group_tests(tests, uring_setup, NULL);
}
