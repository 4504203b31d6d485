/* SPDX-License-Identifier: BSD-3-Clause */
/* The matrix on an RDMA device: a peer of its own queue pair writes and reads. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "matrix.h"

static struct kt_rdma dev;
static struct kt_pair pair;
static struct ibv_mr *mr;

static void rdma_pair(void)
{
	int r;

	kt_pair_drop(&pair);
	r = kt_pair_make(&dev, &pair, 4);
	rt_assert(!r, "no queue pairs: %s", strerror(-r));
}

static void rdma_setup(const struct mx_kind *kind)
{
	(void)kind;
	rt_require();
	rt_open(&dev);
	dev.patient = true;
	rt_assert(dev.mtu == IBV_MTU_4096, "the path MTU is not 4096: odp by name cannot be right");
	mr = ibv_reg_mr(dev.pd, mx_buf, sizeof(mx_buf), IBV_ACCESS_LOCAL_WRITE);
	rt_assert(mr, "ibv_reg_mr: %s", strerror(errno));
	rdma_pair();
}

static void rdma_teardown(void)
{
	rt_assert(!ibv_dereg_mr(mr), "ibv_dereg_mr");
	kt_pair_drop(&pair);
	kt_rdma_close(&dev);
}

static void rdma_fill(struct pinlease_opts *opts, uint32_t access)
{
	opts->pd = dev.pd;
	opts->ibv_access = IBV_ACCESS_REMOTE_READ | (access == PINLEASE_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0);
}

static int rdma_put(struct pinlease *lease, const struct pinlease_view *view, uint64_t off, uint32_t n)
{
	(void)lease;
	return kt_do(&pair.peer, IBV_WR_RDMA_WRITE, mx_buf, mr->lkey, n, view->iova + off, view->rkey);
}

static int rdma_get(struct pinlease *lease, const struct pinlease_view *view, uint64_t off, uint32_t n)
{
	(void)lease;
	return kt_do(&pair.peer, IBV_WR_RDMA_READ, mx_buf, mr->lkey, n, view->iova + off, view->rkey);
}

static void rdma_assert_dead(const struct pinlease_view *view)
{
	int r = rdma_get(NULL, view, 0, 64);

	rt_assert(r == -(1000 + IBV_WC_REM_ACCESS_ERR), "a read with the old key: %d", r);
	rdma_pair();
}

/* What a registration pins is in VmPin, which matrix.c compares; the device itself goes at the end. */
static void rdma_assert_clean(void)
{
}

struct mx_device mx_device = {
	.setup = rdma_setup,
	.teardown = rdma_teardown,
	.fill = rdma_fill,
	.put = rdma_put,
	.get = rdma_get,
	.assert_dead = rdma_assert_dead,
	.assert_clean = rdma_assert_clean,
	.aligned_odp = true,
};
