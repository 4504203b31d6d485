/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What writes into leases: a ring with fixed buffers, or a pair of RDMA queue pairs over
 * loopback. The sources are a memfd, for the ring to read and for the device to be registered.
 */
#include "soak.h"

#include <errno.h>
#include <pinlease/uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kt_rdma.h"

struct request {
	struct pinlease *lease;
	uint32_t gen;
	bool out, counted;
};

struct device {
	struct pinlease_uring *ring;
	struct kt_rdma rdma;
	struct kt_pair pair;
	struct ibv_mr *mr;
	int source;
	char *memory;
	struct request request[SOAK_DEPTH];
};

static int sources(struct device *d)
{
	size_t size = SOAK_DEPTH * SOAK_BLOCK;

	d->source = memfd_create("soak", MFD_CLOEXEC);
	if (d->source < 0 || ftruncate(d->source, (off_t)size))
		return -errno;
	d->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, d->source, 0);
	return d->memory == MAP_FAILED ? -errno : 0;
}

static int rdma_open(struct device *d)
{
	int r = kt_rdma_open(&d->rdma);

	if (r)
		return r;
	d->rdma.patient = true;
	d->mr = ibv_reg_mr(d->rdma.pd, d->memory, SOAK_DEPTH * SOAK_BLOCK, IBV_ACCESS_LOCAL_WRITE);
	return d->mr ? kt_pair_make(&d->rdma, &d->pair, SOAK_DEPTH) : -errno;
}

struct device *device_open(void)
{
	struct device *d = calloc(1, sizeof(*d));
	int r = d ? sources(d) : -ENOMEM;

	if (!r)
		r = soak->rdma ? rdma_open(d) : pinlease_uring_new(4 * SOAK_DEPTH, 4 * SOAK_SLOTS, &d->ring);
	if (!r)
		return d;
	soak_report(NULL, "device: %s", strerror(-r));
	return NULL;
}

void device_close(struct device *d)
{
	int r = d->ring ? pinlease_uring_free(d->ring) : 0;

	if (r)
		soak_report(NULL, "ring: %s", strerror(-r));
	if (soak->rdma) {
		kt_pair_drop(&d->pair);
		ibv_dereg_mr(d->mr);
		kt_rdma_close(&d->rdma);
	}
	munmap(d->memory, SOAK_DEPTH * SOAK_BLOCK);
	close(d->source);
	free(d);
}

void device_opts(struct device *d, struct pinlease_opts *opts)
{
	opts->pd = d->rdma.pd;
	opts->ibv_access = soak->rdma ? IBV_ACCESS_REMOTE_WRITE : 0;
	opts->backend = d->ring ? pinlease_uring_backend() : NULL;
	opts->backend_arg = d->ring;
}

void *device_source(struct device *d, unsigned int request)
{
	return d->memory + request * SOAK_BLOCK;
}

/* Counted as the manual pages say, and told, which is an error where nothing is to be told. */
static int rdma_write(struct device *d, struct request *q, unsigned int request, uint64_t off)
{
	struct pinlease_view view = { .size = sizeof(view) };
	int r = q->counted ? pinlease_dma_begin(q->lease, 1, &q->gen) : 0;

	if (r)
		return r;
	r = pinlease_view_get(q->lease, 0, &view);
	if (!r && off + SOAK_BLOCK > view.len)
		r = -ERANGE;
	if (!r && q->counted)
		r = pinlease_mark_dirty(q->lease, off, SOAK_BLOCK);
	if (!r || r == -EINVAL)
		r = kt_post(&d->pair.peer, IBV_WR_RDMA_WRITE, request, device_source(d, request), d->mr->lkey,
			    SOAK_BLOCK, view.iova + off, view.rkey);
	if (r && q->counted)
		pinlease_dma_end(q->lease, 1, q->gen);
	return r;
}

int device_write(struct device *d, struct pinlease *lease, unsigned int request, uint64_t off, bool uncounted)
{
	struct request *q = &d->request[request];
	int r;

	*q = (struct request){ .lease = lease, .counted = !uncounted };
	if (d->ring)
		r = pinlease_uring_read(d->ring, lease, off, SOAK_BLOCK, d->source, request * SOAK_BLOCK,
					request);
	else
		r = rdma_write(d, q, request, off);
	q->out = !r;
	return r;
}

/* A write that was cut off has cost the connection: the others come back flushed, then a new one is made. */
static void rdma_reconnect(struct device *d)
{
	for (unsigned int i = 0; i < SOAK_DEPTH; i++)
		if (d->request[i].out)
			return;
	if (kt_qp_state(&d->pair.peer) == IBV_QPS_RTS)
		return;
	kt_pair_drop(&d->pair);
	if (kt_pair_make(&d->rdma, &d->pair, SOAK_DEPTH))
		soak_report(NULL, "no new connection");
}

static bool rdma_next(struct device *d, unsigned int ms, struct device_done *done)
{
	struct ibv_wc wc;
	struct request *q;

	if (kt_poll(&d->pair.peer, (int)ms, &wc) <= 0)
		return false;
	done->request = (unsigned int)wc.wr_id;
	done->ok = wc.status == IBV_WC_SUCCESS;
	q = &d->request[done->request];
	if (q->counted)
		pinlease_dma_end(q->lease, 1, q->gen);
	q->out = false;
	if (!done->ok)
		rdma_reconnect(d);
	return true;
}

bool device_next(struct device *d, unsigned int ms, struct device_done *done)
{
	struct pinlease_uring_completion c = { .size = sizeof(c) };

	if (!d->ring)
		return rdma_next(d, ms, done);
	if (pinlease_uring_next(d->ring, &c, (int)ms) != 1)
		return false;
	done->request = (unsigned int)c.user_data;
	done->ok = c.res == (int)SOAK_BLOCK;
	d->request[done->request].out = false;
	if (!done->ok && c.res != -ECANCELED)
		soak_report(NULL, "request: %d", c.res);
	return true;
}
