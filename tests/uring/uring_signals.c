/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application with handlers, masks, a signalfd and leases of its own, while the library
 * answers breaks in the same process: every signal of the application's reaches the
 * application, and nothing of how it wants them is changed.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "rounds.h"

#define QUEUED	 1000		/* real-time signals of each of two kinds: these are counted, not merged */
#define TO_HANDLER (SIGRTMIN + 1)
#define TO_FD	 (SIGRTMIN + 3)
#define SOON	 UT_LONG
#define SIGNALS	 65

static struct kt_fs fs;
static _Atomic uint32_t queued, sigios, usr1;
static _Atomic int out_of_order;

static void on_queued(int signo, siginfo_t *info, void *context)
{
	(void)signo;
	(void)context;
	if ((uint32_t)info->si_value.sival_int != atomic_fetch_add(&queued, 1))
		atomic_store(&out_of_order, 1);
}

static void on_sigio(int signo)
{
	(void)signo;
	atomic_fetch_add(&sigios, 1);
}

static void on_usr1(int signo)
{
	(void)signo;
	atomic_fetch_add(&usr1, 1);
}

/* What the process has said about each of its signals. */
struct wishes {
	void (*handler[SIGNALS])(int);
	int flags[SIGNALS];
	sigset_t mask;
};

static void wishes_read(struct wishes *w)
{
	struct sigaction sa;

	memset(w, 0, sizeof(*w));
	for (int i = 1; i < SIGNALS; i++) {
		if (sigaction(i, NULL, &sa))
			continue;
		w->handler[i] = sa.sa_handler;
		w->flags[i] = sa.sa_flags;
	}
	assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &w->mask), 0);
}

static void wishes_same(const struct wishes *a, const struct wishes *b)
{
	for (int i = 1; i < SIGNALS; i++) {
		assert_true(a->handler[i] == b->handler[i]);
		assert_int_equal(a->flags[i], b->flags[i]);
		assert_int_equal(sigismember(&a->mask, i), sigismember(&b->mask, i));
	}
}

static int signals_of_its_own(void)
{
	struct sigaction rt = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigaction io = { .sa_handler = on_sigio, .sa_flags = SA_RESTART };
	struct sigaction one = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	sigset_t fd_set;

	assert_int_equal(sigaction(TO_HANDLER, &rt, NULL), 0);
	assert_int_equal(sigaction(SIGIO, &io, NULL), 0);
	assert_int_equal(sigaction(SIGUSR1, &one, NULL), 0);
	sigemptyset(&fd_set);
	sigaddset(&fd_set, TO_FD);
	assert_int_equal(pthread_sigmask(SIG_BLOCK, &fd_set, NULL), 0);
	return signalfd(-1, &fd_set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static uint32_t from_fd(int fd)
{
	struct signalfd_siginfo info;
	uint32_t n = 0;

	while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		n += info.ssi_signo == (uint32_t)TO_FD && info.ssi_int == (int32_t)n;
	return n;
}

/* The application's own lease, of the simplest kind: plain SIGIO. */
static void own_lease_breaks(const char *path)
{
	uint32_t before = atomic_load(&sigios);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct kt_call *opener;

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
	opener = kt_truncate(path, 0);
	assert_non_null(opener);
	for (unsigned int ms = 0; ms < SOON && atomic_load(&sigios) == before; ms++)
		kt_sleep_ms(1);
	assert_int_equal(atomic_load(&sigios), before + 1);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
	assert_int_equal(kt_call_done(opener, SOON), 1);
	kt_call_end(opener);
	close(fd);
}

static void every_signal_of_the_application_reaches_it(void **state)
{
	unsigned int rounds = pl_rounds(PL_R_signal_rounds), i, k;
	struct wishes before, after;
	struct pinlease_file *file;
	struct pinlease *lease;
	char path[KT_PATH_MAX], own[KT_PATH_MAX];
	uint32_t by_fd = 0;
	struct ut u;
	int fd;

	(void)state;
	fd = signals_of_its_own();
	assert_true(fd >= 0);
	wishes_read(&before);
	ut_start(&u, 8, 2);
	ut_file(path, fs.dir, "ours", UT_BLOCKS);
	ut_file(own, fs.dir, "theirs", 1);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	for (i = 0; i < rounds; i++) {
		struct kt_call *opener = kt_truncate(path, UT_LEN);

		assert_non_null(opener);
		for (k = 0; k < QUEUED / rounds; k++) {
			union sigval value = { .sival_int = (int)(i * (QUEUED / rounds) + k) };

			assert_int_equal(sigqueue(getpid(), TO_HANDLER, value), 0);
			value.sival_int = (int)k;
			assert_int_equal(sigqueue(getpid(), TO_FD, value), 0);
		}
		assert_int_equal(kill(getpid(), SIGUSR1), 0);
		assert_int_equal(kt_call_done(opener, SOON), 1);
		kt_call_end(opener);
		by_fd += from_fd(fd);
		own_lease_breaks(own);
	}
	assert_true(ut_info(lease).breaks > 0);
	wishes_read(&after);
	wishes_same(&before, &after);
	assert_int_equal(atomic_load(&queued), rounds * (QUEUED / rounds));
	assert_int_equal(atomic_load(&out_of_order), 0);
	assert_int_equal(by_fd, rounds * (QUEUED / rounds));
	assert_int_equal(atomic_load(&usr1), rounds);
	assert_int_equal(atomic_load(&sigios), rounds);
	ut_drop(lease, file);
	ut_stop(&u);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_signal_of_the_application_reaches_it),
	};

	if (KT_TSAN)
		kt_skip("ThreadSanitizer keeps one signal of each number, and not all that are queued");
	ut_begin_on(&fs, "tmpfs", 64);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
