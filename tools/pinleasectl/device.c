/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "ctl.h"

#ifdef CTL_URING
#include <pinlease/uring.h>
#endif

static struct ibv_context *device_find(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL), **one;
	struct ibv_context *verbs = NULL;

	errno = ENODEV;
	for (one = list; list && *one && !verbs; one++)
		if (!strcmp(ibv_get_device_name(*one), name))
			verbs = ibv_open_device(*one);
	if (list)
		ibv_free_device_list(list);
	return verbs;
}

#ifdef CTL_URING
/* Long-term pins without an RDMA device: two buffers are enough for one lease. */
static int device_ring(struct ctl_device *device)
{
	int r = pinlease_uring_new(4, 2, &device->ring);

	if (r) {
		ctl_say("io_uring: %s", strerror(-r));
		return r;
	}
	device->backend = pinlease_uring_backend();
	return 0;
}

static void device_ring_close(struct ctl_device *device)
{
	pinlease_uring_free(device->ring);
}
#else
static int device_ring(struct ctl_device *device)
{
	(void)device;
	ctl_say("io_uring: this program was built without liburing");
	return -ENOSYS;
}

static void device_ring_close(struct ctl_device *device)
{
	(void)device;
}
#endif

int ctl_device_open(const char *name, struct ctl_device *device)
{
	*device = (struct ctl_device){ .name = name };
	if (!name)
		return 0;
	if (!strcmp(name, "io_uring"))
		return device_ring(device);
	device->verbs = device_find(name);
	if (device->verbs)
		device->pd = ibv_alloc_pd(device->verbs);
	if (device->pd)
		return 0;
	ctl_say("%s: %s", name, errno == ENODEV ? "no such RDMA device" : strerror(errno));
	ctl_device_close(device);
	return -ENODEV;
}

void ctl_device_close(struct ctl_device *device)
{
	if (device->ring)
		device_ring_close(device);
	if (device->pd)
		ibv_dealloc_pd(device->pd);
	if (device->verbs)
		ibv_close_device(device->verbs);
	*device = (struct ctl_device){ .name = NULL };
}
