/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The ring's thread: gives queued requests and cancels to the kernel, takes the
 * completions, ends the operations in the account. It must not depend on the
 * application to run, since the fence waits for it; the application's share, taking
 * the completions, comes after.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

uint64_t plu_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

bool plu_wait(struct pinlease_uring *ring, pthread_cond_t *cond, uint64_t until_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(until_ns / 1000000000u),
			       .tv_nsec = (long)(until_ns % 1000000000u) };

	return pthread_cond_timedwait(cond, &ring->lock, &ts) != ETIMEDOUT;
}

void plu_list_add(struct plu_list *list, struct plu_request *request)
{
	request->next = NULL;
	request->prev = list->tail;
	if (list->tail)
		list->tail->next = request;
	else
		list->head = request;
	list->tail = request;
	list->count++;
}

void plu_list_del(struct plu_list *list, struct plu_request *request)
{
	if (request->prev)
		request->prev->next = request->next;
	else
		list->head = request->next;
	if (request->next)
		request->next->prev = request->prev;
	else
		list->tail = request->prev;
	list->count--;
}

void plu_wake(struct pinlease_uring *ring)
{
	uint64_t one = 1;

	if (ring->woken)
		return;
	/* The counter is far from full: a write cannot fail. */
	ring->woken = write(ring->wake_fd, &one, sizeof(one)) == sizeof(one);
}

void plu_complete(struct pinlease_uring *ring, struct plu_request *request)
{
	uint64_t one = 1;

	plu_list_add(&ring->done, request);
	if (ring->done.count == 1 && write(ring->event_fd, &one, sizeof(one)) < 0)
		return; /* only when it is readable already */
	pthread_cond_signal(&ring->completed);
}

/* Of a running request. It may be issued just now, and escape: the thread asks again until it has ended. */
void plu_ask_cancel(struct pinlease_uring *ring, struct plu_request *request)
{
	if (request->cancel)
		return;
	request->cancel = true;
	request->asked = false;
	ring->cancelling++;
	plu_wake(ring);
}

static void put_wake(struct pinlease_uring *ring, struct io_uring_sqe *sqe)
{
	io_uring_prep_read(sqe, ring->wake_fd, &ring->wake_count, sizeof(ring->wake_count), 0);
	io_uring_sqe_set_data64(sqe, plu_tag(PLU_WAKE, 0));
}

static void put_request(struct pinlease_uring *ring, struct io_uring_sqe *sqe, struct plu_request *request)
{
	io_uring_prep_rw(request->op, sqe, request->fd, request->addr, request->len, request->fd_off);
	sqe->buf_index = (__u16)request->buffer;
	io_uring_sqe_set_data64(sqe, plu_tag(PLU_REQUEST, plu_index(ring, request)));
}

/* What does not fit into the submission queue now is given when the thread comes round again. */
static void put_queue(struct pinlease_uring *ring)
{
	while (ring->queue.head) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->io);
		struct plu_request *request = ring->queue.head;

		if (!sqe)
			return;
		plu_list_del(&ring->queue, request);
		plu_list_add(&ring->running, request);
		put_request(ring, sqe, request);
	}
}

static void put_cancels(struct pinlease_uring *ring)
{
	for (struct plu_request *request = ring->running.head; request; request = request->next) {
		struct io_uring_sqe *sqe;

		if (!request->cancel || request->asked)
			continue;
		sqe = io_uring_get_sqe(&ring->io);
		if (!sqe)
			return;
		request->asked = true;
		io_uring_prep_cancel64(sqe, plu_tag(PLU_REQUEST, plu_index(ring, request)), 0);
		io_uring_sqe_set_data64(sqe, plu_tag(PLU_CANCEL, 0));
	}
}

/* Cancels that found a request between two places it could be found in are tried again after a while. */
static void ask_again(struct pinlease_uring *ring)
{
	uint64_t now = plu_now();

	if (!ring->cancelling || now - ring->asked_ns < PLU_RECANCEL_MS * 1000000ull)
		return;
	ring->asked_ns = now;
	for (struct plu_request *request = ring->running.head; request; request = request->next)
		request->asked = false;
}

static void take_request(struct pinlease_uring *ring, uint32_t index, int res, struct plu_list *ended)
{
	struct plu_request *request = &ring->requests[index];

	plu_list_del(&ring->running, request);
	if (request->cancel)
		ring->cancelling--;
	request->res = res;
	plu_list_add(ended, request);
}

static void take_unpinned(struct pinlease_uring *ring, uint32_t index)
{
	ring->table[index].state = PLU_FREE;
	pthread_cond_broadcast(&ring->changed);
}

/* Takes what has completed; true when the wake-up was among it and has to be armed again. */
static bool take_completions(struct pinlease_uring *ring, struct plu_list *ended)
{
	struct io_uring_cqe *cqe;
	bool woken = false;

	while (io_uring_peek_cqe(&ring->io, &cqe) == 0) {
		uint32_t index = (uint32_t)cqe->user_data;

		switch (cqe->user_data >> 32) {
		case PLU_REQUEST:
			take_request(ring, index, cqe->res, ended);
			break;
		case PLU_UNPINNED:
			take_unpinned(ring, index);
			break;
		case PLU_WAKE:
			woken = true;
			break;
		}
		io_uring_cqe_seen(&ring->io, cqe);
	}
	return woken;
}

/*
 * The lease is there still: unpin waits for in_flight, which falls after the end was
 * told. The account is told without the lock, because dma_end may take the file's.
 */
void plu_end(struct pinlease_uring *ring, struct plu_list *ended)
{
	for (struct plu_request *request = ended->head; request; request = request->next)
		pinlease_dma_end(request->lease, 1, request->gen);
	pthread_mutex_lock(&ring->lock);
	while (ended->head) {
		struct plu_request *request = ended->head;

		plu_list_del(ended, request);
		if (--ring->table[request->buffer].in_flight == 0)
			pthread_cond_broadcast(&ring->changed);
		plu_complete(ring, request);
	}
	pthread_mutex_unlock(&ring->lock);
}

/*
 * Submits and waits for a completion. Whatever the kernel answers (EINTR; EAGAIN, ENOMEM,
 * EBUSY under memory pressure), entries that it did not consume stay in the queue, so the
 * next round offers them again.
 */
static void enter_kernel(struct pinlease_uring *ring, bool cancelling)
{
	struct __kernel_timespec soon = { .tv_nsec = PLU_RECANCEL_MS * 1000000L };
	struct io_uring_cqe *cqe;
	int ret;

	if (cancelling)
		ret = io_uring_submit_and_wait_timeout(&ring->io, &cqe, 1, &soon, NULL);
	else
		ret = io_uring_submit_and_wait(&ring->io, 1);
	if (ret < 0 && ret != -ETIME && ret != -EINTR)
		usleep(1000);
}

/* Fills the submission queue; true when there are requests to be cancelled. */
static bool prepare(struct pinlease_uring *ring, bool *armed)
{
	struct io_uring_sqe *sqe = *armed || ring->stop ? NULL : io_uring_get_sqe(&ring->io);

	if (sqe) {
		put_wake(ring, sqe);
		*armed = true;
	}
	ring->woken = false;
	put_queue(ring);
	ask_again(ring);
	put_cancels(ring);
	return ring->cancelling > 0;
}

/* It ends with the wake-up's read completed, not armed: that one writes into the ring. */
void *plu_thread(void *arg)
{
	struct pinlease_uring *ring = arg;
	bool armed = false;

	pthread_mutex_lock(&ring->lock);
	while (!ring->stop || armed) {
		struct plu_list ended = { NULL, NULL, 0 };
		bool cancelling = prepare(ring, &armed);

		pthread_mutex_unlock(&ring->lock);
		enter_kernel(ring, cancelling);
		pthread_mutex_lock(&ring->lock);
		if (take_completions(ring, &ended))
			armed = false;
		pthread_mutex_unlock(&ring->lock);
		plu_end(ring, &ended);
		pthread_mutex_lock(&ring->lock);
	}
	pthread_mutex_unlock(&ring->lock);
	return NULL;
}
