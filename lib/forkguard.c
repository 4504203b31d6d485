/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#include "account.h"
#include "forkguard.h"
#include "sys.h"

struct fork_device {
	struct pl_list link;
	int cmd_fd, async_fd;
	unsigned int users;
	uint64_t dev, ino;	/* of the device file, as /proc/self/maps names it */
};

uint32_t pl_fork_generation_now;

/* lock protects everything here, a leaf; held over fork, so that a child finds whole lists. */
static struct {
	pthread_mutex_t lock;
	struct pl_list files, devices;
	bool setup;
} guard = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.files = { &guard.files, &guard.files },
	.devices = { &guard.devices, &guard.devices },
};

static int fork_keep_mapping(void *arg, const struct pl_sys_mapping *m)
{
	const struct fork_device *d;
	struct pl_list *pos;

	(void)arg;
	pl_list_for_each(pos, &guard.devices) {
		d = pl_container(pos, struct fork_device, link);
		if (m->dev == d->dev && m->ino == d->ino)
			pl_sys_advise((void *)(uintptr_t)m->start, m->end - m->start, MADV_DONTFORK);
	}
	return 0;
}

static void fork_prepare(void)
{
	pthread_mutex_lock(&guard.lock);
	if (!pl_list_empty(&guard.devices))
		pl_sys_each_mapping(fork_keep_mapping, NULL);
}

static void fork_parent(void)
{
	pthread_mutex_unlock(&guard.lock);
}

/* The numbers stay taken: the child may still close them, as libibverbs does with a device it closes. */
static void fork_drop_device_fd(int null_fd, int fd)
{
	if (null_fd < 0 || pl_sys_dup_over(null_fd, fd) < 0)
		pl_sys_close(fd);
}

static void fork_drop_devices(void)
{
	int null_fd = pl_sys_open("/dev/null", O_RDWR);
	struct pl_list *pos, *tmp;
	struct fork_device *d;

	pl_list_for_each_safe(pos, tmp, &guard.devices) {
		d = pl_container(pos, struct fork_device, link);
		fork_drop_device_fd(null_fd, d->cmd_fd);
		fork_drop_device_fd(null_fd, d->async_fd);
		pl_list_del(pos);
		pl_sys_free(d);
	}
	if (null_fd >= 0)
		pl_sys_close(null_fd);
}

/* The anchor is closed, never received from: the socket, and what is in flight in it, is the parent's too. */
static void fork_child(void)
{
	struct pl_list *pos, *tmp;
	struct pl_fork_file *file;

	if (!pl_list_empty(&guard.devices))
		fork_drop_devices();
	pl_list_for_each_safe(pos, tmp, &guard.files) {
		file = pl_container(pos, struct pl_fork_file, link);
		pl_sys_close(file->fd);
		if (file->anchor >= 0)
			pl_sys_close(file->anchor);
		pl_list_del(pos);
	}
	pl_fork_generation_now++;
	pl_account_forked();
	pthread_mutex_unlock(&guard.lock);
}

int pl_forkguard_setup(void)
{
	int r = 0;

	pthread_mutex_lock(&guard.lock);
	if (!guard.setup)
		r = pl_sys_at_fork(fork_prepare, fork_parent, fork_child);
	if (!r)
		guard.setup = true;
	pthread_mutex_unlock(&guard.lock);
	return r;
}

void pl_fork_file_add(struct pl_fork_file *file)
{
	pthread_mutex_lock(&guard.lock);
	pl_list_add_tail(&guard.files, &file->link);
	pthread_mutex_unlock(&guard.lock);
}

void pl_fork_file_remove(struct pl_fork_file *file)
{
	pthread_mutex_lock(&guard.lock);
	pl_list_del(&file->link);
	pthread_mutex_unlock(&guard.lock);
}

static struct fork_device *device_find(int cmd_fd)
{
	struct pl_list *pos;

	pl_list_for_each(pos, &guard.devices)
		if (pl_container(pos, struct fork_device, link)->cmd_fd == cmd_fd)
			return pl_container(pos, struct fork_device, link);
	return NULL;
}

static int device_new(int cmd_fd, int async_fd)
{
	struct fork_device *d;
	struct pl_sys_stat st;
	int r = pl_sys_stat_id(cmd_fd, &st);

	if (r)
		return r;
	d = pl_sys_alloc(sizeof(*d));
	if (!d)
		return -ENOMEM;
	*d = (struct fork_device){ .cmd_fd = cmd_fd, .async_fd = async_fd, .users = 1 };
	d->dev = st.dev;
	d->ino = st.ino;
	pl_list_add_tail(&guard.devices, &d->link);
	return 0;
}

int pl_fork_device_add(int cmd_fd, int async_fd)
{
	struct fork_device *d;
	int r = 0;

	pthread_mutex_lock(&guard.lock);
	d = device_find(cmd_fd);
	if (d)
		d->users++;
	else
		r = device_new(cmd_fd, async_fd);
	pthread_mutex_unlock(&guard.lock);
	return r;
}

/* A child knows none of its parent's: nothing to do there. */
void pl_fork_device_remove(int cmd_fd)
{
	struct fork_device *d;

	pthread_mutex_lock(&guard.lock);
	d = device_find(cmd_fd);
	if (d && --d->users == 0) {
		pl_list_del(&d->link);
		pl_sys_free(d);
	}
	pthread_mutex_unlock(&guard.lock);
}
