/* SPDX-License-Identifier: BSD-3-Clause */
/* inotify: the files are real, so it is the real one; its signal is sent when a test says so. */
#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "sim_private.h"

bool sim_notify(void)
{
	struct sim_thread *t;

	sim_lock();
	t = sim_thread_find(sim.notify_owner);
	if (t && !t->exited)
		sim_signal_send(t, sim.notify_signo, sim.notify_fd);
	sim_unlock();
	return t != NULL;
}

/* sys.h */

int pl_sys_notify_new(int signo, pid_t tid)
{
	int r = sim_enter("notify_new", SIM_MEMORY | SIM_STEP), fd;

	if (r)
		return r;
	fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd < 0)
		sim_die("inotify: %d", errno);
	sim_lock();
	sim_fd_set(fd, SIM_FD_EVENT, NULL);
	sim.notify_fd = fd;
	sim.notify_signo = signo;
	sim.notify_owner = tid;
	sim_unlock();
	return fd;
}

int pl_sys_notify_add(int notify, int fd, uint32_t mask)
{
	int r = sim_enter("notify_add", SIM_MEMORY | SIM_FAST);
	char path[32];

	if (r)
		return r;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = inotify_add_watch(notify, path, mask);
	return r < 0 ? -errno : r;
}

void pl_sys_notify_remove(int notify, int watch)
{
	inotify_rm_watch(notify, watch);
}

ssize_t pl_sys_notify_read(int notify, void *buf, size_t cap)
{
	int r = sim_enter("notify_read", SIM_FAST);
	ssize_t n;

	if (r)
		return r;
	n = read(notify, buf, cap);
	return n < 0 ? -errno : n;
}
