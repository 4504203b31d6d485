/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kt: what a test needs that meets the real kernel.
 *
 * A lease belongs to an open file description, and a forked child that inherits
 * an fd or a mapping of it is one more holder: it changes what the test measures.
 * So kt_init() is the first thing main() does, before any file, device, mapping or
 * thread exists. It forks the clean room, a process that holds nothing of the
 * test's, and every helper process is forked from there. The clean room is also
 * the undertaker: it undoes mounts and sysctls whatever became of the test, SIGKILL
 * included. Mounts live in a mount namespace of their own, so nobody else sees them.
 *
 * Nothing here uses cmocka or libpinlease. Errors are -errno; a test asserts them.
 */
#ifndef PL_TEST_KT_H
#define PL_TEST_KT_H

#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define KT_ARG_MAX    384 /* bytes of argument a helper can be given */
#define KT_PATH_MAX   96
#define KT_DEVICE_MAX 32
#define KT_SKIP	      77
#define KT_LONG	      30000u /* ms: so long that only a hang takes it, whatever the load */

/* A sanitizer has memory and a thread of its own, and ThreadSanitizer keeps signals till it likes. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KT_ASAN true
#endif
#if __has_feature(thread_sanitizer)
#define KT_TSAN true
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define KT_ASAN true
#endif
#ifdef __SANITIZE_THREAD__
#define KT_TSAN true
#endif
#ifndef KT_ASAN
#define KT_ASAN false
#endif
#ifndef KT_TSAN
#define KT_TSAN false
#endif

/* 0, or exits with a message: a test without its helpers can say nothing. */
void kt_init(void);

/* Print "skip: ..." on stdout and exit with 77. */
__attribute__((noreturn, format(printf, 1, 2))) void kt_skip(const char *fmt, ...);

/* One fact of an executable that cannot be asked here: says so on stdout, the test function then returns. */
__attribute__((format(printf, 1, 2))) void kt_note(const char *fmt, ...);

uint64_t kt_now(void); /* CLOCK_MONOTONIC, ns */
void kt_sleep_ms(unsigned int ms);
/* The number in a line of /proc/self/status ("VmPin", "Threads"); -1: there is none. */
long kt_status_kib(const char *name);
/* What registrations have pinned of this process's memory. */
static inline long kt_pinned_kib(void)
{
	return kt_status_kib("VmPin");
}
int kt_send_fd(int sock, int fd);	/* SCM_RIGHTS; 0 or -errno */
bool kt_kernel_from(unsigned int major, unsigned int minor); /* running kernel is that or newer */

/* Zeroed memory shared with every helper, given back when the test ends; NULL when the 16 MiB are used up. */
void *kt_shared(size_t size);

/* File systems */

struct kt_fs {
	char dir[KT_PATH_MAX]; /* where it is mounted */
	int image;	       /* the disk: the file behind the loop device, or -1 */
};

/*
 * A new, empty file system, mounted and checked to be what was asked for by its statfs
 * magic. tmpfs, hugetlbfs (see kt_hugepages); ext4, ext4_inline (small files are in the
 * inode), xfs, xfs_noreflink, btrfs on a loop device over a memfd; ext4_dax and xfs_dax
 * (dax=always) on /dev/pmem0, -ENODEV without one. mib is a lower bound (xfs and btrfs
 * have their own minimum). -EPERM without root.
 */
int kt_fs_make(struct kt_fs *fs, const char *type, unsigned int mib);
int kt_fs_overlay(struct kt_fs *fs, const struct kt_fs *below); /* overlayfs, its layers folders of below */
void kt_fs_drop(struct kt_fs *fs); /* early; otherwise done at exit */

/* Run a program, args (NULL ends them) and one more; its stdout is dropped. -EIO if it fails. */
int kt_run(const char *const *args, const char *last);

/* Piece by piece, for devices that the test makes itself. mkfs as kt_fs_make does it. */
unsigned int kt_fs_least_mib(const char *type);
int kt_mkfs(const char *type, const char *device);
int kt_fs_mount(struct kt_fs *fs, const char *type, const char *device, const char *options);
/* The same, of a copy: of a file system that may be mounted, or was. */
int kt_fs_mount_copy(struct kt_fs *fs, const char *type, const char *device);
/* btrfs remembers devices, and refuses an older copy of one: not of this, which is unmounted. */
void kt_fs_forget(const char *type, const char *device);

/*
 * A quota for the blocks of KT_QUOTA_USER on ext4 and xfs, of the subvolume KT_QUOTA_SUB, which
 * it makes, on btrfs: make it of the empty file system, mount that with *options, switch it
 * on. limit: not one more block may be had, or as many as there are.
 */
#define KT_QUOTA_USER 4242u
#define KT_QUOTA_SUB  "sub"
int kt_quota_obey(void); /* root, too; before anything is opened: a verbs device is for who opened it */
int kt_quota_make(const char *type, const char *device, const char **options);
int kt_quota_on(const char *type, const char *dir);
int kt_quota_limit(const char *type, const char *device, const char *dir, bool limit);

/*
 * An NFSv4.2 server of a tmpfs and a client of it, once a process. -ENODEV: a kernel
 * without. The first open through the client waits ten seconds for the server.
 */
struct kt_nfs {
	struct kt_fs server, client;
};
int kt_nfs_make(struct kt_nfs *nfs);
void kt_nfs_drop(struct kt_nfs *nfs);

/* A loop device over image: an fd of it. The device is free again when nothing has it open any more. */
int kt_loop(int image, char device[KT_DEVICE_MAX]);

/* Where the blocks of a file are on the device: how many pieces, the first so many of them in extent. */
struct kt_extent {
	uint64_t logical, physical, len; /* bytes */
};
#define KT_EXTENTS 8u /* more are not asked for */
int kt_extents(const char *path, struct kt_extent *extent, uint32_t max);

/* Make dir/name of size bytes, written and synced (no holes), and put its path into path. */
int kt_file(char path[KT_PATH_MAX], const char *dir, const char *name, size_t size);
/* Make dir/filler, which takes all the room that is left. */
int kt_fill_up(const char *dir);

/* Set /proc/sys/fs/lease-break-time; the old value comes back at exit. -EACCES without root. */
int kt_break_time(unsigned int seconds);
/* Set vm.nr_hugepages; the old number comes back at exit. -ENOMEM: the system could not gather so many. */
int kt_hugepages(unsigned int pages);

/*
 * The device-dax character device of a guest with --pmem, made of /dev/pmem1 if there is
 * none yet (it stays), and its size. -ENODEV: there is neither.
 */
int kt_devdax(char path[KT_PATH_MAX], uint64_t *size);
/* Are the 2 MiB at this address mapped by one page table entry? 1, 0; -ENOTTY: not told, before 6.7. */
#define KT_HUGE (2u << 20)
int kt_huge_at(const void *at);

/* Leases and signals of the calling thread */

/* Block signo and direct the lease's breaks at this thread: F_SETSIG, F_SETOWN_EX(TID), F_SETLEASE. */
int kt_lease_take(int fd, int type, int signo);
int kt_lease_get(int fd);			     /* F_RDLCK, F_WRLCK, F_UNLCK or -errno */
int kt_lease_drop(int fd);			     /* F_SETLEASE F_UNLCK: 0 or -errno */
int kt_sig_block(int signo);			     /* in this thread */
int kt_sig_wait(int signo, int ms, siginfo_t *info); /* 1 came (info may be NULL), 0 did not */

/*
 * Helper processes. fn runs in a fresh process with a copy of arg; what it returns
 * (>= 0 or -errno) and how long it took are in the slot. After that the process
 * waits for kt_call_end, so what fn opened stays open till then.
 */
struct kt_call {
	pid_t pid;
	int ret;			    /* what fn returned, once done */
	uint64_t start_ns, end_ns;	    /* around fn */
	int status;			    /* wait status, once it has exited */
	sem_t started, done, leave, exited; /* the rest is kt.c's */
	int state;
};

struct kt_call *kt_call_start(int (*fn)(const void *arg), const void *arg, size_t len);
struct kt_call *kt_open(const char *path, int flags); /* ret: the fd, kept open until kt_call_end */
struct kt_call *kt_truncate(const char *path, off_t size);

/* 1: asleep inside fn, and fn has run for ms; 0: it has returned, or the process is gone. */
int kt_call_blocked(struct kt_call *call, unsigned int ms);
int kt_call_done(struct kt_call *call, unsigned int ms);   /* 1: fn returned within ms */
uint64_t kt_call_ns(const struct kt_call *call);	   /* how long fn took, once done */
int kt_call_exited(struct kt_call *call, unsigned int ms); /* 1: the process is gone, status is set */
void kt_call_kill(struct kt_call *call);		   /* SIGKILL and wait; the slot stays readable */
/* Let it go, kill it if fn has not returned; free the slot. */
void kt_call_end(struct kt_call *call);

/* The common case: start, wait at most ms, end. fn's return value, or -ETIMEDOUT (killed). */
int kt_open_now(const char *path, int flags, unsigned int ms);
int kt_truncate_now(const char *path, off_t size, unsigned int ms);

/*
 * A process that holds a lease: opens path, maps it (map bytes, 0 for no mapping) and
 * answers breaks in sigtimedwait.
 */
#define KT_NEVER (-1)

struct kt_hold_opts {
	char path[KT_PATH_MAX];
	int flags;     /* of open() */
	int type;      /* F_RDLCK, F_WRLCK */
	size_t map;    /* bytes mapped MAP_SHARED, writable when flags say O_RDWR */
	int answer_ms; /* F_UNLCK this long after the signal, or KT_NEVER */
	bool close_fd; /* close the fd once mapped */
};

struct kt_holder {
	struct kt_call *call;
	sem_t ready;
	int ret;		     /* of the take */
	volatile uint32_t breaks;    /* signals seen */
	volatile int target;	     /* F_GETLEASE right after the last signal */
	volatile int unlock_ret;     /* of the last F_UNLCK: 0 or -errno */
	volatile uint64_t let_go_ns; /* stamped before that F_UNLCK */
};

struct kt_holder *kt_hold(const struct kt_hold_opts *opts); /* NULL, or ready: check ->ret */
void kt_hold_kill(struct kt_holder *holder);		    /* SIGKILL, wait till it is gone */
void kt_hold_end(struct kt_holder *holder);		    /* kill and free */

#endif
