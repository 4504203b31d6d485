/* SPDX-License-Identifier: BSD-3-Clause */
/* How the news of a break travels: which thread, which fd, what survives, what is lost. */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

static void end_break(struct held *h, struct kt_call *call)
{
	assert_int_equal(kt_lease_drop(h->fd), 0);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	kt_call_end(call);
}

static void f_unlck_wipes_the_signal_and_the_owner(void **state)
{
	struct f_owner_ex owner = { 0 };
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		assert_int_equal(fcntl(h.fd, F_GETSIG), SCENE_SIG);
		assert_int_equal(fcntl(h.fd, F_GETOWN_EX, &owner), 0);
		assert_true(owner.type == F_OWNER_TID && owner.pid == gettid());
		assert_int_equal(kt_lease_drop(h.fd), 0);
		assert_int_equal(fcntl(h.fd, F_GETSIG), 0);
		assert_int_equal(fcntl(h.fd, F_GETOWN_EX, &owner), 0);
		assert_int_equal(owner.pid, 0);
		held_close(&h);
	}
}

/* Arm fully, unlock, take the lease again with nothing else: what libpinlease must not do. */
static int rearm_carelessly(const void *arg)
{
	int fd = open(arg, O_RDWR | O_CLOEXEC);

	if (fd < 0 || kt_lease_take(fd, F_WRLCK, SCENE_SIG) || kt_lease_drop(fd))
		return -EIO;
	return fcntl(fd, F_SETLEASE, F_WRLCK) ? -errno : fd;
}

static void a_lease_taken_again_without_its_signal_kills_the_process(void **state)
{
	char path[KT_PATH_MAX];
	struct kt_call *holder;

	(void)state;
	scene_file(EXT4, path);
	holder = kt_call_start(rearm_carelessly, path, sizeof(path));
	assert_non_null(holder);
	assert_int_equal(kt_call_done(holder, SCENE_LONG), 1);
	assert_true(holder->ret >= 0);
	assert_int_equal(kt_open_now(path, O_RDWR | O_NONBLOCK, SCENE_LONG), -EWOULDBLOCK);
	assert_int_equal(kt_call_exited(holder, SCENE_LONG), 1);
	assert_true(WIFSIGNALED(holder->status));
	assert_int_equal(WTERMSIG(holder->status), SIGIO);
	kt_call_end(holder);
}

/* A thread that takes the lease for itself and then does as it is told. */
struct taker {
	struct held *h;
	int pipe[2]; /* it goes on, or ends, when this is closed */
	int got;
	bool leave;
};

static void *taker_main(void *arg)
{
	struct taker *t = arg;
	char byte;

	t->got = -1;
	assert_int_equal(kt_lease_take(t->h->fd, F_WRLCK, SCENE_SIG), 0);
	if (write(t->pipe[1], "t", 1) != 1 || t->leave)
		return NULL;
	t->got = kt_sig_wait(SCENE_SIG, SCENE_LONG, NULL);
	return read(t->pipe[0], &byte, 1) == 1 ? t : NULL;
}

static pthread_t taker_start(struct taker *t, struct held *h, enum scene_fs which, bool leave)
{
	pthread_t thread;
	char byte;

	held_open(h, which, F_WRLCK);
	assert_int_equal(kt_lease_drop(h->fd), 0);
	t->h = h;
	t->leave = leave;
	assert_int_equal(pipe(t->pipe), 0);
	assert_int_equal(pthread_create(&thread, NULL, taker_main, t), 0);
	assert_int_equal(read(t->pipe[0], &byte, 1), 1);
	return thread;
}

static void f_owner_tid_reaches_that_thread_only(void **state)
{
	struct kt_call *call;
	struct taker t;
	struct held h;
	pthread_t thread;

	(void)state;
	for_each_fs(which)
	{
		thread = taker_start(&t, &h, which, false);
		call = kt_open(h.path, O_RDWR);
		assert_int_equal(kt_sig_wait(SCENE_SIG, 20, NULL), 0);
		assert_int_equal(write(t.pipe[1], "e", 1), 1);
		assert_int_equal(pthread_join(thread, NULL), 0);
		assert_int_equal(t.got, 1);
		end_break(&h, call);
		held_close(&h);
		close(t.pipe[0]);
		close(t.pipe[1]);
	}
}

static void when_the_owning_thread_has_exited_nobody_is_told(void **state)
{
	struct kt_call *call;
	struct taker t;
	struct held h;
	sigset_t pending;

	(void)state;
	assert_int_equal(pthread_join(taker_start(&t, &h, EXT4, true), NULL), 0);
	call = kt_open(h.path, O_RDWR);
	assert_int_equal(kt_call_blocked(call, 50), 1);
	assert_int_equal(sigpending(&pending), 0);
	assert_false(sigismember(&pending, SCENE_SIG));
	assert_false(sigismember(&pending, SIGIO));
	assert_int_equal(kt_lease_get(h.fd), F_UNLCK);
	end_break(&h, call);
	held_close(&h);
	close(t.pipe[0]);
	close(t.pipe[1]);
}

static void a_signalfd_delivers_too(void **state)
{
	struct signalfd_siginfo info;
	struct kt_call *call;
	struct held h;
	sigset_t set;
	int sfd;

	(void)state;
	held_open(&h, TMPFS, F_WRLCK);
	sigemptyset(&set);
	sigaddset(&set, SCENE_SIG);
	sfd = signalfd(-1, &set, SFD_CLOEXEC);
	assert_true(sfd >= 0);
	call = kt_open(h.path, O_RDWR);
	assert_int_equal(read(sfd, &info, sizeof(info)), sizeof(info));
	assert_int_equal(info.ssi_fd, h.fd);
	close(sfd);
	end_break(&h, call);
	held_close(&h);
}

/* Some si_fd numbers something else by now: the fd of the lease was closed, another file got its number. */
static void si_fd_goes_stale_and_its_number_is_reused(void **state)
{
	siginfo_t info = { 0 };
	struct kt_call *call;
	struct held h;
	int other, reused;

	(void)state;
	held_open(&h, EXT4, F_WRLCK);
	other = dup(h.fd);
	assert_true(other >= 0);
	close(h.fd);
	reused = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(reused, h.fd);
	call = kt_open(h.path, O_RDWR);
	assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, &info), 1);
	assert_int_equal(info.si_fd, reused);
	assert_int_equal(kt_lease_get(other), F_UNLCK);
	close(reused);
	h.fd = other;
	end_break(&h, call);
	held_close(&h);
}

static void si_fd_is_the_fd_of_the_latest_f_setlease(void **state)
{
	siginfo_t info = { 0 };
	struct kt_call *call;
	struct held h;
	int other;

	(void)state;
	held_open(&h, EXT4, F_WRLCK);
	other = dup(h.fd);
	assert_int_equal(fcntl(other, F_SETLEASE, F_WRLCK), 0);
	call = kt_open(h.path, O_RDWR);
	assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, &info), 1);
	assert_int_equal(info.si_fd, other);
	assert_true(info.si_pid != call->pid);
	end_break(&h, call);
	close(other);
	held_close(&h);
}

static void a_leased_fd_cannot_be_polled(void **state)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = { .events = EPOLLIN };
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, h.fd, &ev), -1);
		assert_int_equal(errno, EPERM);
		held_close(&h);
	}
	close(ep);
}

/* Overflow */

#define MANY   40
#define LIMIT  8
#define NOBODY 60123 /* a uid of its own: RLIMIT_SIGPENDING counts per uid */

struct overflow {
	sem_t taken, broken;
	int error, with_fd, sigio, sigio_code, found;
};

struct overflow_arg {
	struct overflow *o;
	char dir[KT_PATH_MAX];
};

static void take_signals(struct overflow *o)
{
	struct timespec none = { 0 };
	siginfo_t info;
	sigset_t set;
	int signo;

	sigemptyset(&set);
	sigaddset(&set, SCENE_SIG);
	sigaddset(&set, SIGIO);
	while ((signo = sigtimedwait(&set, &info, &none)) > 0) {
		o->with_fd += signo == SCENE_SIG;
		if (signo == SIGIO) {
			o->sigio++;
			o->sigio_code = info.si_code;
		}
	}
}

static int hold_many(const void *arg)
{
	const struct overflow_arg *a = arg;
	struct rlimit limit = { LIMIT, LIMIT };
	char path[KT_PATH_MAX + 16];
	struct overflow *o = a->o;
	int fds[MANY];

	kt_sig_block(SIGIO);
	if (setrlimit(RLIMIT_SIGPENDING, &limit) || setgid(NOBODY) || setuid(NOBODY))
		o->error = -errno;
	for (int i = 0; i < MANY && !o->error; i++) {
		snprintf(path, sizeof(path), "%s/many%d", a->dir, i);
		fds[i] = open(path, O_RDWR | O_CLOEXEC);
		o->error = fds[i] < 0 ? -errno : kt_lease_take(fds[i], F_WRLCK, SCENE_SIG);
	}
	sem_post(&o->taken);
	while (!o->error && sem_wait(&o->broken) && errno == EINTR)
		;
	take_signals(o);
	for (int i = 0; i < MANY && !o->error; i++)
		o->found += kt_lease_get(fds[i]) == F_UNLCK && !kt_lease_drop(fds[i]);
	return o->error;
}

static void overflow_loses_signals_but_a_scan_finds_every_break(void **state)
{
	struct overflow_arg a = { .o = kt_shared(sizeof(struct overflow)) };
	char name[16], path[KT_PATH_MAX];
	struct kt_call *holder;

	(void)state;
	memcpy(a.dir, scene_dir(TMPFS), sizeof(a.dir));
	assert_non_null(a.o);
	sem_init(&a.o->taken, 1, 0);
	sem_init(&a.o->broken, 1, 0);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "many%d", i);
		assert_int_equal(kt_file(path, a.dir, name, 4096), 0);
		assert_int_equal(chown(path, NOBODY, NOBODY), 0);
	}
	holder = kt_call_start(hold_many, &a, sizeof(a));
	assert_non_null(holder);
	assert_int_equal(sem_wait(&a.o->taken), 0);
	assert_int_equal(a.o->error, 0);
	for (int i = 0; i < MANY; i++) {
		snprintf(path, sizeof(path), "%.64s/many%d", a.dir, i);
		assert_int_equal(open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC), -1);
		assert_int_equal(errno, EWOULDBLOCK);
	}
	sem_post(&a.o->broken);
	assert_int_equal(kt_call_done(holder, SCENE_LONG), 1);
	print_message("%d breaks: %d signals with si_fd, %d SIGIO (si_code %d), %d found by F_GETLEASE\n",
		      MANY, a.o->with_fd, a.o->sigio, a.o->sigio_code, a.o->found);
	assert_true(a.o->with_fd > 0 && a.o->with_fd <= LIMIT);
	assert_int_equal(a.o->sigio, 1);
	assert_int_equal(a.o->sigio_code, SI_KERNEL);
	assert_int_equal(a.o->found, MANY);
	kt_call_end(holder);
}

/* Who takes a process-directed signal */

#define SENT 20

static void *wait_for_sigio(void *arg)
{
	volatile int *taken = arg;

	while (*taken < SENT && kt_sig_wait(SIGIO, SCENE_LONG, NULL))
		(*taken)++;
	return NULL;
}

static void sigtimedwait_takes_process_directed_signals_from_a_signalfd(void **state)
{
	struct signalfd_siginfo info;
	volatile int taken = 0;
	pthread_t thread;
	sigset_t set;
	int sfd;

	(void)state;
	kt_sig_block(SIGIO);
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	assert_true(sfd >= 0);
	assert_int_equal(pthread_create(&thread, NULL, wait_for_sigio, (void *)&taken), 0);
	for (int i = 0; i < SENT; i++) {
		assert_int_equal(kill(getpid(), SIGIO), 0);
		for (int ms = 0; ms < SCENE_LONG && taken <= i; ms++)
			kt_sleep_ms(1);
	}
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(taken, SENT);
	assert_int_equal(read(sfd, &info, sizeof(info)), -1);
	assert_int_equal(errno, EAGAIN);
	close(sfd);
}

static int membarrier_fn(const void *arg)
{
	int expedited = MEMBARRIER_CMD_PRIVATE_EXPEDITED;

	(void)arg;
	if (syscall(SYS_membarrier, expedited, 0, 0) != -1 || errno != EPERM)
		return -EIO;
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		return -errno;
	return syscall(SYS_membarrier, expedited, 0, 0) ? -errno : 0;
}

static void membarrier_private_expedited_needs_to_be_registered(void **state)
{
	struct kt_call *call = kt_call_start(membarrier_fn, NULL, 0);

	(void)state;
	assert_true(syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
	assert_non_null(call);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	assert_int_equal(call->ret, 0);
	kt_call_end(call);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f_unlck_wipes_the_signal_and_the_owner),
		cmocka_unit_test(a_lease_taken_again_without_its_signal_kills_the_process),
		cmocka_unit_test(f_owner_tid_reaches_that_thread_only),
		cmocka_unit_test(when_the_owning_thread_has_exited_nobody_is_told),
		cmocka_unit_test(a_signalfd_delivers_too),
		cmocka_unit_test(si_fd_goes_stale_and_its_number_is_reused),
		cmocka_unit_test(si_fd_is_the_fd_of_the_latest_f_setlease),
		cmocka_unit_test(a_leased_fd_cannot_be_polled),
		cmocka_unit_test(overflow_loses_signals_but_a_scan_finds_every_break),
		cmocka_unit_test(sigtimedwait_takes_process_directed_signals_from_a_signalfd),
		cmocka_unit_test(membarrier_private_expedited_needs_to_be_registered),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
