/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>

#include "notice.h"
#include "sys.h"

#define NOTICE_EVENTS (IN_MOVE_SELF | IN_ATTRIB)
#define READ_BYTES    4096

static struct pl_list *notice_bucket(struct pl_notices *n, int watch)
{
	return &n->bucket[(unsigned int)watch % PL_NOTICE_BUCKETS];
}

void pl_notices_init(struct pl_notices *n)
{
	unsigned int i;

	pthread_mutex_init(&n->lock, NULL);
	atomic_init(&n->fd, -1);
	for (i = 0; i < PL_NOTICE_BUCKETS; i++)
		pl_list_init(&n->bucket[i]);
}

int pl_notices_start(struct pl_notices *n, int signo, pid_t tid)
{
	int fd = pl_sys_notify_new(signo, tid);

	if (fd < 0)
		return fd;
	atomic_store_explicit(&n->fd, fd, memory_order_release);
	return 0;
}

void pl_notices_fini(struct pl_notices *n)
{
	int fd = atomic_load_explicit(&n->fd, memory_order_relaxed);

	if (fd >= 0)
		pl_sys_close(fd);
	pthread_mutex_destroy(&n->lock);
}

/* The application may have closed the descriptor, and the number be another file's by now. */
static int notice_count(struct pl_noticed *who)
{
	struct pl_sys_stat st;
	int r = pl_sys_stat_id(who->fd, &st);

	if (r)
		return r;
	if (st.ino != who->id->ino || st.dev != who->id->dev)
		return -EBADF;
	who->links = st.links;
	return 0;
}

int pl_notice_add(struct pl_notices *n, int fd, const struct pl_fileid *id, struct pl_noticed *who)
{
	int r, nfd = atomic_load_explicit(&n->fd, memory_order_relaxed);

	pl_list_init(&who->link);
	who->fd = -1;
	if (nfd < 0)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&n->lock);
	who->fd = fd;
	who->id = id;
	/* Counted first: a name that goes before the watch is there is told of with the next event. */
	r = notice_count(who);
	if (!r)
		r = pl_sys_notify_add(nfd, fd, NOTICE_EVENTS);
	who->watch = r;
	if (r >= 0)
		pl_list_add_tail(notice_bucket(n, r), &who->link);
	else
		who->fd = -1;
	pthread_mutex_unlock(&n->lock);
	return r < 0 ? r : 0;
}

void pl_notice_remove(struct pl_notices *n, struct pl_noticed *who)
{
	struct pl_list *pos;
	bool shared = false;

	pthread_mutex_lock(&n->lock);
	if (who->fd >= 0) {
		pl_list_del(&who->link);
		pl_list_for_each(pos, notice_bucket(n, who->watch))
			shared |= pl_container(pos, struct pl_noticed, link)->watch == who->watch;
		if (!shared)
			pl_sys_notify_remove(atomic_load_explicit(&n->fd, memory_order_relaxed), who->watch);
		who->fd = -1;
	}
	pthread_mutex_unlock(&n->lock);
}

/* chmod, chown and utimes are attributes as well, and so is a new link: a name less is what counts. */
static bool notice_meant(struct pl_noticed *who, uint32_t mask)
{
	uint64_t before = who->links;

	if (mask & IN_MOVE_SELF)
		return true;
	return !notice_count(who) && who->links < before;
}

/*
 * The queue was full, and what did not fit into it is gone: a link less could be counted, but
 * a rename leaves nothing that can be compared. So everybody is told to look.
 */
static void notice_overflow(struct pl_notices *n, void (*fn)(struct pl_noticed *who))
{
	struct pl_noticed *who;
	struct pl_list *pos;
	unsigned int i;

	for (i = 0; i < PL_NOTICE_BUCKETS; i++) {
		pl_list_for_each(pos, &n->bucket[i]) {
			who = pl_container(pos, struct pl_noticed, link);
			if (!notice_count(who))
				fn(who);
		}
	}
}

static void notice_event(struct pl_notices *n, const struct inotify_event *ev,
			 void (*fn)(struct pl_noticed *who))
{
	struct pl_noticed *who;
	struct pl_list *pos;

	if (ev->mask & IN_Q_OVERFLOW) {
		notice_overflow(n, fn);
		return;
	}
	pl_list_for_each(pos, notice_bucket(n, ev->wd)) {
		who = pl_container(pos, struct pl_noticed, link);
		if (who->watch == ev->wd && (ev->mask & NOTICE_EVENTS) && notice_meant(who, ev->mask))
			fn(who);
	}
}

void pl_notices_read(struct pl_notices *n, void (*fn)(struct pl_noticed *who))
{
	/* Made after the thread that reads it was started. */
	int fd = atomic_load_explicit(&n->fd, memory_order_acquire);
	union {
		struct inotify_event align;
		char bytes[READ_BYTES];
	} buf;
	const struct inotify_event *ev;
	ssize_t len, at;

	if (fd < 0)
		return;
	pthread_mutex_lock(&n->lock);
	while ((len = pl_sys_notify_read(fd, &buf, sizeof(buf))) > 0) {
		for (at = 0; at < len; at += (ssize_t)(sizeof(*ev) + ev->len)) {
			ev = (const struct inotify_event *)(const void *)(buf.bytes + at);
			notice_event(n, ev, fn);
		}
	}
	pthread_mutex_unlock(&n->lock);
}
