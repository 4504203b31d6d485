/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"
#include "util.h"

/* glibc's convention to ours. */
static int sys_ret(int r)
{
	return r < 0 ? -errno : r;
}

static ssize_t sys_ret_size(ssize_t r)
{
	return r < 0 ? -errno : r;
}

static struct timespec sys_timespec(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / PL_NS_PER_S), .tv_nsec = (long)(ns % PL_NS_PER_S) };
}

void *pl_sys_alloc(size_t size)
{
	return calloc(1, size);
}

void pl_sys_free(void *p)
{
	free(p);
}

uint64_t pl_sys_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * PL_NS_PER_S + (uint64_t)ts.tv_nsec;
}

size_t pl_sys_page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

int pl_sys_open(const char *path, int flags)
{
	return sys_ret(open(path, flags | O_CLOEXEC));
}

int pl_sys_dup(int fd)
{
	return sys_ret(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

int pl_sys_dup_over(int from, int to)
{
	return sys_ret(dup3(from, to, O_CLOEXEC));
}

/* Linux has closed fd also when it says EINTR. */
int pl_sys_close(int fd)
{
	int r = sys_ret(close(fd));

	return r == -EINTR ? 0 : r;
}

int pl_sys_get_flags(int fd)
{
	return sys_ret(fcntl(fd, F_GETFL));
}

int pl_sys_stat_id(int fd, struct pl_sys_stat *st)
{
	struct stat s;

	if (fstat(fd, &s))
		return -errno;
	*st = (struct pl_sys_stat){
		.dev = s.st_dev,
		.ino = s.st_ino,
		.size = (uint64_t)s.st_size,
		.allocated = (uint64_t)s.st_blocks * 512,
		.mode = s.st_mode,
		.links = s.st_nlink,
	};
	return 0;
}

int pl_sys_stat(int fd, struct pl_sys_stat *st)
{
	struct statfs fs;
	struct statx stx;
	struct stat s;

	if (fstat(fd, &s) || fstatfs(fd, &fs))
		return -errno;
	*st = (struct pl_sys_stat){
		.dev = s.st_dev,
		.ino = s.st_ino,
		.size = (uint64_t)s.st_size,
		.mode = s.st_mode,
		.links = s.st_nlink,
		.fs_magic = (uint32_t)fs.f_type,
		.block = (uint64_t)fs.f_bsize,
		/* A memory file system without a limit says 0 of 0. */
		.avail = fs.f_blocks ? fs.f_bavail * (uint64_t)fs.f_bsize : UINT64_MAX,
	};
	/* Only statx tells of DAX; where it is refused (seccomp) no fs-dax is assumed. */
	if (!statx(fd, "", AT_EMPTY_PATH, 0, &stx))
		st->dax = stx.stx_attributes & STATX_ATTR_DAX;
	return 0;
}

ssize_t pl_sys_pread(int fd, void *buf, size_t len, uint64_t off)
{
	return sys_ret_size(pread(fd, buf, len, (off_t)off));
}

ssize_t pl_sys_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	return sys_ret_size(pwrite(fd, buf, len, (off_t)off));
}

int pl_sys_truncate(int fd, uint64_t len)
{
	return sys_ret(ftruncate(fd, (off_t)len));
}

int pl_sys_scratch(uint64_t len, uint64_t huge)
{
	unsigned int flags = MFD_CLOEXEC;
	int fd, r;

	if (huge)
		flags |= MFD_HUGETLB | (unsigned int)__builtin_ctzll(huge) << MFD_HUGE_SHIFT;
	fd = memfd_create("pinlease-scratch", flags);
	if (fd < 0)
		return -errno;
	r = pl_sys_truncate(fd, len);
	if (r) {
		close(fd);
		return r;
	}
	return fd;
}

int pl_sys_allocate(int fd, int mode, uint64_t off, uint64_t len)
{
	return sys_ret(fallocate(fd, mode, (off_t)off, (off_t)len));
}

int pl_sys_datasync(int fd)
{
	return sys_ret(fdatasync(fd));
}

int pl_sys_set_lease(int fd, int type)
{
	return sys_ret(fcntl(fd, F_SETLEASE, type));
}

int pl_sys_get_lease(int fd)
{
	return sys_ret(fcntl(fd, F_GETLEASE));
}

int pl_sys_set_signal(int fd, int signo)
{
	return sys_ret(fcntl(fd, F_SETSIG, signo));
}

int pl_sys_set_owner(int fd, pid_t tid)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = tid };

	return sys_ret(fcntl(fd, F_SETOWN_EX, &owner));
}

int pl_sys_get_seals(int fd)
{
	return sys_ret(fcntl(fd, F_GET_SEALS));
}

int pl_sys_add_seals(int fd, int seals)
{
	return sys_ret(fcntl(fd, F_ADD_SEALS, seals));
}

int pl_sys_map(void *addr, size_t len, int prot, int fd, uint64_t off, void **out)
{
	int flags = (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | (addr ? MAP_FIXED : 0);
	void *p = mmap(addr, len, prot, flags, fd, (off_t)off);

	if (p == MAP_FAILED)
		return -errno;
	*out = p;
	return 0;
}

int pl_sys_map_sync(void *addr, size_t len, int prot, int fd, uint64_t off)
{
	int flags = MAP_SHARED_VALIDATE | MAP_SYNC | MAP_FIXED;

	return mmap(addr, len, prot, flags, fd, (off_t)off) == MAP_FAILED ? -errno : 0;
}

int pl_sys_unmap(void *addr, size_t len)
{
	return sys_ret(munmap(addr, len));
}

int pl_sys_advise(void *addr, size_t len, int advice)
{
	return sys_ret(madvise(addr, len, advice));
}

int pl_sys_msync(void *addr, size_t len)
{
	return sys_ret(msync(addr, len, MS_SYNC));
}

int pl_sys_wait_signal(const sigset_t *set, siginfo_t *info, uint64_t timeout_ns)
{
	struct timespec ts = sys_timespec(timeout_ns);

	return sys_ret(sigtimedwait(set, info, timeout_ns == PL_NEVER ? NULL : &ts));
}

int pl_sys_signal_thread(pthread_t thread, int signo)
{
	return -pthread_kill(thread, signo);
}

/* A timer's signal is allocated with the timer; one that is sent is when it is sent, or is EAGAIN. */
int pl_sys_alarm_new(int signo, timer_t *alarm)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signo };

	/* glibc has had a name for it since 2.41. */
	event._sigev_un._tid = gettid();
	return sys_ret(timer_create(CLOCK_MONOTONIC, &event, alarm));
}

void pl_sys_alarm_raise(timer_t alarm)
{
	const struct itimerspec at_once = { .it_value.tv_nsec = 1 };

	timer_settime(alarm, 0, &at_once, NULL);
}

void pl_sys_alarm_free(timer_t alarm)
{
	timer_delete(alarm);
}

/* The new thread inherits the mask: no signal of the application's is ever delivered to it. */
int pl_sys_thread_new(void *(*fn)(void *), void *arg, const char *name, pthread_t *out)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(out, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!r)
		pthread_setname_np(*out, name);
	return -r;
}

void pl_sys_thread_join(pthread_t thread)
{
	pthread_join(thread, NULL);
}

pid_t pl_sys_thread_id(void)
{
	return gettid();
}

int pl_sys_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int r = pthread_condattr_init(&attr);

	if (r)
		return -r;
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	r = pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
	return -r;
}

int pl_sys_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns)
{
	struct timespec ts = sys_timespec(until_ns);

	if (until_ns == PL_NEVER)
		return -pthread_cond_wait(cond, mutex);
	return -pthread_cond_timedwait(cond, mutex, &ts);
}

int pl_sys_key_new(pthread_key_t *key, void (*destroy)(void *))
{
	return -pthread_key_create(key, destroy);
}

int pl_sys_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	return -pthread_atfork(prepare, parent, child);
}

int pl_sys_membarrier_register(void)
{
	return sys_ret((int)syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
}

void pl_sys_membarrier(void)
{
	syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

int pl_sys_event_new(void)
{
	return sys_ret(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

void pl_sys_event_set(int fd)
{
	eventfd_write(fd, 1);
}

void pl_sys_event_clear(int fd)
{
	eventfd_t n;

	eventfd_read(fd, &n);
}

int pl_sys_notify_new(int signo, pid_t tid)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = tid };
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), r;

	if (fd < 0)
		return -errno;
	if (!fcntl(fd, F_SETSIG, signo) && !fcntl(fd, F_SETOWN_EX, &owner) &&
	    !fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC))
		return fd;
	r = -errno;
	close(fd);
	return r;
}

int pl_sys_notify_add(int notify, int fd, uint32_t mask)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return sys_ret(inotify_add_watch(notify, path, mask));
}

void pl_sys_notify_remove(int notify, int watch)
{
	inotify_rm_watch(notify, watch);
}

ssize_t pl_sys_notify_read(int notify, void *buf, size_t cap)
{
	return sys_ret_size(read(notify, buf, cap));
}

/*
 * The datagram is never received. It holds the description until the socket itself is
 * destroyed, which a dying process does after the fput of every descriptor: so what
 * these close (memory regions) is gone before the lease (kill_owner holds it).
 */
int pl_sys_anchor_new(int fd, int *anchor)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .room = { 0 } };
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = sizeof(byte) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.room, .msg_controllen = sizeof(control.room),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	int pair[2], r;

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair))
		return -errno;
	r = sendmsg(pair[0], &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
	close(pair[0]);
	if (r)
		close(pair[1]);
	else
		*anchor = pair[1];
	return r;
}

/*
 * Received, so that the description is closed now: a backend may have had the socket
 * held by something that the kernel frees later (a ring's registered file, up to a second
 * on 6.1), and until then the file would seem to be open elsewhere.
 */
void pl_sys_anchor_free(int anchor)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = sizeof(byte)};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	struct cmsghdr *c;
	int fd;

	if (recvmsg(anchor, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) > 0) {
		c = CMSG_FIRSTHDR(&msg);
		if (c && c->cmsg_type == SCM_RIGHTS) {
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
			close(fd);
		}
	}
	close(anchor);
}
