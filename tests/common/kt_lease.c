/* SPDX-License-Identifier: BSD-3-Clause */
/* Leases by hand: what libpinlease does with more care, as plainly as it can be written. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kt_private.h"

int kt_sig_block(int signo)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signo);
	return -pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int kt_sig_wait(int signo, int ms, siginfo_t *info)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };
	sigset_t set;
	int ret;

	sigemptyset(&set);
	sigaddset(&set, signo);
	while ((ret = sigtimedwait(&set, info, &ts)) < 0 && errno == EINTR)
		;
	return ret == signo;
}

int kt_lease_get(int fd)
{
	int ret = fcntl(fd, F_GETLEASE);

	return ret < 0 ? -errno : ret;
}

int kt_lease_drop(int fd)
{
	return fcntl(fd, F_SETLEASE, F_UNLCK) ? -errno : 0;
}

int kt_lease_take(int fd, int type, int signo)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = gettid() };
	int ret = kt_sig_block(signo);

	if (ret)
		return ret;
	if (fcntl(fd, F_SETSIG, signo) || fcntl(fd, F_SETOWN_EX, &owner) || fcntl(fd, F_SETLEASE, type))
		return -errno;
	return kt_lease_get(fd) == type ? 0 : -EIO;
}

/* The holder process */

struct hold_arg {
	struct kt_hold_opts opts;
	struct kt_holder *holder;
};

_Static_assert(sizeof(struct hold_arg) <= KT_ARG_MAX, "the clean room copies arguments");

static int hold_take(const struct kt_hold_opts *opts, int signo)
{
	int prot = PROT_READ | ((opts->flags & O_ACCMODE) == O_RDWR ? PROT_WRITE : 0), ret;
	int fd = open(opts->path, opts->flags | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (opts->map && mmap(NULL, opts->map, prot, MAP_SHARED, fd, 0) == MAP_FAILED)
		return -errno;
	ret = kt_lease_take(fd, opts->type, signo);
	return ret ? ret : fd;
}

static void hold_answer(const struct hold_arg *a, int fd)
{
	struct kt_holder *holder = a->holder;

	holder->target = kt_lease_get(fd);
	__atomic_fetch_add(&holder->breaks, 1, __ATOMIC_RELEASE);
	if (a->opts.answer_ms == KT_NEVER)
		return;
	kt_sleep_ms((unsigned int)a->opts.answer_ms);
	holder->let_go_ns = kt_now();
	holder->unlock_ret = kt_lease_drop(fd);
}

static int hold_fn(const void *arg)
{
	const struct hold_arg *a = arg;
	int signo = SIGRTMIN + 1, fd;

	fd = hold_take(&a->opts, signo);
	a->holder->ret = fd < 0 ? fd : 0;
	if (fd >= 0 && a->opts.close_fd)
		close(fd);
	sem_post(&a->holder->ready);
	while (fd >= 0)
		if (kt_sig_wait(signo, 1000, NULL))
			hold_answer(a, fd);
	return fd;
}

struct kt_holder *kt_hold(const struct kt_hold_opts *opts)
{
	struct kt_holder *holder = kt_shared(sizeof(*holder));
	struct hold_arg arg = { .opts = *opts, .holder = holder };

	if (!holder || sem_init(&holder->ready, 1, 0))
		return NULL;
	holder->unlock_ret = -EINPROGRESS;
	holder->call = kt_call_start(hold_fn, &arg, sizeof(arg));
	if (!holder->call)
		return NULL;
	while (sem_wait(&holder->ready) && errno == EINTR)
		;
	return holder;
}

void kt_hold_kill(struct kt_holder *holder)
{
	kt_call_kill(holder->call);
}

void kt_hold_end(struct kt_holder *holder)
{
	kt_call_end(holder->call);
}
