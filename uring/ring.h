/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ring, its requests and its table of buffers.
 *
 *	           read, write              thread               thread
 *	free list ────────────▶ queue ────────────▶ running ────────────▶ done ──▶ free list
 *	                          │  unpin, cancel                          ▲   next
 *	                          └─────────────────────────────────────────┘
 *
 * Only the ring's thread touches the two queues shared with the kernel, so nothing
 * of liburing needs a lock; the table is changed by io_uring_register(2), which
 * any thread may call. All else is under ring->lock, which is a leaf: it is never
 * held over a pinlease call, a system call that may wait, or another lock.
 *
 * Requests are made with the ring and completions are kept in them, so neither a
 * submission nor a fence allocates, and the completion queue cannot overflow.
 */
#ifndef PLU_RING_H
#define PLU_RING_H

#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <pinlease/uring.h>

#define PLU_API __attribute__((visibility("default"))) /* what leaves the library, with the symbol map */

#define PLU_FENCE_MS	1000	/* unpin gives up waiting for requests it cancelled, and is called again */
#define PLU_RECANCEL_MS 10	/* a request on its way from poll to issue escapes a cancel: ask again */
#define PLU_UNPIN_MS	10	/* unpin waits for the pages to be given back: at once since 6.13 */
#define PLU_RETIRE_MS	3000	/* pin waits for slots and locked memory that 6.1 gives back late */

struct plu_request {
	struct plu_request *prev, *next; /* in one of the ring's lists */
	struct pinlease *lease;
	uint64_t user_data, fd_off;
	void *addr;
	uint32_t len, gen, buffer;
	int fd, res;
	uint8_t op;		/* IORING_OP_* */
	bool cancel;		/* is to stop */
	bool asked;		/* the kernel has been told so, in this round of cancels */
};

struct plu_list {
	struct plu_request *head, *tail;
	uint32_t count;
};

enum plu_slot_state {
	PLU_FREE,
	PLU_PINNING,
	PLU_OPEN,		/* requests are accepted */
	PLU_FENCING,		/* no new ones; those in flight are cancelled */
	PLU_RETIRING,		/* out of the table; the kernel has not said that it is unpinned */
};

struct plu_buffer {
	enum plu_slot_state state;
	uint32_t gen, access;
	uint32_t in_flight;	/* requests that hold it: queued, running, or not yet ended at the lease */
	void *addr;
	uint64_t len;
	struct pinlease *lease;	/* once its first request of this generation has asked for the index */
};

#define PLU_HINTS 64

struct pinlease_uring {
	struct pinlease_uring *prev, *next; /* all rings, for the fork handler */
	pthread_mutex_t lock;
	pthread_cond_t completed;	/* done is not empty */
	pthread_cond_t changed;		/* a buffer's in_flight became 0, or its state changed */
	struct io_uring io;		/* the thread's; its fd is anybody's */
	pthread_t thread;
	uint32_t entries, buffers;	/* constant */
	struct plu_request *requests;
	struct plu_buffer *table;
	struct plu_list free, queue, running, done;
	uint16_t hints[PLU_HINTS];	/* slots by hash of their lease; asked, then checked */
	uint32_t cancelling;		/* running requests with cancel set */
	uint64_t asked_ns;		/* when they were last all asked to stop */
	int event_fd;			/* readable while done is not empty */
	int wake_fd;			/* wakes the thread; the thread has a read on it */
	uint64_t wake_count;		/* what that read writes */
	bool woken, stop;
	bool forked;			/* this is a child's copy: only memory is left */
};

/* What a completion's user_data means: kind in the upper half, index in the lower. */
enum plu_kind { PLU_REQUEST = 1, PLU_CANCEL, PLU_WAKE, PLU_UNPINNED };

static inline uint64_t plu_tag(enum plu_kind kind, uint32_t index)
{
	return (uint64_t)kind << 32 | index;
}

static inline uint32_t plu_index(const struct pinlease_uring *ring, const struct plu_request *request)
{
	return (uint32_t)(request - ring->requests);
}

void plu_list_add(struct plu_list *list, struct plu_request *request);
void plu_list_del(struct plu_list *list, struct plu_request *request);

/* With ring->lock held. */
void plu_wake(struct pinlease_uring *ring);
void plu_complete(struct pinlease_uring *ring, struct plu_request *request);
void plu_ask_cancel(struct pinlease_uring *ring, struct plu_request *request);
/* Waits on cond until CLOCK_MONOTONIC says until_ns; false when that is over. */
bool plu_wait(struct pinlease_uring *ring, pthread_cond_t *cond, uint64_t until_ns);

uint64_t plu_now(void);
void *plu_thread(void *arg);
/* Tells the leases that these requests ended, then puts them to done. Without ring->lock. */
void plu_end(struct pinlease_uring *ring, struct plu_list *ended);

#endif
