/* SPDX-License-Identifier: BSD-3-Clause */
/* The device of eio.h that is RDMA: a pair of queue pairs of this process. */
#include <errno.h>
#include <string.h>

#include "eio_side.h"

static struct kt_rdma dev;
static struct kt_pair pair;
static _Alignas(RT_SLOT) unsigned char source[RT_SLOT];
static struct ibv_mr *source_mr;

static void rdma_opts(struct pinlease_opts *lo)
{
	lo->pd = dev.pd;
	lo->ibv_access = IBV_ACCESS_REMOTE_WRITE;
}

static int rdma_write(struct pinlease *lease, bool told, uint64_t off, const uint64_t *words)
{
	struct pinlease_view view = { .size = sizeof(view) };
	uint32_t gen;
	int r = pinlease_dma_begin(lease, 1, &gen);

	if (r)
		return r;
	memcpy(source, words, sizeof(source));
	r = pinlease_view_get(lease, 0, &view);
	if (!r)
		r = kt_do(&pair.peer, IBV_WR_RDMA_WRITE, source, source_mr->lkey, RT_SLOT, view.iova + off,
			  view.rkey);
	if (!r && told)
		r = pinlease_mark_dirty(lease, off, RT_SLOT);
	pinlease_dma_end(lease, 1, gen);
	return r;
}

const struct eio_device *eio_rdma_open(void)
{
	static struct eio_device device = { .opts = rdma_opts, .write = rdma_write };

	rt_open(&dev);
	dev.patient = true;
	device.odp = dev.odp;
	rt_assert(!kt_pair_make(&dev, &pair, 4), "no queue pairs");
	source_mr = ibv_reg_mr(dev.pd, source, sizeof(source), 0);
	rt_assert(source_mr, "ibv_reg_mr: %s", strerror(errno));
	return &device;
}

void eio_rdma_close(void)
{
	ibv_dereg_mr(source_mr);
	kt_pair_drop(&pair);
	kt_rdma_close(&dev);
}
