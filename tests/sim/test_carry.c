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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "world.h"

#define PATIENCE_MS 250
#define LATE_MS	    (PATIENCE_MS / 4 + 1)

static const struct pinlease_opts manual = { .flags = PINLEASE_L_MANUAL };
static const struct pinlease_carry_opts brief = { .size = sizeof(brief), .timeout_ms = PATIENCE_MS };

static bool stingy;		/* one byte at a time, and an EINTR before each */
static unsigned int interrupted;

static bool no_memory;		/* calloc answers NULL, in this thread */

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
	return no_memory ? NULL : __real_calloc(n, size);
}

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

struct line {
	int fd[2];			/* the owner's, the peer's */
	struct pinlease_carry *owner, *remote;
	struct pinlease_grant *grant;
	struct pinlease_peer *peer;
	unsigned char buf[PINLEASE_CARRY_MAX];
	uint32_t kind;
};

static void line_new(struct line *l)
{
	memset(l, 0, sizeof(*l));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, l->fd), 0);
	assert_int_equal(pinlease_carry_socket(l->fd[0], &brief, &l->owner), 0);
	assert_int_equal(pinlease_carry_socket(l->fd[1], NULL, &l->remote), 0);
}

static void line_free(struct line *l)
{
	assert_int_equal(pinlease_carry_free(l->owner), 0);
	assert_int_equal(pinlease_carry_free(l->remote), 0);
	assert_int_equal(pinlease_grant_free(l->grant), 0);
	assert_int_equal(pinlease_peer_detach(l->peer), 0);
	close(l->fd[0]);
	close(l->fd[1]);
}

static int hear(struct line *l, struct pinlease_carry *c)
{
	return pinlease_carry_recv(c, l->buf, sizeof(l->buf), &l->kind);
}

/* A grant of the whole lease, and the peer that it makes at the other end. */
static void line_grant(struct line *l, struct pinlease *lease)
{
	int n;

	assert_int_equal(pinlease_grant_new(lease, NULL, &l->grant), 0);
	assert_int_equal(pinlease_carry_add_grant(l->owner, l->grant), 0);
	assert_int_equal(pinlease_carry_add_grant(l->owner, l->grant), -EEXIST);
	n = hear(l, l->remote);
	assert_int_equal(n, 64);
	assert_int_equal(l->kind, PINLEASE_CARRY_DESCRIPTOR);
	assert_int_equal(pinlease_peer_attach(l->buf, (size_t)n, &l->peer), 0);
	assert_int_equal(pinlease_carry_add_peer(l->remote, l->peer), 0);
	assert_int_equal(hear(l, l->remote), 0);
}

static int begin(struct line *l, struct pinlease_peer_key *key)
{
	*key = (struct pinlease_peer_key){ .size = sizeof(*key) };
	return pinlease_peer_begin(l->peer, PINLEASE_WRITE, 0, SIM_PAGE, key);
}

static void sleep_ms(long ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000 };

	nanosleep(&ts, NULL);
}

/* A whole break, with an operation in flight when RECALL comes. */
static void break_and_restore(struct world *w, struct line *l, struct pinlease *lease)
{
	struct pinlease_peer_key key, none;
	struct sim_opener *o;

	assert_int_equal(begin(l, &key), 0);
	o = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_carry_tell(l->owner), 0);
	assert_int_equal(hear(l, l->remote), 0);
	assert_int_equal(begin(l, &none), -EAGAIN);
	assert_int_equal(hear(l, l->owner), 0);
	assert_false(sim_opener_done(o));
	assert_int_equal(pinlease_peer_end(l->peer, key.gen, 1), 1);
	assert_int_equal(pinlease_carry_tell(l->remote), 0);
	assert_int_equal(hear(l, l->owner), 0);
	world_opener_in(o, 10 * SIM_MS);
	assert_int_equal(world_event(w, PINLEASE_EV_REVOKED).in_flight, 0);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	world_event(w, PINLEASE_EV_RESTORED);
	assert_int_equal(pinlease_carry_tell(l->owner), 0);
	assert_int_equal(hear(l, l->remote), 0);
	assert_int_equal(begin(l, &key), 0);
	assert_int_equal(key.rkey, world_view(lease).rkey);
	assert_int_equal(pinlease_peer_end(l->peer, key.gen, 1), 0);
}

static void test_break_over_a_socket(struct world *w)
{
	static const char hello[] = "hello";
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	line_grant(&l, lease);
	break_and_restore(w, &l, lease);
	stingy = true;
	break_and_restore(w, &l, lease);
	assert_int_equal(pinlease_carry_send(l.remote, hello, sizeof(hello)), 0);
	assert_int_equal(hear(&l, l.owner), sizeof(hello));
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
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	line_new(&other);
	line_grant(&l, lease);
	line_grant(&other, lease);
	o = sim_open(w->path, O_RDWR);
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(pinlease_carry_tell(other.owner), 0);
	shutdown(l.fd[1], SHUT_RDWR);
	assert_int_equal(hear(&other, other.remote), 0);
	shutdown(other.fd[1], SHUT_RDWR);
	assert_int_equal(hear(&other, other.owner), -ECONNRESET);
	sim_sleep(10 * SIM_MS);
	assert_false(sim_opener_done(o));
	assert_int_equal(hear(&l, l.owner), -ECONNRESET);
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
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	world_opener_in(sim_open(w->path, O_RDWR), SIM_MS);
	world_reach(lease, PINLEASE_REVOKED);
	line_new(&l);
	assert_int_equal(pinlease_grant_new(lease, NULL, &l.grant), 0);
	assert_int_equal(pinlease_carry_add_grant(l.owner, l.grant), 0);
	assert_int_equal(hear(&l, l.remote), 0);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(hear(&l, l.remote), 64);
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
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	line_grant(&l, lease);
	assert_int_equal(begin(&l, &key), 0);
	assert_int_equal(pinlease_peer_end(l.peer, key.gen, 0), 0);
	sim_opener_end(sim_open(w->path, O_RDWR));
	world_event(w, PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(hear(&l, l.remote), -EIO);
	assert_int_equal(pinlease_carry_tell(l.remote), -EIO);
	line_free(&l);
	world_close(w);
}

/* What is overdue is noticed by this call, and ends the carrier when the rest of its time is over. */
static void wait_for_late(struct line *l)
{
	int ms;

	assert_int_equal(hear(l, l->owner), 0);
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
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	line_grant(&l, lease);
	assert_int_equal(world_info(lease).in_flight, 1);
	assert_int_equal(write(l.fd[1], bytes, len), len);
	if (closes)
		shutdown(l.fd[1], SHUT_WR);
	if (expected == -ETIMEDOUT) {
		assert_int_equal(hear(&l, l.owner), 0);
		assert_in_range(pinlease_carry_timeout(l.owner), 1, PATIENCE_MS + 1);
		/* Another byte of it now and then does not help. */
		sleep_ms(PATIENCE_MS / 2);
		assert_int_equal(write(l.fd[1], "x", 1), 1);
		assert_int_equal(hear(&l, l.owner), 0);
		sleep_ms(PATIENCE_MS);
		assert_int_equal(pinlease_carry_timeout(l.owner), 0);
		wait_for_late(&l);
	}
	assert_int_equal(hear(&l, l.owner), expected);
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
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	line_grant(&l, lease);
	for (i = 0; i < 100; i++)
		assert_int_equal(write(l.fd[1], nobodys, sizeof(nobodys) - 1), sizeof(nobodys) - 1);
	assert_int_equal(hear(&l, l.owner), 0);
	assert_int_equal(pinlease_carry_timeout(l.owner), 0);
	assert_int_equal(hear(&l, l.owner), 0);
	assert_int_equal(pinlease_carry_timeout(l.owner), -1);
	assert_int_equal(world_info(lease).in_flight, 1);
	break_and_restore(w, &l, lease);
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
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
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
	sleep_ms(PATIENCE_MS + 20);
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
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	line_grant(&l, lease);
	assert_int_equal(write(l.fd[1], hello, 9), 9);
	assert_int_equal(hear(&l, l.owner), 0);
	assert_int_equal(write(l.fd[1], hello + 9, sizeof(hello) - 10), sizeof(hello) - 10);
	sleep_ms(2 * PATIENCE_MS);
	assert_int_equal(pinlease_carry_tell(l.owner), 0);
	assert_int_equal(hear(&l, l.owner), 5);
	assert_int_equal(pinlease_carry_timeout(l.owner), -1);
	assert_int_equal(world_info(lease).in_flight, 1);
	/* The next one that is late has all of its time. */
	assert_int_equal(write(l.fd[1], hello, 9), 9);
	assert_int_equal(hear(&l, l.owner), 0);
	assert_in_range(pinlease_carry_timeout(l.owner), LATE_MS + 1, PATIENCE_MS + 1);
	line_free(&l);
	world_close(w);
}

static void test_arguments(struct world *w)
{
	struct pinlease_carry_opts o = { .size = sizeof(o) };
	struct pinlease_carry *c = NULL;
	unsigned char buf[PINLEASE_CARRY_MAX + 1] = { 0 };
	struct line l;
	int fd;

	(void)w;
	line_new(&l);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(pinlease_carry_socket(fd, NULL, &c), -EPROTOTYPE);
	close(fd);
	assert_int_equal(pinlease_carry_socket(fd, NULL, &c), -EBADF);
	assert_int_equal(pinlease_carry_socket(l.fd[0], NULL, NULL), -EINVAL);
	o.flags = 1;
	assert_int_equal(pinlease_carry_socket(l.fd[0], &o, &c), -EINVAL);
	o.size = 1;
	assert_int_equal(pinlease_carry_socket(l.fd[0], &o, &c), -EINVAL);
	assert_int_equal(pinlease_carry_verbs(NULL, NULL, &c), -EINVAL);
	assert_null(c);
	assert_null(pinlease_carry_cq(l.owner));
	assert_int_equal(pinlease_carry_start(l.owner, (struct ibv_qp *)buf), -EINVAL);
	assert_int_equal(pinlease_carry_send(l.owner, buf, sizeof(buf)), -EMSGSIZE);
	assert_int_equal(pinlease_carry_send(l.owner, buf, 0), -EINVAL);
	assert_int_equal(pinlease_carry_recv(l.owner, buf, 1023, &l.kind), -EINVAL);
	assert_int_equal(pinlease_carry_fd(l.owner), l.fd[0]);
	assert_int_equal(pinlease_carry_add_peer(l.owner, NULL), -EINVAL);
	line_free(&l);
	world_open(w, PINLEASE_READ);
	world_close(w);
}

struct longer {
	struct pinlease_carry_opts opts;
	uint64_t more;
};

/* Nothing is changed by what fails. */
static void test_out_of_memory(struct world *w)
{
	struct longer o = { .opts.size = sizeof(o), .more = 1 };
	struct pinlease_carry *c = NULL;
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	assert_int_equal(pinlease_carry_socket(l.fd[0], &o.opts, &c), -E2BIG);
	no_memory = true;
	assert_int_equal(pinlease_carry_socket(l.fd[0], NULL, &c), -ENOMEM);
	no_memory = false;
	assert_null(c);
	assert_int_equal(pinlease_grant_new(lease, NULL, &l.grant), 0);
	no_memory = true;
	assert_int_equal(pinlease_carry_add_grant(l.owner, l.grant), -ENOMEM);
	no_memory = false;
	assert_int_equal(pinlease_carry_del_grant(l.owner, l.grant), -ENOENT);
	assert_int_equal(pinlease_grant_free(l.grant), 0);
	line_grant(&l, lease);
	/* Out of the carrier the peer hears nothing, and its own calls go on. */
	assert_int_equal(pinlease_carry_del_peer(l.remote, l.peer), 0);
	assert_int_equal(pinlease_carry_del_peer(l.remote, l.peer), -ENOENT);
	line_free(&l);
	world_close(w);
}

/* What the grant was of is behind the end of the file by now. */
static void test_too_short(struct world *w)
{
	const struct pinlease_grant_opts o = { .size = sizeof(o), .off = 8 * SIM_PAGE };
	struct pinlease *lease;
	struct line l;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	assert_int_equal(pinlease_grant_new(lease, &o, &l.grant), 0);
	world_opener_in(sim_truncate(w->path, 4 * SIM_PAGE), SIM_S);
	assert_int_equal(pinlease_restore(lease, NULL), 0);
	assert_int_equal(pinlease_carry_add_grant(l.owner, l.grant), -ENODATA);
	assert_int_equal(pinlease_carry_del_grant(l.owner, l.grant), -ENOENT);
	line_free(&l);
	world_close(w);
}

/* In a child, which is no part of the simulation: 0, or the number of the call that was wrong. */
static int child_calls(struct line *l)
{
	if (pinlease_carry_add_grant(l->owner, l->grant) != -ECHILD)
		return 1;
	if (pinlease_carry_del_peer(l->remote, l->peer) != -ECHILD)
		return 2;
	if (pinlease_carry_tell(l->owner) != -ECHILD || pinlease_carry_send(l->owner, "x", 1) != -ECHILD)
		return 3;
	if (hear(l, l->remote) != -ECHILD || pinlease_carry_events(l->owner) != -ECHILD)
		return 4;
	return pinlease_carry_free(l->owner) ? 5 : 0;
}

static void test_forked_child(struct world *w)
{
	struct pinlease *lease;
	struct line l;
	int status;
	pid_t pid;

	world_open(w, PINLEASE_WRITE);
	lease = world_lease(w, 0, WORLD_SIZE, &manual);
	line_new(&l);
	line_grant(&l, lease);
	pid = fork();
	if (!pid)
		_exit(child_calls(&l));
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	break_and_restore(w, &l, lease);
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
		world_test(test_arguments),
		world_test(test_out_of_memory),
		world_test(test_too_short),
		world_test(test_forked_child),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
