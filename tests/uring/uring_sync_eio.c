/* SPDX-License-Identifier: BSD-3-Clause */
/* uring_sync_eio FS: tests/rdma/eio.h where there is neither RDMA nor a device mapper. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <pinlease/uring.h>

#include "eio.h"
#include "rt.h"

static struct pinlease_uring *ring;
static int source;

static void ring_opts(struct pinlease_opts *lo)
{
	lo->backend = pinlease_uring_backend();
	lo->backend_arg = ring;
}

/* The ring tells by itself. */
static int ring_write(struct pinlease *lease, bool told, uint64_t off, const uint64_t *words)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };
	int r;

	(void)told;
	if (pwrite(source, words, RT_SLOT, 0) != (ssize_t)RT_SLOT)
		return -EIO;
	r = pinlease_uring_read(ring, lease, off, RT_SLOT, source, 0, 0);
	if (!r)
		r = pinlease_uring_next(ring, &done, (int)KT_LONG);
	return r < 0 ? r : r && done.res == (int)RT_SLOT ? 0 : -EIO;
}

int main(int argc, char **argv)
{
	const struct eio_device device = { .opts = ring_opts, .write = ring_write };
	int r;

	rt_assert(argc == 2, "usage: uring_sync_eio FILESYSTEM");
	kt_init();
	if (geteuid())
		kt_skip("mounts file systems: needs root");
	source = memfd_create("source", MFD_CLOEXEC);
	r = pinlease_uring_new(4, 8, &ring);
	if (r == -EPERM || r == -ENOSYS || r == -EOPNOTSUPP)
		kt_skip("no io_uring here: %s", strerror(-r));
	rt_assert(!r && source >= 0, "uring_new: %s", strerror(-r));
	eio_run(argv[1], REC_FUSE, &device);
	rt_assert(!pinlease_uring_free(ring), "uring_free");
	return 0;
}
