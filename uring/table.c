/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of fixed buffers as a backend. A slot's arrows, and who takes them:
 *
 *	FREE ── pin ──▶ PINNING ── pin ──▶ OPEN ── unpin ──▶ FENCING ── unpin ──▶ RETIRING ── thread ──▶ FREE
 *	                   └─ refused: FREE          (unpin failed: stays)     └─ refused: FENCING
 *
 * The buffer is registered with a tag: the kernel posts a completion with it when it
 * gives the pages back, the proof that the unpin took place.
 *
 * Beside each buffer the ring holds the anchor of its file as a registered file. A killed
 * process's ring is taken down by a kernel worker after its fds are closed, and a disk
 * read in flight writes until then, with the lease gone since long (uring_kill shows both).
 * What the ring holds it drops last, when its requests are over and its buffers unpinned.
 */
#include <errno.h>
#include <sys/uio.h>

#include "ring.h"

#define MAX_BUFFER (1u << 30) /* the kernel's: io_buffer_validate() */

/*
 * The kernel pins every fixed buffer for writing, so a mapping that may only be read
 * is out, and with it the pinned mode of read access; staged memory is writable.
 */
static int capable(void *arg, const struct pinlease_pin *pin, uint32_t *reason)
{
	(void)arg;
	if (pin->mode == PINLEASE_MODE_STAGED)
		return 0;
	if (pin->mode == PINLEASE_MODE_PINNED && pin->access == PINLEASE_WRITE)
		return 0;
	*reason = pin->mode == PINLEASE_MODE_ODP ? PINLEASE_WHY_NO_ODP : PINLEASE_WHY_PIN_REFUSED;
	return -EOPNOTSUPP;
}

static int update_slot(struct pinlease_uring *ring, uint32_t index, void *addr, uint64_t len, uint64_t tag)
{
	struct iovec iov = { .iov_base = addr, .iov_len = len };
	__u64 tags[1] = { tag };
	int ret = io_uring_register_buffers_update_tag(&ring->io, index, &iov, tags, 1);

	return ret < 0 ? ret : 0;
}

/* anchor -1: none, or no longer. */
static int set_anchor(struct pinlease_uring *ring, uint32_t index, int anchor)
{
	int ret = io_uring_register_files_update(&ring->io, index, &anchor, 1);

	return ret < 0 ? ret : 0;
}

static struct plu_buffer *find_slot(struct pinlease_uring *ring, enum plu_slot_state state)
{
	for (uint32_t i = 0; i < ring->buffers; i++)
		if (ring->table[i].state == state)
			return &ring->table[i];
	return NULL;
}

/* A free slot, in PINNING. A full table may only look full: a slot that retires gets free within a second. */
static struct plu_buffer *take_slot(struct pinlease_uring *ring, uint64_t until_ns)
{
	struct plu_buffer *slot;

	pthread_mutex_lock(&ring->lock);
	while (!(slot = find_slot(ring, PLU_FREE)) && find_slot(ring, PLU_RETIRING))
		if (!plu_wait(ring, &ring->changed, until_ns))
			break;
	if (slot)
		slot->state = PLU_PINNING;
	pthread_mutex_unlock(&ring->lock);
	return slot;
}

static void set_slot(struct pinlease_uring *ring, struct plu_buffer *slot, enum plu_slot_state state)
{
	pthread_mutex_lock(&ring->lock);
	slot->state = state;
	pthread_cond_broadcast(&ring->changed);
	pthread_mutex_unlock(&ring->lock);
}

/* Waits until a slot that retires is free; false when none does, or the time is over. */
static bool wait_retired(struct pinlease_uring *ring, uint64_t until_ns)
{
	struct plu_buffer *slot;
	bool freed = false;

	pthread_mutex_lock(&ring->lock);
	slot = find_slot(ring, PLU_RETIRING);
	while (slot && !freed) {
		if (!plu_wait(ring, &ring->changed, until_ns))
			break;
		freed = slot->state != PLU_RETIRING;
	}
	pthread_mutex_unlock(&ring->lock);
	return freed;
}

static int pin(void *arg, const struct pinlease_pin *pin, struct pinlease_handle *handle)
{
	struct pinlease_uring *ring = arg;
	uint64_t until_ns = plu_now() + PLU_RETIRE_MS * 1000000ull;
	struct plu_buffer *slot;
	uint32_t index;
	int ret;

	if (!ring || ring->forked)
		return ring ? -ECHILD : -EINVAL;
	if (pin->len > MAX_BUFFER)
		return -EFBIG;
	slot = take_slot(ring, until_ns);
	if (!slot)
		return -ENOBUFS;
	index = (uint32_t)(slot - ring->table);
	/* Staged memory is no file's: a killed owner's opener need not wait for it. */
	ret = pin->mode == PINLEASE_MODE_STAGED ? 0 : set_anchor(ring, index, pin->anchor);
	/* Pages given back late count as locked until then. */
	while (!ret) {
		ret = update_slot(ring, index, pin->addr, pin->len, plu_tag(PLU_UNPINNED, index));
		if (ret != -ENOMEM || !wait_retired(ring, until_ns))
			break;
		ret = 0;
	}
	if (ret)
		set_anchor(ring, index, -1);
	pthread_mutex_lock(&ring->lock);
	slot->gen = pin->gen;
	slot->access = pin->access;
	slot->addr = pin->addr;
	slot->len = pin->len;
	slot->state = ret ? PLU_FREE : PLU_OPEN;
	pthread_cond_broadcast(&ring->changed);
	pthread_mutex_unlock(&ring->lock);
	if (ret)
		return ret;
	handle->cookie = slot;
	handle->lkey = handle->rkey = index;
	return 0;
}

/* From here on no request is accepted; those the kernel does not have yet are over, the others are to stop.
 */
static void close_slot(struct pinlease_uring *ring, struct plu_buffer *slot, struct plu_list *ended)
{
	uint32_t index = (uint32_t)(slot - ring->table);
	struct plu_request *request, *next;

	slot->state = PLU_FENCING;
	slot->lease = NULL;
	for (request = ring->queue.head; request; request = next) {
		next = request->next;
		if (request->buffer != index)
			continue;
		plu_list_del(&ring->queue, request);
		request->res = -ECANCELED;
		plu_list_add(ended, request);
	}
	for (request = ring->running.head; request; request = request->next)
		if (request->buffer == index)
			plu_ask_cancel(ring, request);
}

/* 0 when every request on the buffer has completed. */
static int drain_slot(struct pinlease_uring *ring, struct plu_buffer *slot)
{
	uint64_t until_ns = plu_now() + PLU_FENCE_MS * 1000000ull;
	struct plu_list ended = { NULL, NULL, 0 };
	int ret = 0;

	pthread_mutex_lock(&ring->lock);
	close_slot(ring, slot, &ended);
	pthread_mutex_unlock(&ring->lock);
	plu_end(ring, &ended);
	pthread_mutex_lock(&ring->lock);
	while (slot->in_flight && !ret)
		if (!plu_wait(ring, &ring->changed, until_ns))
			ret = slot->in_flight ? -EBUSY : 0;
	pthread_mutex_unlock(&ring->lock);
	return ret;
}

/*
 * Unregistering alone is no fence: a request that waits for data goes on to write into
 * pages that are out of the table. So every request ends first. What is waited for
 * afterwards is no part of the fence, only the pages themselves.
 */
static int unpin(void *arg, struct pinlease_handle *handle)
{
	struct pinlease_uring *ring = arg;
	struct plu_buffer *slot = handle->cookie;
	uint64_t until_ns;
	int ret = drain_slot(ring, slot);

	if (ret)
		return ret;
	until_ns = plu_now() + PLU_UNPIN_MS * 1000000ull;
	set_slot(ring, slot, PLU_RETIRING);
	ret = update_slot(ring, (uint32_t)(slot - ring->table), NULL, 0, 0);
	if (ret) {
		set_slot(ring, slot, PLU_FENCING);
		return ret;
	}
	set_anchor(ring, (uint32_t)(slot - ring->table), -1);
	pthread_mutex_lock(&ring->lock);
	while (slot->state == PLU_RETIRING)
		if (!plu_wait(ring, &ring->changed, until_ns))
			break;
	pthread_mutex_unlock(&ring->lock);
	return 0;
}

/* No dirty: a pin for writing makes the pages dirty when it is taken and keeps them from being cleaned. */
static const struct pinlease_backend backend = {
	.version = PINLEASE_BACKEND_VERSION,
	.name = "io_uring",
	.capable = capable,
	.pin = pin,
	.unpin = unpin,
};

PLU_API const struct pinlease_backend *pinlease_uring_backend(void)
{
	return &backend;
}
