/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "watch.h"

#define WATCH_NAP_US  200
#define WATCH_HOLD_NS 15000000u	/* how long an opened file is kept open */

struct watch_image {
	unsigned char *data;
	size_t size;
};

struct watch_end {
	struct watch *w;
	struct watch_image first, now;
	int fd;				/* shares the leased description */
	int open_fd;			/* WATCH_OPEN's */
};

const char *watch_name(enum watch_change change)
{
	static const char *const name[] = { "truncate to half", "open for writing", "truncate and grow" };

	return name[change];
}

/* The very description that is leased: the same pages, and no new open. */
static int watch_share_fd(const struct watch *w)
{
	int pidfd, fd;

	pidfd = (int)syscall(SYS_pidfd_open, w->owner, 0);
	rt_assert(pidfd >= 0, "pidfd_open: %s", strerror(errno));
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, w->fd, 0);
	rt_assert(fd >= 0, "pidfd_getfd: %s", strerror(errno));
	close(pidfd);
	return fd;
}

static void watch_look(struct watch_end *e, struct watch_image *image)
{
	ssize_t n = pread(e->fd, image->data, e->w->full, 0);

	rt_assert(n >= 0, "pread: %s", strerror(errno));
	image->size = (size_t)n;
}

static uint64_t watch_diff(const struct watch_image *a, const struct watch_image *b)
{
	size_t least = a->size < b->size ? a->size : b->size, i;
	uint64_t n = a->size + b->size - 2 * least;

	if (!memcmp(a->data, b->data, least))
		return n;
	for (i = 0; i < least; i++)
		n += a->data[i] != b->data[i];
	return n;
}

/* The change of this round. returned_ns is of the call that the lease holds up. */
static void watch_change_file(struct watch_end *e)
{
	struct watch *w = e->w;
	const char *path = w->path;
	off_t half = (off_t)(w->full / 2), full = (off_t)w->full;
	int ret;

	atomic_store(&w->called_ns, kt_now());
	atomic_store(&w->state, WATCH_IN_CALL);
	if (w->change == WATCH_OPEN)
		ret = e->open_fd = open(path, O_RDWR | O_CLOEXEC);
	else
		ret = truncate(path, half);
	atomic_store(&w->returned_ns, kt_now());
	rt_assert(ret >= 0, "%s: %s", watch_name(w->change), strerror(errno));
	if (w->change == WATCH_OPEN)
		ret = ftruncate(e->open_fd, full);
	else if (w->change == WATCH_REGROW)
		ret = truncate(path, full);
	rt_assert(ret >= 0, "%s, growing: %s", watch_name(w->change), strerror(errno));
}

/*
 * Look again and again until the owner says that it may write, or, a look that began
 * before that being proof of nothing, once less.
 */
static void watch_until_may_change(struct watch_end *e)
{
	struct watch *w = e->w;
	uint64_t close_at = kt_now() + WATCH_HOLD_NS;

	for (;;) {
		watch_look(e, &e->now);
		if (atomic_load(&w->may_change))
			break;
		w->looks++;
		w->changed += watch_diff(&e->first, &e->now);
		if (e->open_fd >= 0 && kt_now() > close_at) {
			close(e->open_fd);
			e->open_fd = -1;
		}
		usleep(WATCH_NAP_US);
	}
	if (e->open_fd >= 0)
		close(e->open_fd);
	e->open_fd = -1;
}

static void watch_wait_peer(const struct watch *w)
{
	uint64_t until = kt_now() + KT_LONG * 1000000ull;

	while (atomic_load(&w->peer->state) == RT_STREAMING) {
		rt_assert(kt_now() < until, "the peer does not come to rest");
		usleep(WATCH_NAP_US);
	}
}

static void watch_round(struct watch_end *e)
{
	struct watch *w = e->w;
	const struct watch_image *image = w->judge_last ? &e->now : &e->first;
	uint64_t cut = w->change == WATCH_OPEN ? RT_ALL : w->full / 2;

	w->looks = 0;
	w->changed = 0;
	watch_change_file(e);
	watch_look(e, &e->first);
	atomic_store(&w->state, WATCH_LOOKING);
	watch_until_may_change(e);
	watch_wait_peer(w);
	if (w->judge_last)
		watch_look(e, &e->now);
	w->missing = rt_missing(w->peer, image->data, image->size, cut, atomic_load(&w->returned_ns),
				&w->held);
	atomic_store(&w->order, WATCH_REST);
	atomic_store(&w->state, WATCH_TOLD);
}

static int watch_main(const void *arg)
{
	struct watch_end e = { .w = *(struct watch *const *)arg, .open_fd = -1 };

	e.fd = watch_share_fd(e.w);
	e.first.data = aligned_alloc(sizeof(uint64_t), e.w->full);
	e.now.data = aligned_alloc(sizeof(uint64_t), e.w->full);
	rt_assert(e.first.data && e.now.data, "out of memory");
	for (;;) {
		switch (atomic_load(&e.w->order)) {
		case WATCH_GO:
			watch_round(&e);
			break;
		case WATCH_LEAVE:
			return 0;
		}
		usleep(WATCH_NAP_US);
	}
}

struct kt_call *watch_start(struct watch *watch)
{
	struct kt_call *call = kt_call_start(watch_main, &watch, sizeof(watch));

	rt_assert(call, "no process for the opener");
	return call;
}
