/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The clean room and its helper processes.
 *
 *   test ──pipe──▶ clean room ──fork──▶ helper (one a kt_call_start)
 *     └────────── struct kt_room, one shared mapping ──────┘
 *
 * A request is one atomic write to the pipe. The helper reports through its slot.
 * The clean room reaps helpers in its SIGCHLD handler and undoes everything in its
 * SIGTERM handler, which is also its parent-death signal: both run only
 * async-signal-safe code.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kt_private.h"

enum slot_state { SLOT_FREE, SLOT_TAKEN };

struct request {
	uint32_t slot;
	int (*fn)(const void *arg);
	_Alignas(16) unsigned char arg[KT_ARG_MAX];
};

_Static_assert(sizeof(struct request) <= PIPE_BUF, "a request must be written in one piece");

struct kt_room *kt_room;
static pid_t test_pid, room_pid;
static int request_fd = -1;

uint64_t kt_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void kt_sleep_ms(unsigned int ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

long kt_status_kib(const char *name)
{
	FILE *f = fopen("/proc/self/status", "re");
	size_t len = strlen(name);
	char line[256];
	long kib = -1;

	while (f && kib < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len))
			sscanf(line + len, ": %ld", &kib);
	if (f)
		fclose(f);
	return kib;
}

int kt_send_fd(int sock, int fd)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char byte = 'a';
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.room,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	return sendmsg(sock, &msg, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

bool kt_kernel_from(unsigned int major, unsigned int minor)
{
	unsigned int have_major = 0, have_minor = 0;
	struct utsname uts;

	uname(&uts);
	sscanf(uts.release, "%u.%u", &have_major, &have_minor);
	return have_major != major ? have_major > major : have_minor >= minor;
}

void kt_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("skip: ");
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	exit(KT_SKIP);
}

void kt_note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("not asked here: ");
	vprintf(fmt, ap);
	printf("\n");
	fflush(stdout);
	va_end(ap);
}

void *kt_shared(size_t size)
{
	size_t at = __atomic_fetch_add(&kt_room->arena_used, (size + 63) & ~(size_t)63, __ATOMIC_RELAXED);

	return at + size <= KT_ARENA ? kt_room->arena + at : NULL;
}

int kt_write_number(const char *path, long long number)
{
	char text[24], *at = text + sizeof(text);
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;
	ssize_t len;

	if (fd < 0)
		return -errno;
	/* By hand, since the undertaker calls this in a signal handler. */
	*--at = '\n';
	do {
		*--at = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	len = text + sizeof(text) - at;
	if (write(fd, at, (size_t)len) != len)
		ret = -errno;
	close(fd);
	return ret;
}

/* The clean room */

static void undertake(int signo)
{
	(void)signo;
	for (int i = 0; i < KT_CALLS; i++)
		if (kt_room->calls[i].pid > 0)
			kill(kt_room->calls[i].pid, SIGKILL);
	if (kt_room->break_time >= 0)
		kt_write_number(KT_BREAK_TIME, kt_room->break_time);
	for (int i = KT_MOUNTS - 1; i >= 0; i--) {
		if (!kt_room->mounts[i][0])
			continue;
		umount2(kt_room->mounts[i], MNT_DETACH);
		rmdir(kt_room->mounts[i]);
	}
	/* After the mounts: what hugetlbfs still has of them is not given back to the system. */
	if (kt_room->hugepages >= 0)
		kt_write_number(KT_HUGEPAGES, kt_room->hugepages);
	if (kt_room->base[0])
		rmdir(kt_room->base);
	_exit(0);
}

static void reap(int signo)
{
	int saved = errno, status;
	pid_t pid;

	(void)signo;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < KT_CALLS; i++) {
			struct kt_call *call = &kt_room->calls[i];

			if (call->pid != pid)
				continue;
			call->status = status;
			call->pid = 0;
			sem_post(&call->exited);
		}
	}
	errno = saved;
}

static void sem_wait_always(sem_t *sem)
{
	while (sem_wait(sem) && errno == EINTR)
		;
}

__attribute__((noreturn)) static void helper_main(const struct request *req)
{
	struct kt_call *call = &kt_room->calls[req->slot];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	call->pid = getpid(); /* the clean room writes the same, perhaps later than the test looks */
	call->start_ns = kt_now();
	sem_post(&call->started);
	call->ret = req->fn(req->arg);
	call->end_ns = kt_now();
	sem_post(&call->done);
	sem_wait_always(&call->leave);
	_exit(0);
}

/* SIGCHLD is blocked around the fork, so that a helper is in its slot before it can be reaped. */
static bool start_helper(const struct request *req)
{
	struct kt_call *call = &kt_room->calls[req->slot];
	sigset_t block, old;
	pid_t pid;

	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	sigaddset(&block, SIGTERM);
	sigprocmask(SIG_BLOCK, &block, &old);
	pid = fork();
	if (!pid) {
		signal(SIGCHLD, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		signal(SIGINT, SIG_DFL);
		sigprocmask(SIG_SETMASK, &old, NULL);
		helper_main(req);
	}
	call->pid = pid;
	if (pid < 0) {
		call->ret = -errno;
		sem_post(&call->started);
		sem_post(&call->done);
		sem_post(&call->exited);
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	return true;
}

__attribute__((noreturn)) static void room_main(int fd)
{
	struct sigaction term = { .sa_handler = undertake },
			 chld = { .sa_handler = reap, .sa_flags = SA_RESTART };
	struct pollfd in = { .fd = fd, .events = POLLIN };
	struct request req;

	sigaction(SIGTERM, &term, NULL);
	sigaction(SIGCHLD, &chld, NULL);
	signal(SIGINT, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != test_pid)
		undertake(SIGTERM);
	/* Not for long at a time: ThreadSanitizer keeps SIGCHLD back till a call that it knows of returns. */
	while (poll(&in, 1, 200) <= 0 || (read(fd, &req, sizeof(req)) == sizeof(req) && start_helper(&req)))
		;
	undertake(SIGTERM);
	_exit(0);
}

static void close_room(void)
{
	if (getpid() != test_pid || room_pid <= 0)
		return;
	kill(room_pid, SIGTERM);
	waitpid(room_pid, NULL, 0);
	room_pid = 0;
}

__attribute__((noreturn)) static void init_failed(const char *what)
{
	fprintf(stderr, "kt_init: %s: %s\n", what, strerror(errno));
	exit(1);
}

void kt_init(void)
{
	int pipe_fd[2];

	kt_room = mmap(NULL, sizeof(*kt_room), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (kt_room == MAP_FAILED)
		init_failed("mmap");
	kt_room->break_time = kt_room->hugepages = -1;
	if (!geteuid()) {
		if (unshare(CLONE_NEWNS))
			init_failed("unshare");
		/* EINVAL: a chroot that is no mount point, in a guest whose mounts are private anyway. */
		if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) && errno != EINVAL)
			init_failed("mount --make-rprivate");
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (pipe2(pipe_fd, O_CLOEXEC))
		init_failed("pipe2");
	test_pid = getpid();
	room_pid = fork();
	if (room_pid < 0)
		init_failed("fork");
	if (!room_pid) {
		close(pipe_fd[1]);
		room_main(pipe_fd[0]);
	}
	close(pipe_fd[0]);
	request_fd = pipe_fd[1];
	atexit(close_room);
}

/* Calls */

static struct kt_call *slot_take(void)
{
	for (int i = 0; i < KT_CALLS; i++) {
		struct kt_call *call = &kt_room->calls[i];
		int want = SLOT_FREE;

		if (!__atomic_compare_exchange_n(&call->state, &want, SLOT_TAKEN, false, __ATOMIC_ACQUIRE,
						 __ATOMIC_RELAXED))
			continue;
		call->pid = 0;
		call->ret = call->status = 0;
		call->start_ns = call->end_ns = 0;
		sem_init(&call->started, 1, 0);
		sem_init(&call->done, 1, 0);
		sem_init(&call->leave, 1, 0);
		sem_init(&call->exited, 1, 0);
		return call;
	}
	return NULL;
}

/* 1 when posted within ms; the post is put back, so that asking twice is fine. */
static int sem_seen(sem_t *sem, unsigned int ms)
{
	struct timespec until;
	int ret;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while ((ret = sem_clockwait(sem, CLOCK_MONOTONIC, &until)) && errno == EINTR)
		;
	if (ret)
		return 0;
	sem_post(sem);
	return 1;
}

struct kt_call *kt_call_start(int (*fn)(const void *arg), const void *arg, size_t len)
{
	struct kt_call *call = len <= KT_ARG_MAX ? slot_take() : NULL;
	struct request req = { .fn = fn };

	if (!call)
		return NULL;
	req.slot = (uint32_t)(call - kt_room->calls);
	if (len)
		memcpy(req.arg, arg, len);
	if (write(request_fd, &req, sizeof(req)) != (ssize_t)sizeof(req) ||
	    !sem_seen(&call->started, KT_LONG)) {
		call->state = SLOT_FREE;
		return NULL;
	}
	return call;
}

static bool asleep(pid_t pid)
{
	char path[32], line[256] = "", *paren;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	paren = strrchr(line, ')');
	return paren && paren[1] && (paren[2] == 'S' || paren[2] == 'D');
}

int kt_call_blocked(struct kt_call *call, unsigned int ms)
{
	/* On a busy machine it may take longer than ms before it gets as far as to fall asleep. */
	for (unsigned int more = 0; more < KT_LONG; more++) {
		if (sem_seen(&call->done, more ? 1 : ms) || call->pid <= 0)
			return 0;
		if (asleep(call->pid))
			return 1;
	}
	return 0;
}

int kt_call_done(struct kt_call *call, unsigned int ms)
{
	return sem_seen(&call->done, ms);
}

uint64_t kt_call_ns(const struct kt_call *call)
{
	return call->end_ns - call->start_ns;
}

int kt_call_exited(struct kt_call *call, unsigned int ms)
{
	return sem_seen(&call->exited, ms);
}

void kt_call_kill(struct kt_call *call)
{
	pid_t pid = call->pid;

	if (pid > 0)
		kill(pid, SIGKILL);
	sem_seen(&call->exited, KT_LONG);
}

void kt_call_end(struct kt_call *call)
{
	if (!call)
		return;
	if (!kt_call_done(call, 0))
		kt_call_kill(call);
	sem_post(&call->leave);
	if (!kt_call_exited(call, KT_LONG))
		kt_call_kill(call);
	__atomic_store_n(&call->state, SLOT_FREE, __ATOMIC_RELEASE);
}

struct path_arg {
	char path[KT_PATH_MAX];
	int flags;
	off_t size;
};

static int open_fn(const void *arg)
{
	const struct path_arg *a = arg;
	int fd = open(a->path, a->flags | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

static int truncate_fn(const void *arg)
{
	const struct path_arg *a = arg;

	return truncate(a->path, a->size) ? -errno : 0;
}

struct kt_call *kt_open(const char *path, int flags)
{
	struct path_arg arg = { .flags = flags };

	snprintf(arg.path, sizeof(arg.path), "%s", path);
	return kt_call_start(open_fn, &arg, sizeof(arg));
}

struct kt_call *kt_truncate(const char *path, off_t size)
{
	struct path_arg arg = { .size = size };

	snprintf(arg.path, sizeof(arg.path), "%s", path);
	return kt_call_start(truncate_fn, &arg, sizeof(arg));
}

static int finish_within(struct kt_call *call, unsigned int ms)
{
	int ret = !call ? -EAGAIN : kt_call_done(call, ms) ? call->ret : -ETIMEDOUT;

	kt_call_end(call);
	return ret;
}

int kt_open_now(const char *path, int flags, unsigned int ms)
{
	return finish_within(kt_open(path, flags), ms);
}

int kt_truncate_now(const char *path, off_t size, unsigned int ms)
{
	return finish_within(kt_truncate(path, size), ms);
}
