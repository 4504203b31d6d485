/* SPDX-License-Identifier: BSD-3-Clause */
/* Many files broken at once with room for few signals; one file whose opener does not wait. */
#include "ut.h"

#include "rounds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SIGPENDING_ROOM 16u
#define MOST_TRIES	1000u /* of an opener, one a millisecond: counted, since a machine may stand still */

static struct kt_fs fs;

struct mass_arg {
	char dir[KT_PATH_MAX];
	uint32_t files;
	uint32_t *refused; /* shared: O_NONBLOCK opens that were answered EWOULDBLOCK */
};

static void mass_path(char path[KT_PATH_MAX], const char *dir, uint32_t i)
{
	snprintf(path, KT_PATH_MAX, "%.70s/m%u", dir, i);
}

/* Breaks every lease before it waits for any of them. */
static int open_all(const void *arg)
{
	const struct mass_arg *a = arg;
	char path[KT_PATH_MAX];
	int opened = 0, fd;

	for (uint32_t i = 0; i < a->files; i++) {
		mass_path(path, a->dir, i);
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		*a->refused += fd < 0 && errno == EWOULDBLOCK;
		if (fd >= 0)
			close(fd);
	}
	for (uint32_t i = 0; i < a->files; i++) {
		mass_path(path, a->dir, i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		close(fd);
		opened++;
	}
	return opened;
}

static void allow_fds(rlim_t count)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_cur >= count)
		return;
	limit.rlim_cur = count;
	if (limit.rlim_max < count)
		limit.rlim_max = count;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		kt_skip("cannot have %llu fds", (unsigned long long)count);
}

struct mass {
	struct ut u;
	uint32_t files;
	struct pinlease_file **file;
	struct pinlease **lease;
};

/* With a signal queue that is shorter than the breaks, so that most signals are dropped. */
static void mass_start(struct mass *m, uint32_t files)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .flags = PINLEASE_L_MANUAL,
				      .backend = pinlease_uring_backend() };
	struct rlimit few = { SIGPENDING_ROOM, SIGPENDING_ROOM };
	char path[KT_PATH_MAX];

	m->files = files;
	m->file = calloc(files, sizeof(struct pinlease_file *));
	m->lease = calloc(files, sizeof(struct pinlease *));
	assert_true(m->file && m->lease);
	allow_fds(3 * files + 100);
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &few), 0);
	ut_start(&m->u, 32, files);
	opts.backend_arg = m->u.ring;
	for (uint32_t i = 0; i < files; i++) {
		mass_path(path, fs.dir, i);
		ut_file(path, fs.dir, strrchr(path, '/') + 1, 1);
		m->file[i] = ut_open(&m->u, path, PINLEASE_WRITE, 0);
		opts.user = &m->file[i];
		assert_int_equal(pinlease_acquire(m->file[i], 0, UT_BLOCK, &opts, NULL, &m->lease[i]), 0);
	}
	assert_int_equal(ut_ring_info(&m->u).registered, files);
}

static void mass_stop(struct mass *m)
{
	for (uint32_t i = 0; i < m->files; i++)
		ut_drop(m->lease[i], m->file[i]);
	ut_stop(&m->u);
	free(m->file);
	free(m->lease);
}

static uint32_t mass_revoked(struct mass *m)
{
	uint32_t i = 0;

	while (i < m->files && ut_info(m->lease[i]).state == PINLEASE_REVOKED)
		i++;
	return i;
}

/* Counts the events of each lease, by kind. */
static void mass_events(struct mass *m, uint8_t (*seen)[8])
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(m->u.ctx, &ev) == 1) {
		ptrdiff_t i = (struct pinlease_file **)ev.user - m->file;

		assert_true(i >= 0 && i < (ptrdiff_t)m->files && ev.type < 8);
		assert_ptr_equal(ev.lease, m->lease[i]);
		seen[i][ev.type]++;
		ev = (struct pinlease_event){ .size = sizeof(ev) };
	}
}

static void all_answered_none_twice(void **state)
{
	uint32_t files = pl_rounds(PL_R_mass_files);
	uint8_t(*seen)[8] = calloc(files, sizeof(*seen));
	struct mass_arg arg = { .files = files, .refused = kt_shared(sizeof(uint32_t)) };
	struct kt_call *call;
	struct mass m;

	(void)state;
	assert_non_null(seen);
	mass_start(&m, files);
	memcpy(arg.dir, fs.dir, sizeof(arg.dir));
	call = kt_call_start(open_all, &arg, sizeof(arg));
	assert_non_null(call);
	assert_int_equal(kt_call_done(call, 2 * UT_LONG), 1);
	assert_int_equal(call->ret, files);
	printf("%u files, room for %u signals: %u opens refused at first, all opened after %.0f ms\n", files,
	       SIGPENDING_ROOM, *arg.refused, (double)kt_call_ns(call) / 1e6);
	assert_true(*arg.refused > files / 2);
	kt_call_end(call);
	/* The last opener is let on a little before its lease is REVOKED and that is said. */
	for (uint32_t ms = 0; ms < UT_LONG && mass_revoked(&m) < files; ms++)
		kt_sleep_ms(1);
	kt_sleep_ms(20);
	mass_events(&m, seen);
	for (uint32_t i = 0; i < files; i++) {
		assert_int_equal(ut_info(m.lease[i]).state, PINLEASE_REVOKED);
		assert_int_equal(ut_info(m.lease[i]).breaks, 1);
		assert_int_equal(seen[i][PINLEASE_EV_BREAK], 1);
		assert_int_equal(seen[i][PINLEASE_EV_REVOKED], 1);
		assert_int_equal(seen[i][PINLEASE_EV_LOST], 0);
	}
	assert_int_equal(ut_ring_info(&m.u).registered, 0);
	mass_stop(&m);
	free(seen);
}

struct retry_arg {
	char path[KT_PATH_MAX];
	uint32_t *tries; /* shared */
};

/* An opener that never waits and comes again every millisecond: its tries must not keep the lease from it. */
static int retry(const void *arg)
{
	const struct retry_arg *a = arg;
	int fd;

	for (*a->tries = 1; *a->tries < 30000; ++*a->tries) {
		fd = open(a->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		if (errno != EWOULDBLOCK)
			return -errno;
		kt_sleep_ms(1);
	}
	return -ETIME;
}

static void retrying_opener_gets_in(void **state)
{
	struct retry_arg arg = { .tries = kt_shared(sizeof(uint32_t)) };
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_event ev;
	struct ut_pump pump;
	struct kt_call *call;
	uint64_t slowest = 0;
	struct ut u;

	(void)state;
	ut_start(&u, 32, 4);
	ut_file(arg.path, fs.dir, "retry", UT_BLOCKS);
	file = ut_open(&u, arg.path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	ut_pump_start(&pump, &u, lease, UT_BLOCKS);
	for (uint32_t i = 0; i < 6; i++) {
		ut_pump_more(&pump, 20);
		call = kt_call_start(retry, &arg, sizeof(arg));
		assert_non_null(call);
		assert_int_equal(kt_call_done(call, 2 * UT_LONG), 1);
		assert_true(call->ret >= 0);
		assert_in_range(*arg.tries, 2, MOST_TRIES);
		slowest = kt_call_ns(call) > slowest ? kt_call_ns(call) : slowest;
		kt_call_end(call);
		assert_true(ut_event(&u, PINLEASE_EV_RESTORED, UT_LONG, &ev));
	}
	printf("retrying opener: in after %.1f ms at most, of 6\n", (double)slowest / 1e6);
	ut_pump_stop(&pump);
	ut_drop(lease, file);
	ut_stop(&u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(retrying_opener_gets_in),
		cmocka_unit_test(all_answered_none_twice),
	};

	ut_begin_on(&fs, "tmpfs", 64);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
