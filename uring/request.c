/* SPDX-License-Identifier: BSD-3-Clause */
/* What the application does: submits requests on a lease's memory and takes their completions. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "ring.h"

static uint16_t *hint_of(struct pinlease_uring *ring, const struct pinlease *lease)
{
	return &ring->hints[((uintptr_t)lease >> 6) % PLU_HINTS];
}

/* A pointer and a generation may both come again in another lease, but not in a slot that was not asked for
 * since. */
static struct plu_buffer *find_slot(struct pinlease_uring *ring, const struct plu_request *want)
{
	struct plu_buffer *slot = &ring->table[*hint_of(ring, want->lease)];

	return slot->lease == want->lease && slot->gen == want->gen ? slot : NULL;
}

/* What view says, unless it is a lease of another ring, or no longer of this generation. */
static int learn_slot(struct pinlease_uring *ring, const struct pinlease_view *view,
		      const struct plu_request *want)
{
	struct plu_buffer *slot;

	if (view->gen != want->gen)
		return -EAGAIN;
	if (view->lkey >= ring->buffers)
		return -EINVAL;
	slot = &ring->table[view->lkey];
	if (slot->state == PLU_FENCING)
		return -EAGAIN;
	if (slot->state != PLU_OPEN || slot->addr != view->addr || slot->gen != view->gen)
		return -EINVAL;
	slot->lease = want->lease;
	*hint_of(ring, want->lease) = (uint16_t)view->lkey;
	return 0;
}

/* A slot that is being fenced takes nothing more, whatever the account still says. */
static int check_request(const struct pinlease_uring *ring, const struct plu_buffer *slot,
			 const struct plu_request *want, uint64_t off)
{
	if (slot->state != PLU_OPEN)
		return -EAGAIN;
	if (off > slot->len || want->len > slot->len - off)
		return -ERANGE;
	if (want->op == IORING_OP_READ_FIXED && slot->access != PINLEASE_WRITE)
		return -EACCES;
	return ring->free.head ? 0 : -EBUSY;
}

/* With ring->lock held. -ENOENT: the slot is not known, the lease has to be asked. */
static int enqueue(struct pinlease_uring *ring, const struct plu_request *want, uint64_t off)
{
	struct plu_buffer *slot = find_slot(ring, want);
	struct plu_request *request;
	int ret = slot ? check_request(ring, slot, want, off) : -ENOENT;

	if (ret)
		return ret;
	request = ring->free.head;
	plu_list_del(&ring->free, request);
	*request = *want;
	request->buffer = (uint32_t)(slot - ring->table);
	request->addr = (char *)slot->addr + off;
	slot->in_flight++;
	plu_list_add(&ring->queue, request);
	plu_wake(ring);
	return 0;
}

/*
 * Once a generation the lease is asked for its index in the table. Not for each request:
 * reading a view takes the lock that the answer to a break needs.
 */
static int place(struct pinlease_uring *ring, const struct plu_request *want, uint64_t off)
{
	struct pinlease_view view = { .size = sizeof(view) };
	int ret;

	pthread_mutex_lock(&ring->lock);
	ret = enqueue(ring, want, off);
	pthread_mutex_unlock(&ring->lock);
	if (ret != -ENOENT)
		return ret;
	ret = pinlease_view_get(want->lease, 0, &view);
	if (ret)
		return ret;
	pthread_mutex_lock(&ring->lock);
	ret = learn_slot(ring, &view, want);
	if (!ret)
		ret = enqueue(ring, want, off);
	pthread_mutex_unlock(&ring->lock);
	return ret;
}

/*
 * The operation is in the account before the slot is looked for, so that the slot stays
 * this lease's, and until its completion is taken from the kernel.
 */
static int submit(struct pinlease_uring *ring, const struct plu_request *want, uint64_t off)
{
	struct plu_request request = *want;
	int ret;

	if (!ring || !want->lease || !want->len || want->fd < 0)
		return -EINVAL;
	if (ring->forked)
		return -ECHILD;
	ret = pinlease_dma_begin(want->lease, 1, &request.gen);
	if (ret)
		return ret;
	/* -EINVAL: not a lease with DIRTY_TOLD. */
	if (want->op == IORING_OP_READ_FIXED)
		ret = pinlease_mark_dirty(want->lease, off, want->len);
	if (ret != -ERANGE)
		ret = place(ring, &request, off);
	if (ret)
		pinlease_dma_end(want->lease, 1, request.gen);
	return ret;
}

PLU_API int pinlease_uring_read(struct pinlease_uring *ring, struct pinlease *lease, uint64_t off,
				uint32_t len, int fd, uint64_t fd_off, uint64_t user_data)
{
	struct plu_request want = { .lease = lease,
				    .len = len,
				    .fd = fd,
				    .fd_off = fd_off,
				    .user_data = user_data,
				    .op = IORING_OP_READ_FIXED };

	return submit(ring, &want, off);
}

PLU_API int pinlease_uring_write(struct pinlease_uring *ring, struct pinlease *lease, uint64_t off,
				 uint32_t len, int fd, uint64_t fd_off, uint64_t user_data)
{
	struct plu_request want = { .lease = lease,
				    .len = len,
				    .fd = fd,
				    .fd_off = fd_off,
				    .user_data = user_data,
				    .op = IORING_OP_WRITE_FIXED };

	return submit(ring, &want, off);
}

PLU_API int pinlease_uring_cancel(struct pinlease_uring *ring, struct pinlease *lease)
{
	struct plu_list ended = { NULL, NULL, 0 };
	struct plu_request *request, *next;
	int count = 0;

	if (!ring || !lease)
		return -EINVAL;
	if (ring->forked)
		return -ECHILD;
	pthread_mutex_lock(&ring->lock);
	for (request = ring->queue.head; request; request = next) {
		next = request->next;
		if (request->lease != lease)
			continue;
		plu_list_del(&ring->queue, request);
		request->res = -ECANCELED;
		plu_list_add(&ended, request);
		count++;
	}
	for (request = ring->running.head; request; request = request->next) {
		if (request->lease != lease)
			continue;
		plu_ask_cancel(ring, request);
		count++;
	}
	pthread_mutex_unlock(&ring->lock);
	plu_end(ring, &ended);
	return count;
}

/* As everywhere in libpinlease: what we know is filled, what we do not know is cleared. */
static int check_size(size_t size, size_t known)
{
	return size < known || size > 4096 ? -EINVAL : 0;
}

static void clear_tail(void *out, size_t size, size_t known)
{
	memset((char *)out + known, 0, size - known);
}

/* The application's fd says exactly whether done holds something, since both change under the lock. */
static void take_done(struct pinlease_uring *ring, struct pinlease_uring_completion *completion)
{
	struct plu_request *request = ring->done.head;
	uint64_t count;

	plu_list_del(&ring->done, request);
	completion->lease = request->lease;
	completion->user_data = request->user_data;
	completion->gen = request->gen;
	completion->res = request->res;
	plu_list_add(&ring->free, request);
	if (!ring->done.count && read(ring->event_fd, &count, sizeof(count)) < 0)
		return; /* only when it is clear already */
}

PLU_API int pinlease_uring_next(struct pinlease_uring *ring, struct pinlease_uring_completion *completion,
				int timeout_ms)
{
	uint64_t until_ns = timeout_ms > 0 ? plu_now() + (uint64_t)timeout_ms * 1000000u : 0;
	int ret;

	if (!ring || !completion)
		return -EINVAL;
	if (ring->forked)
		return -ECHILD;
	ret = check_size(completion->size, sizeof(*completion));
	if (ret)
		return ret;
	pthread_mutex_lock(&ring->lock);
	while (!ring->done.head && timeout_ms) {
		if (timeout_ms < 0)
			pthread_cond_wait(&ring->completed, &ring->lock);
		else if (!plu_wait(ring, &ring->completed, until_ns))
			break;
	}
	ret = ring->done.head != NULL;
	if (ret)
		take_done(ring, completion);
	pthread_mutex_unlock(&ring->lock);
	if (ret)
		clear_tail(completion, completion->size, sizeof(*completion));
	return ret;
}

PLU_API int pinlease_uring_fd(const struct pinlease_uring *ring)
{
	if (!ring)
		return -EINVAL;
	return ring->forked ? -ECHILD : ring->event_fd;
}

PLU_API int pinlease_uring_info(struct pinlease_uring *ring, struct pinlease_uring_info *info)
{
	struct pinlease_uring_info now = { 0 };
	int ret;

	if (!ring || !info)
		return -EINVAL;
	if (ring->forked)
		return -ECHILD;
	ret = check_size(info->size, sizeof(*info));
	if (ret)
		return ret;
	pthread_mutex_lock(&ring->lock);
	now.size = info->size;
	now.entries = ring->entries;
	now.buffers = ring->buffers;
	now.kept = ring->done.count;
	now.in_flight = ring->entries - ring->free.count - ring->done.count;
	for (uint32_t i = 0; i < ring->buffers; i++) {
		enum plu_slot_state state = ring->table[i].state;

		now.registered += state == PLU_PINNING || state == PLU_OPEN || state == PLU_FENCING;
		now.retiring += state == PLU_RETIRING;
	}
	pthread_mutex_unlock(&ring->lock);
	*info = now;
	clear_tail(info, info->size, sizeof(*info));
	return 0;
}
