/* SPDX-License-Identifier: BSD-3-Clause */
/* Making and freeing a ring; forked children. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

static pthread_mutex_t rings_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pinlease_uring *rings;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_error;

static void before_fork(void)
{
	pthread_mutex_lock(&rings_lock);
}

static void after_fork_parent(void)
{
	pthread_mutex_unlock(&rings_lock);
}

/*
 * A child that kept the ring would keep the buffers pinned after its parent is gone.
 * The ring's memory is not there (MADV_DONTFORK); nobody else runs here, and the lock
 * that was taken before is the child's.
 */
static void after_fork_child(void)
{
	for (struct pinlease_uring *ring = rings; ring; ring = ring->next) {
		ring->forked = true;
		close(ring->io.ring_fd);
		close(ring->event_fd);
		close(ring->wake_fd);
	}
	rings = NULL;
	pthread_mutex_unlock(&rings_lock);
}

static void register_fork(void)
{
	fork_error = -pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

static void link_ring(struct pinlease_uring *ring)
{
	pthread_mutex_lock(&rings_lock);
	ring->prev = NULL;
	ring->next = rings;
	if (rings)
		rings->prev = ring;
	rings = ring;
	pthread_mutex_unlock(&rings_lock);
}

static void unlink_ring(struct pinlease_uring *ring)
{
	pthread_mutex_lock(&rings_lock);
	if (ring->prev)
		ring->prev->next = ring->next;
	else
		rings = ring->next;
	if (ring->next)
		ring->next->prev = ring->prev;
	pthread_mutex_unlock(&rings_lock);
}

/* The queues hold every request, its cancel, the wake-up and a completion for each buffer: nothing overflows.
 */
static int setup_ring(struct pinlease_uring *ring)
{
	struct io_uring_params params = { .flags = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL,
					  .cq_entries = 4 * ring->entries + ring->buffers + 2 };
	int ret = io_uring_queue_init_params(2 * ring->entries + 1, &ring->io, &params);

	if (ret)
		return ret == -EINVAL ? -EOPNOTSUPP : ret;
	ret = io_uring_ring_dontfork(&ring->io);
	if (!ret)
		ret = io_uring_register_buffers_sparse(&ring->io, ring->buffers);
	if (!ret)
		ret = io_uring_register_files_sparse(&ring->io, ring->buffers);
	if (ret) {
		io_uring_queue_exit(&ring->io);
		return ret == -EINVAL ? -EOPNOTSUPP : ret;
	}
	return 0;
}

static int setup_fds(struct pinlease_uring *ring)
{
	ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ring->event_fd < 0)
		return -errno;
	/* Not O_NONBLOCK: the ring's read on it is to wait, and not to answer EAGAIN. */
	ring->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (ring->wake_fd < 0) {
		int ret = -errno;

		close(ring->event_fd);
		return ret;
	}
	return 0;
}

static int setup_memory(struct pinlease_uring *ring)
{
	ring->requests = calloc(ring->entries, sizeof(*ring->requests));
	ring->table = calloc(ring->buffers, sizeof(*ring->table));
	if (!ring->requests || !ring->table)
		return -ENOMEM;
	for (uint32_t i = 0; i < ring->entries; i++)
		plu_list_add(&ring->free, &ring->requests[i]);
	return 0;
}

static void setup_locks(struct pinlease_uring *ring)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&ring->lock, NULL);
	pthread_cond_init(&ring->completed, &monotonic);
	pthread_cond_init(&ring->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

static int start_thread(struct pinlease_uring *ring)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&ring->thread, NULL, plu_thread, ring);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ret)
		pthread_setname_np(ring->thread, "pinlease-uring");
	return -ret;
}

static void free_memory(struct pinlease_uring *ring)
{
	free(ring->requests);
	free(ring->table);
	free(ring);
}

static void close_fds(struct pinlease_uring *ring)
{
	close(ring->event_fd);
	close(ring->wake_fd);
}

/* Half built: each step undoes those before it. */
static int build(struct pinlease_uring *ring)
{
	int ret = setup_memory(ring);

	if (!ret)
		ret = setup_fds(ring);
	if (ret)
		return ret;
	ret = setup_ring(ring);
	if (ret)
		goto fds;
	setup_locks(ring);
	link_ring(ring);
	ret = start_thread(ring);
	if (!ret)
		return 0;
	unlink_ring(ring);
	io_uring_queue_exit(&ring->io);
fds:
	close_fds(ring);
	return ret;
}

PLU_API int pinlease_uring_new(uint32_t entries, uint32_t buffers, struct pinlease_uring **out)
{
	struct pinlease_uring *ring;
	int ret;

	if (!out || !entries || entries > PINLEASE_URING_MAX_ENTRIES)
		return -EINVAL;
	if (!buffers || buffers > PINLEASE_URING_MAX_BUFFERS)
		return -EINVAL;
	pthread_once(&fork_once, register_fork);
	if (fork_error)
		return fork_error;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	ring->entries = entries;
	ring->buffers = buffers;
	ret = build(ring);
	if (ret) {
		free_memory(ring);
		return ret;
	}
	*out = ring;
	return 0;
}

/* A slot that retires does not count: the ring's end gives its pages back. */
static bool has_buffers(struct pinlease_uring *ring)
{
	bool found = false;

	for (uint32_t i = 0; i < ring->buffers && !found; i++)
		found = ring->table[i].state != PLU_FREE && ring->table[i].state != PLU_RETIRING;
	return found;
}

PLU_API int pinlease_uring_free(struct pinlease_uring *ring)
{
	bool busy;

	if (!ring)
		return 0;
	if (ring->forked) {
		free_memory(ring);
		return 0;
	}
	pthread_mutex_lock(&ring->lock);
	busy = has_buffers(ring);
	if (!busy) {
		ring->stop = true;
		plu_wake(ring);
	}
	pthread_mutex_unlock(&ring->lock);
	if (busy)
		return -EBUSY;
	pthread_join(ring->thread, NULL);
	unlink_ring(ring);
	io_uring_queue_exit(&ring->io);
	close_fds(ring);
	pthread_cond_destroy(&ring->completed);
	pthread_cond_destroy(&ring->changed);
	pthread_mutex_destroy(&ring->lock);
	free_memory(ring);
	return 0;
}
