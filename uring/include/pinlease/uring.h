/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libpinlease-uring: leases whose memory io_uring reaches as fixed buffers.
 *
 * A fixed buffer is a long-term pin of its pages, like a memory region of an RDMA
 * device, but every machine can make one. pinlease_uring_backend() makes it the
 * registration of a lease: acquire registers a buffer in the ring's table, a break
 * drains the requests on it, cancels those that do not end by the deadline, reaps
 * every completion and only then takes the buffer out of the table. Completions
 * that are reaped meanwhile are kept for the application.
 *
 * The fence runs while the application uses the ring, so the library owns both: one
 * thread of its own gives requests to the kernel and takes the completions. This
 * is also why a request outlives the thread that asked for it (io_uring cancels
 * the requests of a thread that exits), why no thread of the application has to run
 * for a fence, and why a break of idle requests drains though nobody calls
 * pinlease_uring_next. Begin and end of the account are called for each request;
 * the application does not call pinlease_dma_begin itself.
 *
 *	pinlease_uring_new(64, 8, &ring);
 *	struct pinlease_opts opts = { .size = sizeof(opts), .backend = pinlease_uring_backend(),
 *				      .backend_arg = ring };
 *	pinlease_acquire(file, 0, len, &opts, &why, &lease);
 *	pinlease_uring_read(ring, lease, 0, 4096, sock, 0, 1);
 *	pinlease_uring_next(ring, &done, -1);
 *
 * The conventions are those of <pinlease.h>: 0 or a positive answer, or -errno;
 * outputs untouched on failure; any thread; none is async-signal-safe; -ECHILD in
 * a forked child, where free only frees memory.
 */
#ifndef PINLEASE_URING_H
#define PINLEASE_URING_H

#include <pinlease/backend.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pinlease_uring;

#define PINLEASE_URING_MAX_ENTRIES 4096u
#define PINLEASE_URING_MAX_BUFFERS 16384u

struct pinlease_uring_completion {
	size_t size;
	struct pinlease *lease;		/* only to compare, once the lease was released */
	uint64_t user_data;
	uint32_t gen;			/* the generation that the request belonged to */
	int32_t res;			/* bytes, fewer than asked for at an end of file or of what a
					 * pipe holds; or -errno. -ECANCELED: cut off by a fence or by
					 * pinlease_uring_cancel; part of the data may have been moved */
};

struct pinlease_uring_info {		/* for people and tests: consistent, but old when you read it */
	size_t size;
	uint32_t entries, buffers;	/* as given to pinlease_uring_new */
	uint32_t in_flight;		/* requests accepted and not completed */
	uint32_t kept;			/* completions not yet taken */
	uint32_t registered;		/* buffers of leases */
	uint32_t retiring;		/* buffers out of the table whose pages the kernel has not given back
					 * yet, see pinlease_uring_backend */
};

/*
 * A ring for at most entries requests (1..PINLEASE_URING_MAX_ENTRIES), counted from
 * their submission until their completion is taken, and a table of buffers fixed
 * buffers (1..PINLEASE_URING_MAX_BUFFERS), one for each lease that is registered.
 * Makes one thread, all signals blocked in it, and three fds (close-on-exec).
 * -EINVAL, -ENOMEM (also RLIMIT_MEMLOCK: new kernels count the ring), -EAGAIN
 * (thread), -EMFILE: out of fds, or more buffers than RLIMIT_NOFILE; -EPERM, -ENOSYS:
 * io_uring is forbidden or missing here; -EOPNOTSUPP: the kernel is older than 5.19.
 * Does not block.
 */
int pinlease_uring_new(uint32_t entries, uint32_t buffers, struct pinlease_uring **ring);

/*
 * Stops the thread, closes the ring, drops completions not taken. -EBUSY while a
 * lease has a buffer in it: release the leases first. Nobody else may be in a call
 * on the ring. Waits for the thread only.
 */
int pinlease_uring_free(struct pinlease_uring *ring);

/*
 * What goes into pinlease_opts.backend, with the ring as backend_arg. The ring must
 * outlive the lease. NULL never; static.
 *
 * Modes: pinned, where the kernel makes a long-term write pin (tmpfs, memfd,
 * hugetlbfs; read access is never pinned, since io_uring pins for writing only), and
 * staged everywhere else; odp never. pin: at most 1 GiB, -EFBIG; -ENOBUFS: the table is
 * full; -ENOMEM: also RLIMIT_MEMLOCK (nothing is charged to CAP_IPC_LOCK);
 * -EFAULT, -EOPNOTSUPP: such pages cannot be pinned for writing. lkey and rkey of the view are
 * the index in the table. unpin answers -EBUSY when a request could not be
 * cancelled within one second (a disk that does not answer), and is called again.
 *
 * A ring outlives its killed process until its last request is over, and an I/O of a
 * slow disk writes into the memory until then; so in mode pinned it holds the file's
 * anchor, and the opener waits as long, or for the ring's own end (some 30 ms). With
 * F_NO_ANCHOR it does not wait, and such a write comes late.
 *
 * When unpin has returned 0 every request on the buffer has completed, so nothing
 * reaches the memory. The pages are given back at once since Linux 6.13; before,
 * requests on other buffers that were started earlier hold them back, and 6.1 takes
 * up to a second more. The slot is not used again until the kernel said so; where such
 * kernels are meant, twice as many buffers as leases let a restore go on at once.
 */
const struct pinlease_backend *pinlease_uring_backend(void);

/*
 * Read len bytes from fd at fd_off into the lease at off (IORING_OP_READ_FIXED), or
 * write them from there to fd (IORING_OP_WRITE_FIXED). off is relative to the lease;
 * fd_off UINT64_MAX: fd's own position; pipes and sockets take any. fd must stay open
 * until the completion. user_data comes back in it. In a lease with L_DIRTY_TOLD a
 * read marks its range. Do not block.
 * 0: there will be a completion. -EINVAL: len 0, a negative fd, or a lease that is
 * not registered in this ring; -ERANGE: beyond the lease's current length; -EACCES:
 * a read into a lease for reading; -EAGAIN: a break is being answered; -ESTALE: the
 * lease is LOST; -EBUSY: all entries are out, take completions first; -ENOMEM. What
 * the kernel has against the request comes as res of its completion.
 */
int pinlease_uring_read(struct pinlease_uring *ring, struct pinlease *lease, uint64_t off, uint32_t len,
			int fd, uint64_t fd_off, uint64_t user_data);
int pinlease_uring_write(struct pinlease_uring *ring, struct pinlease *lease, uint64_t off, uint32_t len,
			 int fd, uint64_t fd_off, uint64_t user_data);

/*
 * Cancel every request on the lease that is in flight: what an application does at
 * BREAK with reads that nobody may ever answer, so that the drain does not wait for
 * its deadline. Each still completes, mostly with -ECANCELED. Number of requests asked
 * to stop, or -EINVAL. Does not block.
 */
int pinlease_uring_cancel(struct pinlease_uring *ring, struct pinlease *lease);

/*
 * The oldest completion not yet taken: 1 and *completion, or 0 when timeout_ms
 * milliseconds passed without one (0: do not wait; negative: no limit). Set
 * completion->size. -EINVAL. Waits for completions only, not interrupted
 * by signals. The request has left its lease's account by then.
 */
int pinlease_uring_next(struct pinlease_uring *ring, struct pinlease_uring_completion *completion,
			int timeout_ms);

/* For poll, epoll, select: readable while there are completions to take. The ring's own: do not read it. */
int pinlease_uring_fd(const struct pinlease_uring *ring);

/* Set info->size. -EINVAL. Does not block. */
int pinlease_uring_info(struct pinlease_uring *ring, struct pinlease_uring_info *info);

#ifdef __cplusplus
}
#endif
#endif
