/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 0: the seam to the kernel and libc. Every system call, allocation, clock
 * reading and thread of the library goes through here, so that the simulation can
 * put another kernel behind it. Functions answer 0, a positive result, or -errno,
 * and pass EINTR on: who may retry is decided above. Mutexes are pthread's own.
 */
#ifndef PL_SYS_H
#define PL_SYS_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What identifies a file and what kind of file system it is on. */
struct pl_sys_stat {
	uint64_t dev, ino, size;
	uint64_t allocated;	/* st_blocks, in bytes; pl_sys_stat_id alone, 0: not told */
	uint32_t mode;		/* st_mode */
	uint32_t fs_magic;	/* statfs.f_type */
	uint64_t block;		/* statfs.f_bsize: hugetlbfs says its page size there */
	uint64_t avail;		/* bytes the file system has left for us */
	uint64_t links;		/* st_nlink */
	bool dax;		/* STATX_ATTR_DAX */
};

/* A line of /proc/self/maps. */
struct pl_sys_mapping {
	uint64_t start, end, off, dev, ino;
	int prot;		/* PROT_* */
	bool shared;
};

/* A lease or delegation in /proc/locks. */
struct pl_sys_lease {
	uint64_t dev, ino;	/* dev: of the superblock, as in pl_sys_mapping */
	pid_t pid;
	bool reads;		/* for reading, and not being broken: opens for reading do not disturb it */
};

/* Told to gcc, whose -fanalyzer then sees what is freed twice, or never. */
#if defined(__GNUC__) && !defined(__clang__)
#define PL_SYS_FREED_BY(fn) __attribute__((malloc, malloc(fn, 1)))
#else
#define PL_SYS_FREED_BY(fn)
#endif
void pl_sys_free(void *p);
void *pl_sys_alloc(size_t size) PL_SYS_FREED_BY(pl_sys_free);	/* zeroed; NULL: -ENOMEM */
uint64_t pl_sys_now(void);		/* CLOCK_MONOTONIC, ns */
size_t pl_sys_page_size(void);

int pl_sys_open(const char *path, int flags);	/* O_CLOEXEC is added */
int pl_sys_dup(int fd);				/* F_DUPFD_CLOEXEC */
int pl_sys_dup_over(int from, int to);		/* dup3(O_CLOEXEC), fork child */
int pl_sys_close(int fd);
int pl_sys_get_flags(int fd);			/* F_GETFL */
int pl_sys_stat(int fd, struct pl_sys_stat *st);
/* What fstat tells, in one system call: dev, ino, size, mode, links. */
int pl_sys_stat_id(int fd, struct pl_sys_stat *st);
ssize_t pl_sys_pread(int fd, void *buf, size_t len, uint64_t off);
ssize_t pl_sys_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int pl_sys_truncate(int fd, uint64_t len);
/* An unnamed file in memory, on huge pages of that size unless 0: -ENOMEM, -EINVAL: no such pages here. */
int pl_sys_scratch(uint64_t len, uint64_t huge);
int pl_sys_allocate(int fd, int mode, uint64_t off, uint64_t len);
int pl_sys_datasync(int fd);
/* *pages: of off..off+len are in the page cache. -ENOSYS: before 6.5. */
int pl_sys_cached(int fd, uint64_t off, uint64_t len, uint64_t *pages);
int pl_sys_has_hole(int fd, uint64_t off, uint64_t len);	/* 1, 0, -EOPNOTSUPP; moves no file offset */

int pl_sys_set_lease(int fd, int type);		/* F_SETLEASE: F_RDLCK, F_WRLCK, F_UNLCK */
int pl_sys_get_lease(int fd);			/* F_GETLEASE */
int pl_sys_set_signal(int fd, int signo);	/* F_SETSIG */
int pl_sys_set_owner(int fd, pid_t tid);	/* F_SETOWN_EX, F_OWNER_TID */
int pl_sys_get_seals(int fd);
/*
 * Is the file on the kind of file system that statfs said? 9p passes on what its server
 * lies on (v9fs_statfs in fs/9p/vfs_super.c; kernel_9p holds it).
 */
bool pl_sys_fs_is(int fd, const struct pl_sys_stat *st);
int pl_sys_add_seals(int fd, int seals);

/* fd < 0: anonymous. addr non-NULL: replaces what is there (MAP_FIXED). Shared file mapping otherwise. */
int pl_sys_map(void *addr, size_t len, int prot, int fd, uint64_t off, void **out);
/* In place of what is mapped at addr, shared, with MAP_SYNC; refused there may be nothing at addr. */
int pl_sys_map_sync(void *addr, size_t len, int prot, int fd, uint64_t off);
int pl_sys_unmap(void *addr, size_t len);
int pl_sys_advise(void *addr, size_t len, int advice);
int pl_sys_msync(void *addr, size_t len);	/* MS_SYNC */

/* One signal of set with its info, until timeout_ns (relative) is over: signal number, -EAGAIN, -EINTR. */
int pl_sys_wait_signal(const sigset_t *set, siginfo_t *info, uint64_t timeout_ns);
int pl_sys_signal_thread(pthread_t thread, int signo);
/*
 * A signal to the calling thread that has its place in the queue from now on: raising it, once,
 * cannot fail. -EAGAIN: the queue is full; -ENOMEM.
 */
int pl_sys_alarm_new(int signo, timer_t *alarm);
void pl_sys_alarm_raise(timer_t alarm);
void pl_sys_alarm_free(timer_t alarm);
/* With all signals blocked. */
int pl_sys_thread_new(void *(*fn)(void *), void *arg, const char *name, pthread_t *out);
void pl_sys_thread_join(pthread_t thread);
pid_t pl_sys_thread_id(void);
int pl_sys_cond_init(pthread_cond_t *cond);	/* on CLOCK_MONOTONIC */
/* 0 woken, -ETIMEDOUT; until PL_NEVER waits for ever. */
int pl_sys_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns);
int pl_sys_key_new(pthread_key_t *key, void (*destroy)(void *));
int pl_sys_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

int pl_sys_membarrier_register(void); /* 0: PRIVATE_EXPEDITED may be used; -ENOSYS, -EPERM, -EINVAL */
void pl_sys_membarrier(void);			/* only after register answered 0 */

int pl_sys_event_new(void);			/* eventfd, non-blocking */
void pl_sys_event_set(int fd);
void pl_sys_event_clear(int fd);

/* inotify, non-blocking, which sends signo (si_fd: its fd) to the thread when something can be read. */
int pl_sys_notify_new(int signo, pid_t tid);
int pl_sys_notify_add(int notify, int fd, uint32_t mask);	/* what fd is open on; the watch, or -errno */
void pl_sys_notify_remove(int notify, int watch);
ssize_t pl_sys_notify_read(int notify, void *buf, size_t cap);

/* Put one more reference to fd's open file description in flight; *anchor keeps it there. */
int pl_sys_anchor_new(int fd, int *anchor);
void pl_sys_anchor_free(int anchor);	/* gives the reference up, whoever else holds the anchor */

ssize_t pl_sys_read_text(const char *path, char *buf, size_t cap);	/* NUL-terminated; bytes read */
/* Calls fn for each numeric name in a directory (/proc, /proc/PID/fd) until it answers non-zero. */
int pl_sys_each_number(const char *path, int (*fn)(void *arg, int number), void *arg);
/* As pl_sys_stat, by path, following links: dev, ino and mode only. */
int pl_sys_stat_path(const char *path, struct pl_sys_stat *st);
/* Calls fn for each lease that /proc/locks shows (those of this pid namespace) until it answers non-zero. */
int pl_sys_each_lease(int (*fn)(void *arg, const struct pl_sys_lease *lease), void *arg);
/* Calls fn for each mapping of this process, by address, until it answers non-zero. Allocates nothing. */
int pl_sys_each_mapping(int (*fn)(void *arg, const struct pl_sys_mapping *m), void *arg);
/* Do fd and descriptor other of process pid share one open file description? 1, 0, -errno: cannot be told. */
int pl_sys_same_description(int fd, pid_t pid, int other);
pid_t pl_sys_pid(void);
uint64_t pl_sys_memlock_limit(void);		/* RLIMIT_MEMLOCK, soft; UINT64_MAX: none, or CAP_IPC_LOCK */

#endif
