/* SPDX-License-Identifier: BSD-3-Clause */
/* F_SETLEASE and F_GETLEASE on simulated descriptions: __break_lease() and time_out_leases() of fs/locks.c.
 */
#include <errno.h>
#include <unistd.h>

#include "sim_private.h"

static bool ofd_writes(const struct sim_ofd *ofd)
{
	return (ofd->flags & O_ACCMODE) != O_RDONLY;
}

/* check_conflicting_open(), and the part of generic_add_lease() that looks at other leases. */
static int lease_conflict(const struct sim_ofd *ofd, int type)
{
	const struct sim_ofd *other;
	struct pl_list *pos;

	pl_list_for_each (pos, &ofd->inode->ofds) {
		other = pl_container(pos, struct sim_ofd, link);
		if (type == F_WRLCK && other != ofd)
			return -EAGAIN;
		if (type == F_RDLCK && (ofd_writes(other) || (other != ofd && other->unlock_pending)))
			return -EAGAIN;
	}
	return 0;
}

/* lease_modify(F_UNLCK): the signal and its owner go with it. */
void sim_ofd_drop_lease(struct sim_ofd *ofd)
{
	ofd->lease = F_UNLCK;
	ofd->unlock_pending = ofd->downgrade_pending = ofd->downgraded = false;
	ofd->signo = 0;
	ofd->owner = 0;
	sim.counts.leases--;
}

/*
 * What has expired is only noticed when somebody looks: an opener that waits for it,
 * another one, or F_GETLEASE. A late F_UNLCK does not look.
 */
void sim_inode_time_out(struct sim_inode *inode)
{
	struct sim_ofd *ofd;
	struct pl_list *pos;

	pl_list_for_each (pos, &inode->ofds) {
		ofd = pl_container(pos, struct sim_ofd, link);
		if (ofd->downgrade_pending && ofd->downgrade_due <= sim.now) {
			ofd->downgrade_pending = false;
			ofd->lease = F_RDLCK;
			ofd->downgraded = true;
		}
		if (ofd->unlock_pending && ofd->break_due <= sim.now) {
			sim_ofd_drop_lease(ofd);
			ofd->expired_unlock = true;
		}
	}
}

void sim_inode_wake(struct sim_inode *inode)
{
	if (!pl_list_empty(&inode->openers))
		sim_opener_look(inode);
}

static bool lease_broken_for(const struct sim_ofd *ofd, bool writer)
{
	return ofd->lease == F_WRLCK || (ofd->lease == F_RDLCK && writer);
}

bool sim_break_lease(struct sim_inode *inode, bool writer, pid_t pid)
{
	uint64_t due = sim.break_time_s ? sim.now + sim.break_time_s * SIM_S : SIM_NEVER;
	struct sim_ofd *ofd;
	struct pl_list *pos;
	bool wait = false;

	(void)pid;
	sim_inode_time_out(inode);
	pl_list_for_each (pos, &inode->ofds) {
		ofd = pl_container(pos, struct sim_ofd, link);
		if (!lease_broken_for(ofd, writer))
			continue;
		wait = true;
		/* A second one of a kind sends no signal, nor does a reader behind a writer. */
		if (ofd->unlock_pending || (!writer && ofd->downgrade_pending))
			continue;
		if (writer) {
			ofd->unlock_pending = true;
			ofd->break_due = due;
		} else {
			ofd->downgrade_pending = true;
			ofd->downgrade_due = due;
		}
		sim.breaks++;
		sim_signal_lease(ofd);
	}
	return wait;
}

static int lease_take(struct sim_ofd *ofd, int fd, int type)
{
	int r = lease_conflict(ofd, type);

	if (r)
		return r;
	sim.counts.leases += ofd->lease == F_UNLCK;
	ofd->lease = type;
	ofd->unlock_pending = ofd->downgrade_pending = ofd->downgraded = false;
	ofd->expired_unlock = false;
	ofd->armed_once = true;
	ofd->told_fd = fd;
	sim_judge_taken(ofd);
	return 0;
}

static int lease_let_go(struct sim_ofd *ofd)
{
	sim_judge_let_go(ofd);
	if (ofd->lease == F_UNLCK) {
		if (ofd->armed_once && !ofd->expired_unlock)
			sim_violate("I2",
				    "lets a lease go that it does not hold: the same break answered twice");
		ofd->expired_unlock = false;
		return -EAGAIN;
	}
	sim_ofd_drop_lease(ofd);
	sim_inode_wake(ofd->inode);
	return 0;
}

int pl_sys_set_lease(int fd, int type)
{
	int r = sim_enter(type == F_UNLCK ? "unlock_lease" : "set_lease",
			  SIM_FAST | (type == F_UNLCK ? 0 : SIM_MEMORY));
	struct sim_ofd *ofd;

	if (r)
		return r;
	sim_lock();
	ofd = sim_ofd_of(fd);
	if (!ofd)
		r = -EBADF;
	else
		r = type == F_UNLCK ? lease_let_go(ofd) : lease_take(ofd, fd, type);
	sim_unlock();
	return r;
}

static int lease_target(const struct sim_ofd *ofd)
{
	if (ofd->unlock_pending)
		return F_UNLCK;
	return ofd->downgrade_pending ? F_RDLCK : ofd->lease;
}

int pl_sys_get_lease(int fd)
{
	int r = sim_enter("get_lease", SIM_FAST);
	struct sim_ofd *ofd;

	if (r)
		return r;
	sim_lock();
	ofd = sim_ofd_of(fd);
	r = -EBADF;
	if (ofd) {
		sim_inode_time_out(ofd->inode);
		r = lease_target(ofd);
		sim_inode_wake(ofd->inode);
	}
	sim_unlock();
	return r;
}

int pl_sys_set_signal(int fd, int signo)
{
	int r = sim_enter("set_signal", SIM_FAST);

	if (r)
		return r;
	sim_lock();
	if (sim_ofd_of(fd))
		sim_ofd_of(fd)->signo = signo;
	else
		r = -EBADF;
	sim_unlock();
	return r;
}

int pl_sys_set_owner(int fd, pid_t tid)
{
	int r = sim_enter("set_owner", SIM_FAST);

	if (r)
		return r;
	sim_lock();
	if (!sim_ofd_of(fd))
		r = -EBADF;
	else if (tid && !sim_thread_find(tid))
		r = -ESRCH;
	else
		sim_ofd_of(fd)->owner = tid;
	sim_unlock();
	return r;
}

/* One at a time, since fn is called unlocked; whose lease it is does not change meanwhile in any test. */
int pl_sys_each_lease(int (*fn)(void *arg, const struct pl_sys_lease *lease), void *arg)
{
	struct pl_sys_lease held[16];
	struct pl_list *pos, *of;
	const struct sim_ofd *ofd;
	unsigned int count = 0, i;
	int r = sim_enter("each_lease", SIM_FAST);

	if (r)
		return r;
	sim_lock();
	pl_list_for_each (pos, &sim.inodes) {
		pl_list_for_each (of, &pl_container(pos, struct sim_inode, link)->ofds) {
			ofd = pl_container(of, struct sim_ofd, link);
			if (ofd->lease == F_UNLCK || count == 16)
				continue;
			held[count++] = (struct pl_sys_lease){
				.dev = ofd->inode->dev,
				.ino = ofd->inode->ino,
				.pid = getpid(),
				.reads = ofd->lease == F_RDLCK && !ofd->unlock_pending,
			};
		}
	}
	sim_unlock();
	for (i = 0; i < count && !r; i++)
		r = fn(arg, &held[i]);
	return r;
}

static struct sim_ofd *lease_holder(const char *path)
{
	struct sim_inode *inode = sim_inode_of(path);
	struct pl_list *pos;

	pl_list_for_each (pos, &inode->ofds)
		if (pl_container(pos, struct sim_ofd, link)->lease != F_UNLCK)
			return pl_container(pos, struct sim_ofd, link);
	return NULL;
}

int sim_lease(const char *path)
{
	const struct sim_ofd *ofd;
	int type;

	sim_lock();
	ofd = lease_holder(path);
	type = ofd ? lease_target(ofd) : F_UNLCK;
	sim_unlock();
	return type;
}

int sim_lease_fd(const char *path)
{
	const struct sim_ofd *ofd;
	int fd;

	sim_lock();
	ofd = lease_holder(path);
	fd = ofd ? ofd->told_fd : -1;
	sim_unlock();
	return fd;
}

unsigned int sim_breaks(void)
{
	unsigned int n;

	sim_lock();
	n = sim.breaks;
	sim_unlock();
	return n;
}

void sim_break_time(unsigned int seconds)
{
	sim_lock();
	sim.break_time_s = seconds;
	sim_unlock();
}

void sim_lease_reset(void)
{
	sim.break_time_s = SIM_BREAK_TIME_S;
	sim.breaks = 0;
}

/* The reference is the point; the number is any. */
int pl_sys_anchor_new(int fd, int *anchor)
{
	int r = sim_enter("anchor_new", SIM_MEMORY | SIM_STEP), new;

	if (r)
		return r;
	new = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (new < 0)
		return -errno;
	sim_lock();
	sim_ofd_of(fd)->refs++;
	sim_fd_set(new, SIM_FD_ANCHOR, sim_ofd_of(fd));
	sim_unlock();
	*anchor = new;
	return 0;
}

void pl_sys_anchor_free(int anchor)
{
	sim_lock();
	if (anchor < 0 || anchor >= SIM_FDS || sim.fd_kind[anchor] != SIM_FD_ANCHOR)
		sim_violate("seam", "gives up anchor %d, which is none", anchor);
	sim_unlock();
	pl_sys_close(anchor);
}
