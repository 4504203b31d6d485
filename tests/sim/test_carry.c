/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The carrier over a socket: an owner with a simulated kernel, peers of the same process, and real sockets
 * between them, whose calls give as little as they may: one byte, or EINTR.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <pinlease/carry.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "line.h"

#define LATE_MS (LINE_PATIENCE_MS / 4 + 1)

static bool stingy;		/* one byte at a time, and an EINTR before each */
static unsigned int interrupted;

ssize_t __real_send(int fd, const void *buf, size_t len, int flags);
ssize_t __real_recv(int fd, void *buf, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags);

static bool interrupt(void)
{
	errno = EINTR;
	return stingy && interrupted++ % 2;
}

ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags)
{
	return interrupt() ? -1 : __real_send(fd, buf, stingy ? 1 : len, flags);
}

ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags)
{
	return interrupt() ? -1 : __real_recv(fd, buf, stingy ? 1 : len, flags);
}

/* The carriers' clock goes on by what is slept here alone: the machine may stand still for longer. */
static long long clock_ms = 1000;

int __wrap_clock_gettime(clockid_t id, struct timespec *ts);

int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	(void)id;
	*ts = (struct timespec){ .tv_sec = clock_ms / 1000, .tv_nsec = (long)(clock_ms % 1000) * 1000000 };
	return 0;
}

static void sleep_ms(long ms)
{
	clock_ms += ms;
}

static void test_break_over_a_socket(struct world *w)
{
	static const char hello[] = "hello";
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_grant(&l, lease);
	line_break(w, &l, lease);
	stingy = true;
	line_break(w, &l, lease);
	assert_int_equal(pinlease_carry_send(l.remote, hello, sizeof(hello)), 0);
	assert_int_equal(line_hear(&l, l.owner), sizeof(hello));
	stingy = false;
	assert_true(interrupted > 400);
	assert_int_equal(l.kind, PINLEASE_CARRY_MESSAGE);
	assert_string_equal(l.buf, hello);
	assert_int_equal(pinlease_carry_events(l.owner), POLLIN);
	assert_int_equal(pinlease_carry_timeout(l.owner), -1);
	line_free(&l);
	world_close(w);
}

/* What was said last counts, then the end of it. */
static void test_peer_that_dies(struct world *w)
{
	struct pinlease *lease;
	struct sim_opener *o;
	struct line l, other;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_new(&other);
	line_grant(&l, lease);
	line_grant(&other, lease);
	o = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(pinlease_carry_tell(other.owner), 0);
	shutdown(l.fd[1], SHUT_RDWR);
	assert_int_equal(line_hear(&other, other.remote), 0);
	shutdown(other.fd[1], SHUT_RDWR);
	assert_int_equal(line_hear(&other, other.owner), -ECONNRESET);
	sim_sleep(10 * SIM_MS);
	assert_false(sim_opener_done(o));
	assert_int_equal(line_hear(&l, l.owner), -ECONNRESET);
	world_opener_in(o, 11 * SIM_MS);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 0);
	assert_int_equal(pinlease_carry_tell(l.owner), -ECONNRESET);
	assert_int_equal(pinlease_carry_send(l.owner, "x", 1), -ECONNRESET);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	/* A later break costs it nothing. */
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	line_free(&l);
	line_free(&other);
	world_close(w);
}

/* Asked for while a break is being answered: sent when it is over. */
static void test_descriptor_waits_for_the_lease(struct world *w)
{
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	world_reach(lease, PINLEASE_REVOKED);
	line_new(&l);
	assert_int_equal(pinlease_grant_new(lease, NULL, &l.grant), 0);
	assert_int_equal(pinlease_carry_add_grant(l.owner, l.grant), 0);
	assert_int_equal(line_hear(&l, l.remote), 0);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(line_hear(&l, l.remote), 64);
	assert_int_equal(pinlease_carry_del_grant(l.owner, l.grant), 0);
	assert_int_equal(pinlease_carry_del_grant(l.owner, l.grant), -ENOENT);
	line_free(&l);
	world_close(w);
}

/* A flushed write proves nothing: the peer's own carrier says so, and ends. */
static void test_peer_that_can_promise_nothing(struct world *w)
{
	struct pinlease_peer_key key;
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_grant(&l, lease);
	assert_int_equal(line_begin(&l, &key), 0);
	assert_int_equal(pinlease_peer_end(l.peer, key.gen, 0), 0);
	sim_opener_end(sim_open(w->path, O_RDWR));
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(line_hear(&l, l.remote), -EIO);
	assert_int_equal(pinlease_carry_tell(l.remote), -EIO);
	line_free(&l);
	world_close(w);
}

/* What is overdue is noticed by this call, and ends the carrier when the rest of its time is over. */
static void wait_for_late(struct line *l)
{
	int ms;

	assert_int_equal(line_hear(l, l->owner), 0);
	ms = pinlease_carry_timeout(l->owner);
	assert_in_range(ms, 0, LATE_MS);
	sleep_ms(ms);
}

/* What a hostile peer sends, and what the owner's carrier makes of it. */
static void bytes_end_it(struct world *w, const void *bytes, size_t len, bool closes, int expected)
{
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_grant(&l, lease);
	assert_int_equal(world_info(lease).in_flight, 1);
	assert_int_equal(write(l.fd[1], bytes, len), len);
	if (closes)
		shutdown(l.fd[1], SHUT_WR);
	if (expected == -ETIMEDOUT) {
		assert_int_equal(line_hear(&l, l.owner), 0);
		assert_in_range(pinlease_carry_timeout(l.owner), 1, LINE_PATIENCE_MS + 1);
		/* Another byte of it now and then does not help. */
		sleep_ms(LINE_PATIENCE_MS / 2);
		assert_int_equal(write(l.fd[1], "x", 1), 1);
		assert_int_equal(line_hear(&l, l.owner), 0);
		sleep_ms(LINE_PATIENCE_MS);
		assert_int_equal(pinlease_carry_timeout(l.owner), 0);
		wait_for_late(&l);
	}
	assert_int_equal(line_hear(&l, l.owner), expected);
	assert_int_equal(world_info(lease).in_flight, 0);
	line_free(&l);
	world_close(w);
}

static void test_hostile_frames(struct world *w)
{
	static const struct {
		const char *bytes;
		size_t len;
		bool closes;
		int expected;
	} frame[] = {
		{ "GET / HTTP/1.1\r\n", 16, false, -EPROTO },
		{ "PLCY\3\0\0\0", 8, false, -EPROTO },		/* empty */
		{ "PLCY\3\0\1\4", 8, false, -EPROTO },		/* 1025 bytes */
		{ "PLCY\0\0\1\0x", 9, false, -EPROTO },		/* no such kind */
		{ "PLCY\4\0\1\0x", 9, false, -EPROTO },
		{ "PLCY\1\1\1\0x", 9, false, -EPROTO },		/* reserved */
		{ "PLCY\1\0\2\0x", 9, true, -ECONNRESET },	/* cut off */
		{ "PLC", 3, true, -ECONNRESET },
		{ "PL", 2, false, -ETIMEDOUT },			/* never goes on */
		{ "PLCY\1\0\5\0x", 9, false, -ETIMEDOUT },
	};
	size_t i;

	for (i = 0; i < sizeof(frame) / sizeof(frame[0]); i++)
		bytes_end_it(w, frame[i].bytes, frame[i].len, frame[i].closes, frame[i].expected);
}

/* Frames whose message is nobody's change nothing, and many of them keep nobody. */
static void test_flood(struct world *w)
{
	static const char nobodys[] = "PLCY\3\0\4\0PNLS";
	struct pinlease *lease;
	struct line l;
	unsigned int i;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_grant(&l, lease);
	for (i = 0; i < 100; i++)
		assert_int_equal(write(l.fd[1], nobodys, sizeof(nobodys) - 1), sizeof(nobodys) - 1);
	assert_int_equal(line_hear(&l, l.owner), 0);
	assert_int_equal(pinlease_carry_timeout(l.owner), 0);
	assert_int_equal(line_hear(&l, l.owner), 0);
	assert_int_equal(pinlease_carry_timeout(l.owner), -1);
	assert_int_equal(world_info(lease).in_flight, 1);
	line_break(w, &l, lease);
	line_free(&l);
	world_close(w);
}

/* One that takes nothing: the queue is bounded, and so is the time. */
static void test_peer_that_reads_nothing(struct world *w)
{
	unsigned char big[PINLEASE_CARRY_MAX] = { 1 };
	struct pinlease *lease;
	struct line l;
	int r, size = 4096;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_grant(&l, lease);
	assert_int_equal(setsockopt(l.fd[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	while (!(r = pinlease_carry_send(l.owner, big, sizeof(big))))
		;
	assert_int_equal(r, -ENOBUFS);
	assert_int_equal(pinlease_carry_events(l.owner), POLLIN | POLLOUT);
	/* There is room for a RECALL still. */
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(world_info(lease).in_flight, 1);
	sleep_ms(LINE_PATIENCE_MS + 20);
	wait_for_late(&l);
	assert_int_equal(pinlease_carry_tell(l.owner), -ETIMEDOUT);
	assert_int_equal(world_info(lease).in_flight, 0);
	line_free(&l);
	world_close(w);
}

/* Stopped for longer than a message may take: the rest of it came meanwhile, and is not too late. */
static void test_stopped_in_a_message(struct world *w)
{
	static const char hello[] = "PLCY\1\0\5\0hello";
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &line_manual);
	line_new(&l);
	line_grant(&l, lease);
	assert_int_equal(write(l.fd[1], hello, 9), 9);
	assert_int_equal(line_hear(&l, l.owner), 0);
	assert_int_equal(write(l.fd[1], hello + 9, sizeof(hello) - 10), sizeof(hello) - 10);
	sleep_ms(2 * LINE_PATIENCE_MS);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(line_hear(&l, l.owner), 5);
	assert_int_equal(pinlease_carry_timeout(l.owner), -1);
	assert_int_equal(world_info(lease).in_flight, 1);
	/* The next one that is late has all of its time. */
	assert_int_equal(write(l.fd[1], hello, 9), 9);
	assert_int_equal(line_hear(&l, l.owner), 0);
	assert_in_range(pinlease_carry_timeout(l.owner), LATE_MS + 1, LINE_PATIENCE_MS + 1);
	line_free(&l);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_break_over_a_socket),
		world_test(test_peer_that_dies),
		world_test(test_descriptor_waits_for_the_lease),
		world_test(test_peer_that_can_promise_nothing),
		world_test(test_hostile_frames),
		world_test(test_flood),
		world_test(test_peer_that_reads_nothing),
		world_test(test_stopped_in_a_message),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
