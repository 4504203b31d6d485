/* SPDX-License-Identifier: BSD-3-Clause */
/* Breaks that meet requests which do not end by themselves. */
#include "ut.h"

#include "slowdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHORT_MS 300u	/* a deadline that is to pass */
#define LONG_MS	 1200u	/* longer than one unpin waits */
#define NEVER_MS 60000u /* one that is not */
#define BREAK_TIME 6u	 /* s, where the kernel's patience is what matters */
#define PENDING	 4u

static struct ut u;
static struct kt_fs fs;
static char path[KT_PATH_MAX];
static struct pinlease_file *file;
static struct pinlease *lease;
static struct kt_call *opener;
static int ends[2];

static void start(uint32_t deadline_ms)
{
	ut_start(&u, 32, 4);
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, PINLEASE_L_MANUAL, deadline_ms);
	assert_int_equal(ut_view(lease).mode, PINLEASE_MODE_PINNED);
}

static int teardown(void **state)
{
	(void)state;
	kt_call_end(opener);
	opener = NULL;
	for (int i = 0; i < 2; i++)
		if (ends[i] > 0)
			close(ends[i]);
	ends[0] = ends[1] = 0;
	pinlease_uring_cancel(u.ring, lease);
	ut_drop(lease, file);
	ut_stop(&u);
	return 0;
}

/* Reads that wait for somebody to write to ends[1]: they are in flight when this returns. */
static void wait_for_data(void)
{
	for (uint32_t i = 0; i < PENDING; i++)
		assert_int_equal(pinlease_uring_read(u.ring, lease, i * UT_BLOCK, UT_BLOCK, ends[0], 0, i),
				 0);
	kt_sleep_ms(20);
	assert_int_equal(ut_ring_info(&u).in_flight, PENDING);
	assert_int_equal(ut_ring_info(&u).kept, 0);
	assert_int_equal(ut_info(lease).in_flight, PENDING);
}

static void expect_opener(void)
{
	assert_true(kt_call_done(opener, UT_LONG));
	assert_true(opener->ret >= 0);
}

/* What is offered to the cancelled reads now stays where it is. */
static void expect_nothing_lands(void)
{
	static char data[PENDING * UT_BLOCK];
	ssize_t got, all = 0;

	memset(data, 0xab, sizeof(data));
	assert_int_equal(write(ends[1], data, sizeof(data)), sizeof(data));
	kt_sleep_ms(50);
	for (uint32_t i = 0; i < PENDING; i++)
		assert_int_equal(ut_stamp_at(path, i), 0);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	while ((got = read(ends[0], data, sizeof(data))) > 0)
		all += got;
	assert_int_equal(all, sizeof(data));
}

static void pending_is_cut_off(void)
{
	struct pinlease_event ev;
	uint32_t gen;

	start(SHORT_MS);
	wait_for_data();
	gen = ut_view(lease).gen;
	opener = kt_open(path, O_RDWR);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 1, ends[0], 0, 9), -EAGAIN);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, PENDING);
	assert_int_equal(ev.gen, gen);
	expect_opener();
	assert_true(kt_call_ns(opener) >= SHORT_MS * 1000000ull);
	for (uint32_t i = 0; i < PENDING; i++) {
		struct pinlease_uring_completion done = ut_take(&u);

		assert_int_equal(done.res, -ECANCELED);
		assert_int_equal(done.gen, gen);
	}
	expect_nothing_lands();
	assert_int_equal(ut_info(lease).late, 0);
}

static void pending_on_a_pipe(void **state)
{
	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pending_is_cut_off();
}

static void pending_on_a_socket(void **state)
{
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	pending_is_cut_off();
}

/* An application that cancels when it is told has nothing cut off, and its opener need not wait. */
static void cancelled_at_break(void **state)
{
	struct pinlease_event ev;

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	start(NEVER_MS);
	wait_for_data();
	opener = kt_truncate(path, UT_LEN / 2);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_int_equal(kt_call_done(opener, 50), 0);
	assert_int_equal(pinlease_uring_cancel(u.ring, lease), PENDING);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, 0);
	expect_opener();
	expect_nothing_lands();
}

/* Requests that end are in the account no longer, though nobody takes their completions. */
static void drains_without_the_application(void **state)
{
	static char data[PENDING * UT_BLOCK];
	struct pinlease_event ev;

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	start(NEVER_MS);
	wait_for_data();
	opener = kt_open(path, O_RDONLY);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_int_equal(kt_call_done(opener, 50), 0);
	memset(data, 1, sizeof(data));
	assert_int_equal(write(ends[1], data, sizeof(data)), sizeof(data));
	expect_opener();
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, 0);
	assert_int_equal(ut_ring_info(&u).kept, PENDING);
	/* What was moved before the file was let go is there: I4. */
	for (uint32_t i = 0; i < PENDING; i++)
		assert_int_equal(ut_stamp_at(path, i), 0x0101010101010101);
}

/* Leases of other files in the same ring are not touched. */
static void others_go_on(void **state)
{
	char other_path[KT_PATH_MAX];
	struct pinlease_file *other_file;
	struct pinlease *other;
	struct pinlease_event ev;
	int more[2];

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(pipe2(more, O_CLOEXEC), 0);
	start(SHORT_MS);
	ut_file(other_path, fs.dir, "other", UT_BLOCKS);
	other_file = ut_open(&u, other_path, PINLEASE_WRITE, 0);
	other = ut_lease(&u, other_file, UT_LEN, 0, NEVER_MS);
	assert_int_equal(pinlease_uring_read(u.ring, other, 0, 5, more[0], 0, 100), 0);
	for (uint32_t i = 0; i < PENDING; i++)
		assert_int_equal(pinlease_uring_read(u.ring, lease, 0, 1, ends[0], 0, i), 0);
	opener = kt_truncate(path, 0);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_ptr_equal(ev.lease, lease);
	assert_int_equal(ev.in_flight, PENDING);
	expect_opener();
	for (uint32_t i = 0; i < PENDING; i++)
		assert_int_equal(ut_take(&u).res, -ECANCELED);
	assert_int_equal(ut_info(other).state, PINLEASE_ACTIVE);
	assert_int_equal(ut_info(other).in_flight, 1);
	assert_int_equal(write(more[1], "hello", 5), 5);
	assert_int_equal(ut_take(&u).user_data, 100);
	assert_memory_equal(ut_view(other).addr, "hello", 5);
	ut_drop(other, other_file);
	close(more[0]);
	close(more[1]);
}

/*
 * The application begins DMA of its own and never ends it: the library lets go before
 * the kernel would (F_UNLCK answers 0, so REVOKED and not LOST), says how many it cut
 * off, and the ends that come long after pay into their own generation.
 */
static void never_ended(void **state)
{
	struct pinlease_event ev;
	uint32_t gen, next;

	(void)state;
	assert_int_equal(kt_break_time(BREAK_TIME), 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	start(NEVER_MS);
	wait_for_data();
	assert_int_equal(pinlease_dma_begin(lease, 3, &gen), 0);
	opener = kt_open(path, O_RDWR);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, PENDING + 3);
	expect_opener();
	assert_int_equal(ut_info(lease).state, PINLEASE_REVOKED);
	expect_nothing_lands();
	kt_call_end(opener);
	opener = NULL;
	ut_restore(lease);
	assert_int_equal(pinlease_dma_begin(lease, 2, &next), 0);
	assert_int_equal(next, gen + 1);
	assert_int_equal(ut_info(lease).in_flight, 2);
	assert_int_equal(ut_info(lease).late, 3);
	pinlease_dma_end(lease, 3, gen);
	assert_int_equal(ut_info(lease).in_flight, 2);
	assert_int_equal(ut_info(lease).late, 0);
	pinlease_dma_end(lease, 2, next);
	assert_int_equal(ut_info(lease).in_flight, 0);
	assert_int_equal(kt_truncate_now(path, UT_LEN, UT_LONG), 0);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, 0);
	assert_int_equal(ev.gen, next);
}

static struct slow_disk disk;

/* A read of the slow disk that is under way when this returns, and is held; nobody can cancel it. */
static int read_slowly(void)
{
	uint32_t arrived = atomic_load(&disk.shared->arrived);
	int fd = open(disk.device, O_RDONLY | O_DIRECT | O_CLOEXEC);

	assert_true(fd >= 0);
	atomic_store(&disk.shared->hold, true);
	assert_int_equal(pinlease_uring_read(u.ring, lease, 0, UT_BLOCK, fd, 0, 7), 0);
	for (unsigned int i = 0; i < UT_LONG && atomic_load(&disk.shared->arrived) == arrived; i++)
		kt_sleep_ms(1);
	assert_true(atomic_load(&disk.shared->arrived) > arrived);
	return fd;
}

/* The guard is kept until the disk has answered, though the deadline is
 * long over: what lands, lands before. */
static void slow_disk_is_waited_for(void **state)
{
	const uint64_t stamp = 0x0101010101010101u * SLOW_DISK_BYTE;
	struct pinlease_event ev;
	int fd;

	(void)state;
	start(SHORT_MS);
	fd = read_slowly();
	opener = kt_open(path, O_RDWR);
	assert_non_null(opener);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, UT_LONG, &ev));
	assert_int_equal(kt_call_blocked(opener, SHORT_MS + LONG_MS), 1);
	atomic_store(&disk.shared->hold, false);
	assert_true(kt_call_done(opener, UT_LONG));
	assert_int_equal(atomic_load(&disk.shared->answered), atomic_load(&disk.shared->arrived));
	assert_int_equal(ut_stamp_at(path, 0), (int64_t)stamp);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, 1);
	assert_int_equal(ut_take(&u).res, UT_BLOCK);
	close(fd);
}

/* Past lease-break-time nothing holds the opener, and the application is told that it went on first. */
static void slow_disk_past_the_break_time(void **state)
{
	struct pinlease_event ev;
	int fd;

	(void)state;
	assert_int_equal(kt_break_time(1), 0);
	start(SHORT_MS);
	fd = read_slowly();
	opener = kt_open(path, O_RDWR);
	assert_non_null(opener);
	assert_true(kt_call_done(opener, UT_LONG));
	atomic_store(&disk.shared->hold, false);
	assert_true(ut_event(&u, PINLEASE_EV_LOST, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, 1);
	assert_int_equal(ut_info(lease).state, PINLEASE_LOST);
	assert_int_equal(ut_take(&u).res, UT_BLOCK);
	kt_call_end(opener);
	opener = NULL;
	ut_restore(lease);
	assert_int_equal(ut_info(lease).state, PINLEASE_ACTIVE);
	close(fd);
}

#define FENCE_TEST(f) cmocka_unit_test_teardown(f, teardown)

static int start_disk(void)
{
	int ret = slow_disk_make(&disk);

	if (ret == -ENOENT)
		kt_skip("no FUSE here, so no slow disk");
	return ret;
}

/* With the argument "disk": the tests of requests that nobody can cancel. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FENCE_TEST(pending_on_a_pipe),	FENCE_TEST(pending_on_a_socket),
		FENCE_TEST(cancelled_at_break), FENCE_TEST(drains_without_the_application),
		FENCE_TEST(others_go_on),	FENCE_TEST(never_ended),
	};
	const struct CMUnitTest by_disk[] = {
		FENCE_TEST(slow_disk_is_waited_for),
		FENCE_TEST(slow_disk_past_the_break_time),
	};
	bool with_disk = argc > 1 && !strcmp(argv[1], "disk");
	int ret;

	ut_begin();
	if (kt_fs_make(&fs, "tmpfs", 16) || (with_disk && start_disk()))
		return 1;
	if (!with_disk)
		return cmocka_run_group_tests(tests, NULL, NULL);
	ret = cmocka_run_group_tests(by_disk, NULL, NULL);
	slow_disk_drop(&disk);
	return ret;
}
