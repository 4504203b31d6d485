/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Openers, processes that want the file. They are no threads: the kernel itself carries
 * them on, in the very moment in which a lease is let go or has expired, which leaves
 * the library no time for what it should have done before.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "sim_private.h"

struct sim_opener {
	struct pl_list link, blocked; /* sim.openers, inode->openers */
	struct sim_inode *inode;
	struct sim_ofd *ofd; /* counts as open while it is blocked, as in do_dentry_open() */
	pid_t pid;
	int flags, ret;
	bool writer, truncates, by_path, done, expired;
	uint64_t len, started, ended;
};

static void opener_finish(struct sim_opener *o, int ret)
{
	o->done = true;
	o->ret = ret;
	o->ended = sim.now;
	pl_list_del(&o->blocked);
	if (!ret && o->truncates && truncate(o->inode->path, (off_t)o->len))
		sim_die("truncate: %d", errno);
	if (ret || o->by_path) {
		sim_ofd_put(o->ofd);
		o->ofd = NULL;
	}
	sim_wake(o, true);
}

/* When the kernel's own clock lets it on: the last of the leases it waits for. */
static uint64_t opener_due(const struct sim_opener *o)
{
	const struct sim_ofd *ofd;
	struct pl_list *pos;
	uint64_t due = 0, one;

	pl_list_for_each (pos, &o->inode->ofds) {
		ofd = pl_container(pos, struct sim_ofd, link);
		one = pl_min_u64(ofd->unlock_pending ? ofd->break_due : SIM_NEVER,
				 ofd->downgrade_pending ? ofd->downgrade_due : SIM_NEVER);
		if (ofd->unlock_pending || ofd->downgrade_pending)
			due = pl_max_u64(due, one);
	}
	return due;
}

/* One that goes on may have been in the way of nobody: the list is looked through anew each time. */
void sim_opener_look(struct sim_inode *inode)
{
	struct sim_opener *o;
	struct pl_list *pos;
	bool again = true;

	while (again) {
		again = false;
		pl_list_for_each (pos, &inode->openers) {
			o = pl_container(pos, struct sim_opener, blocked);
			if (sim_break_lease(inode, o->writer, o->pid))
				continue;
			opener_finish(o, 0);
			again = true;
			break;
		}
	}
}

uint64_t sim_opener_next(void)
{
	struct sim_opener *o;
	struct pl_list *pos;
	uint64_t next = SIM_NEVER;

	pl_list_for_each (pos, &sim.openers) {
		o = pl_container(pos, struct sim_opener, link);
		if (!o->done)
			next = pl_min_u64(next, opener_due(o));
	}
	return next;
}

void sim_opener_fire(void)
{
	struct sim_opener *o;
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.openers) {
		o = pl_container(pos, struct sim_opener, link);
		if (o->done || opener_due(o) > sim.now)
			continue;
		o->expired = true;
		sim_opener_look(o->inode);
		if (!o->done)
			o->expired = false;
	}
}

static struct sim_opener *opener_start(struct sim_opener *o, const char *path)
{
	struct sim_opener *new = malloc(sizeof(*new));

	if (!new)
		sim_die("out of memory");
	*new = *o;
	sim_lock();
	new->inode = sim_inode_of(path);
	new->pid = ++sim.next_pid;
	new->started = sim.now;
	pl_list_init(&new->blocked);
	pl_list_add_tail(&sim.openers, &new->link);
	new->ofd = sim_ofd_new(new->inode, new->flags);
	new->ofd->foreign = true;
	if (!sim_break_lease(new->inode, new->writer, new->pid))
		opener_finish(new, 0);
	else if (new->flags & O_NONBLOCK)
		opener_finish(new, -EWOULDBLOCK);
	else
		pl_list_add_tail(&new->inode->openers, &new->blocked);
	sim_unlock();
	return new;
}

struct sim_opener *sim_open(const char *path, int flags)
{
	/* O_RDONLY|O_TRUNC breaks as a reader does: it truncates once it has been let in. */
	struct sim_opener o = { .flags = flags,
				.writer = (flags & O_ACCMODE) != O_RDONLY,
				.truncates = flags & O_TRUNC };

	return opener_start(&o, path);
}

struct sim_opener *sim_truncate(const char *path, uint64_t len)
{
	struct sim_opener o = {
		.flags = O_WRONLY, .writer = true, .truncates = true, .by_path = true, .len = len
	};

	return opener_start(&o, path);
}

bool sim_opener_done(struct sim_opener *o)
{
	bool done;

	sim_lock();
	done = o->done;
	sim_unlock();
	return done;
}

bool sim_opener_expired(struct sim_opener *o)
{
	bool expired;

	sim_lock();
	expired = o->done && o->expired;
	sim_unlock();
	return expired;
}

int sim_opener_ret(struct sim_opener *o)
{
	int ret;

	sim_lock();
	ret = o->done ? o->ret : -EINPROGRESS;
	sim_unlock();
	return ret;
}

uint64_t sim_opener_ns(struct sim_opener *o)
{
	uint64_t ns;

	sim_lock();
	ns = (o->done ? o->ended : sim.now) - o->started;
	sim_unlock();
	return ns;
}

pid_t sim_opener_pid(struct sim_opener *o)
{
	return o->pid;
}

static bool opener_is_done(void *arg)
{
	return sim_opener_done(arg);
}

bool sim_opener_wait(struct sim_opener *o, uint64_t ns)
{
	return sim_until(opener_is_done, o, ns);
}

void sim_opener_end(struct sim_opener *o)
{
	sim_lock();
	pl_list_del(&o->link);
	pl_list_del(&o->blocked);
	if (o->ofd)
		sim_ofd_put(o->ofd);
	sim_unlock();
	free(o);
}

/* As seen in /proc */

struct sim_ofd *sim_opener_ofd(pid_t pid)
{
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.openers)
		if (pl_container(pos, struct sim_opener, link)->pid == pid)
			return pl_container(pos, struct sim_opener, link)->ofd;
	return NULL;
}

int sim_opener_fd_flags(pid_t pid)
{
	const struct sim_ofd *ofd = sim_opener_ofd(pid);

	return ofd ? ofd->flags : -1;
}

int sim_opener_each(int (*fn)(void *arg, int pid), void *arg)
{
	pid_t last, pid;
	bool there;
	int r = 0;

	sim_lock();
	last = sim.next_pid;
	sim_unlock();
	for (pid = last; pid > 0 && pid + 100 > last && !r; pid--) {
		sim_lock();
		there = sim_opener_ofd(pid) != NULL;
		sim_unlock();
		if (there)
			r = fn(arg, pid);
	}
	return r;
}

void sim_opener_reset(void)
{
	if (!sim.openers.next)
		pl_list_init(&sim.openers);
	sim.next_pid = 20000;
}
