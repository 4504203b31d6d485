/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The matrix with fixed buffers of io_uring, on the machine at hand. Data comes from and
 * goes to a memfd: "put" is a read into the lease, "get" a write from it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <pinlease/uring.h>

#include "matrix.h"

static struct pinlease_uring *ring;
static int outside;

static void ring_setup(const struct mx_kind *kind)
{
	int r = pinlease_uring_new(4, 4, &ring);

	/* The column is that of Linux 6.18; after it leases became opt-in (kernel_lease_take). */
	if (kt_kernel_from(6, 19) && !strcmp(kind->name, "hugetlbfs"))
		kt_skip("the table has hugetlbfs with leases");
	if (r == -EPERM || r == -ENOSYS || r == -EOPNOTSUPP)
		kt_skip("no io_uring here: %s", strerror(-r));
	rt_assert(!r, "no ring: %s", strerror(-r));
	outside = memfd_create("outside", MFD_CLOEXEC);
	rt_assert(outside >= 0 && !ftruncate(outside, MX_CHUNK), "no memfd: %s", strerror(errno));
}

static void ring_teardown(void)
{
	close(outside);
	rt_assert(!pinlease_uring_free(ring), "the ring is not empty");
}

static void ring_fill(struct pinlease_opts *opts, uint32_t access)
{
	(void)access;
	opts->backend = pinlease_uring_backend();
	opts->backend_arg = ring;
}

static int ring_done(uint32_t n)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };

	if (pinlease_uring_next(ring, &done, 20000) != 1)
		return -ETIMEDOUT;
	return done.res == (int)n ? 0 : done.res < 0 ? done.res : -EIO;
}

static int ring_put(struct pinlease *lease, const struct pinlease_view *view, uint64_t off, uint32_t n)
{
	int r;

	(void)view;
	rt_assert(pwrite(outside, mx_buf, n, 0) == (ssize_t)n, "pwrite: %s", strerror(errno));
	r = pinlease_uring_read(ring, lease, off, n, outside, 0, 1);
	return r ? r : ring_done(n);
}

static int ring_get(struct pinlease *lease, const struct pinlease_view *view, uint64_t off, uint32_t n)
{
	int r;

	(void)view;
	r = pinlease_uring_write(ring, lease, off, n, outside, 0, 1);
	if (!r)
		r = ring_done(n);
	rt_assert(pread(outside, mx_buf, n, 0) == (ssize_t)n, "pread: %s", strerror(errno));
	return r;
}

static void ring_assert_clean(void)
{
	struct pinlease_uring_info info = { .size = sizeof(info) };

	rt_assert(!pinlease_uring_info(ring, &info) && !info.registered && !info.in_flight && !info.kept,
		  "the ring has something left: %u buffers, %u requests, %u completions", info.registered,
		  info.in_flight, info.kept);
}

struct mx_device mx_device = {
	.column = "uring",
	.setup = ring_setup,
	.teardown = ring_teardown,
	.fill = ring_fill,
	.put = ring_put,
	.get = ring_get,
	.assert_clean = ring_assert_clean,
};
