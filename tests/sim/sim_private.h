/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of the simulation share. Everything is under sim.lock, a leaf of all locks of the library.
 */
#ifndef PL_SIM_PRIVATE_H
#define PL_SIM_PRIVATE_H

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>

#include "list.h"
#include "sim.h"
#include "sys.h"
#include "util.h"
#include "verbs.h"

#define SIM_FDS	    4096
#define SIM_SIGNALS 4096 /* at most queued on one thread */

struct sim_signals {
	siginfo_t queue[SIM_SIGNALS];
	unsigned int head, count;
};

struct sim_thread {
	struct pl_list link;
	pthread_t pthread;
	pid_t tid;
	void *(*fn)(void *arg);
	void *arg;
	bool ours; /* a test's, not the library's */
	bool exited, waiting, awake, settling;
	bool late;	       /* woken while stopped */
	const void *on;	       /* what it waits for */
	uint64_t until, since; /* since: a number of the wait, for first come, first served */
	pthread_cond_t cv;
	struct sim_signals *signals;
	int alarm_signo;
};

enum sim_fd_kind { SIM_FD_FREE, SIM_FD_FILE, SIM_FD_EVENT, SIM_FD_ANCHOR };

struct sim_inode {
	struct pl_list link;
	uint64_t dev, ino;
	char path[PATH_MAX];
	struct pl_list ofds, openers; /* openers: those that are blocked */
	char *durable;		      /* persistent memory: what a power cut would leave (sim_pmem.c) */
	size_t durable_size;
};

/* An open file description. The library's and the test's own; openers have one each, too. */
struct sim_ofd {
	struct pl_list link; /* inode->ofds */
	struct sim_inode *inode;
	int flags;	   /* of open() */
	unsigned int refs; /* descriptors, mappings, anchors, an opener */
	int lease;	   /* F_UNLCK: none */
	bool unlock_pending, downgrade_pending;
	uint64_t break_due, downgrade_due; /* SIM_NEVER: no limit */
	int told_fd, signo;
	pid_t owner;
	bool armed_once;     /* the guard is not optional on this one */
	bool downgraded;     /* a reader's break expired: the reader is in */
	bool expired_unlock; /* a writer's did, and nobody has been told yet */
	bool foreign;	     /* an opener's */
};

struct sim_map {
	struct pl_list link; /* by address */
	uintptr_t start, end;
	uint64_t off;
	int prot;
	struct sim_ofd *ofd; /* NULL: anonymous */
};

struct sim_mr {
	struct ibv_mr mr;
	struct pl_list link;
	uint64_t iova;
	uint32_t access;
	bool live;
};

/*
 * Who looks on: the explorer (explore/). All are called locked but step, and any may be NULL.
 * step: a call of the library's is about to be made. wrote: these bytes of the file are newer than
 * the disk's. synced: an fdatasync begins, or (done) has ended with r. let_go: a lease is, by the
 * holder, and nobody has gone on yet. landed: a write of the peer's has.
 */
struct sim_watcher {
	void (*step)(const char *call);
	void (*wrote)(struct sim_inode *inode, uint64_t off, uint64_t len);
	void (*synced)(struct sim_inode *inode, bool done, int r);
	void (*let_go)(struct sim_ofd *ofd);
	void (*landed)(struct sim_dma *dma);
	bool (*violated)(const char *rule, const char *text); /* true: it is none, here */
};

/* How many there are of everything that must be as before at the end. */
struct sim_counts {
	long fds, ofds, maps, mrs, leases, threads, allocs, qps, cqs;
	long mapped, allocated; /* bytes */
};

struct sim_kernel {
	pthread_mutex_t lock;
	/* sim_clock.c */
	uint64_t now, started, waits;
	unsigned int running;
	struct pl_list threads;
	pid_t next_tid;
	struct sim_thread *stopped; /* the process is, all but this thread */
	/* sim_file.c */
	struct sim_ofd *fd_ofd[SIM_FDS];
	enum sim_fd_kind fd_kind[SIM_FDS];
	struct pl_list inodes, maps;
	uint32_t fs_magic;
	enum sim_dax dax;
	bool hole;
	uint64_t disk_rate, disk_cache, disk_dirty, disk_busy, written;
	uint64_t memlock;
	/* sim_lease.c */
	unsigned int break_time_s, breaks;
	struct pl_list openers; /* all */
	pid_t next_pid;
	/* sim_signal.c */
	unsigned int signal_room, signals_pending, signals_lost;
	struct sim_signals process;
	/* sim_notice.c: of the ctx that was made last */
	int notify_fd, notify_signo;
	pid_t notify_owner;
	/* sim_verbs.c */
	struct pl_list mrs, devices;
	struct sim_dma *dma;
	uint32_t next_key;
	bool dereg_lies;
	unsigned int dma_late;
	/* sim_judge.c */
	const char *expect;
	unsigned int violations;
	struct sim_counts counts, base;
	const struct sim_watcher *watcher; /* NULL: nobody */
	bool forked;			   /* this process is a child of the simulated one */
};

extern struct sim_kernel sim;
extern __thread struct sim_thread *sim_self;

int __real_pthread_cond_signal(pthread_cond_t *cond);

static inline void sim_lock(void)
{
	pthread_mutex_lock(&sim.lock);
}

static inline void sim_unlock(void)
{
	pthread_mutex_unlock(&sim.lock);
}

/* All that follows is called locked, unless it says otherwise. */

/* sim_clock.c, or the explorer's time.c */
int sim_wait(const void *on, uint64_t until); /* 0 woken, -ETIMEDOUT; drops the lock meanwhile */
void sim_attach_main(void); /* not locked */
void sim_clock_reset(void);
void sim_thread_awake(struct sim_thread *t);
bool sim_thread_stopped(const struct sim_thread *t); /* it will not run, whatever wakes it */

/* sim_thread.c */
void sim_wake(const void *on, bool all);
struct sim_thread *sim_thread_find(pid_t tid);
uint64_t sim_thread_next(void); /* when the next thing is due: of a thread, an opener, the device */

/* sim_fault.c: not locked. 0, or the error to answer with. */
int sim_enter(const char *call, unsigned int classes);
void sim_fault_reset(void);

/* sim_file.c */
struct sim_inode *sim_inode_get(uint64_t dev, uint64_t ino);
struct sim_inode *sim_inode_of(const char *path);
struct sim_ofd *sim_ofd_new(struct sim_inode *inode, int flags);
void sim_ofd_put(struct sim_ofd *ofd);
struct sim_ofd *sim_ofd_of(int fd); /* NULL: no such descriptor */
void sim_fd_set(int fd, enum sim_fd_kind kind, struct sim_ofd *ofd);
void sim_file_reset(void); /* not locked */
void sim_dir(char *buf, size_t cap); /* not locked: where the files are */

/* sim_disk.c */
void sim_disk_wait(bool all); /* not locked */
void sim_wrote(struct sim_inode *inode, uint64_t off, uint64_t len);

/* sim_map.c */
struct sim_map *sim_map_at(uintptr_t addr);

/* sim_pmem.c */
void sim_pmem_synced(struct sim_inode *inode); /* by msync or fdatasync */
int sim_enter_file(const char *call, unsigned int classes, int refused); /* not locked; by a device-dax */

/* sim_lease.c */
void sim_inode_time_out(struct sim_inode *inode);
void sim_inode_wake(struct sim_inode *inode); /* a lease changed: openers look again */
void sim_ofd_drop_lease(struct sim_ofd *ofd);
void sim_lease_reset(void); /* not locked */

/* sim_opener.c */
bool sim_break_lease(struct sim_inode *inode, bool writer, pid_t pid); /* true: has to wait */
void sim_opener_look(struct sim_inode *inode);
uint64_t sim_opener_next(void);
void sim_opener_fire(void); /* what has become due */
void sim_opener_reset(void);
int sim_opener_fd_flags(pid_t pid);			       /* -1: no such process */
int sim_opener_each(int (*fn)(void *arg, int pid), void *arg); /* not locked */
struct sim_ofd *sim_opener_ofd(pid_t pid);

/* sim_signal.c */
void sim_signal_lease(struct sim_ofd *ofd);
void sim_signal_send(struct sim_thread *t, int signo, int fd); /* as the kernel does when fd has something */
void sim_signal_reset(void);

/* sim_verbs.c */
uint64_t sim_dma_next(void);
void sim_dma_fire(void);
void sim_verbs_reset(void); /* not locked */

/* sim_judge.c */
__attribute__((format(printf, 2, 3))) void sim_violate(const char *rule, const char *fmt, ...);
void sim_judge_let_go(struct sim_ofd *ofd);
void sim_judge_taken(struct sim_ofd *ofd);
void sim_judge_write(struct sim_ofd *ofd, const char *what);
void sim_judge_wrote(struct sim_ofd *ofd);
void sim_judge_fd(int fd, const char *what); /* the same, not locked */
void sim_judge_layout(struct sim_ofd *ofd, uint64_t from, uint64_t end);
void sim_judge_register(const struct sim_mr *mr);
void sim_judge_unmap(uintptr_t start, uintptr_t end);
void sim_judge_dma(const struct sim_map *map);
void sim_judge_reset(void);

#endif
