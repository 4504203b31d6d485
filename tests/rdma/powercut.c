/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * powercut FS: nothing that pinlease_sync promised is lost by a power cut.
 *
 * Files of one file system over dm-log-writes (cut.h), each under a lease that is written to
 * by RDMA while it is synced: staged, by a peer, a process of its own, whose writes nobody
 * counts; staged, of blocks that were never written, by queue pairs of this process, which
 * tells each write; through on-demand paging, by name, where the device has it; and the
 * control, for which the kernel is never asked to put anything on the disk. What a peer has
 * a completion for is promised by the next sync.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pinlease.h>

#include "cut.h"
#include "rounds.h"

struct arm {
	const char *name;
	uint32_t mode, flags;
	bool control, unwritten, remote;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
	struct kt_pair pair; /* of this process, unless remote */
	struct ibv_mr *source;
	struct cut_writer writer;
	struct rt_peer *books;
};

static struct arm arms[] = {
	{ .name = "peer", .mode = PINLEASE_MODE_STAGED, .remote = true },
	{ .name = "told", .mode = PINLEASE_MODE_STAGED, .flags = PINLEASE_L_DIRTY_TOLD, .unwritten = true },
	{ .name = "control", .mode = PINLEASE_MODE_STAGED, .control = true },
	{ .name = "odp", .mode = PINLEASE_MODE_ODP, .unwritten = true }, /* the last: not everywhere */
};
#define ARMS (sizeof(arms) / sizeof(arms[0]))

static struct kt_rdma dev;
static struct kt_qp to_peer;
static int arm_sync(void *arg)
{
	struct arm *arm = arg;

	cut_pretend = arm->control;
	return pinlease_sync(arm->lease, 0, 0, 0);
}

/*
 * The kernel gives up a fault for a device when that has taken a second and a writeback has
 * overtaken it (HMM_RANGE_DEFAULT_TIMEOUT), and rxe says so to the peer as a remote access error:
 * seen where the machine had far more to do than it could. Nothing was acknowledged; it is
 * written again, on a new connection.
 */
static int arm_post(struct arm *arm, uint64_t off, const uint64_t *words)
{
	uint64_t start = kt_now();
	int r = kt_do(&arm->pair.peer, IBV_WR_RDMA_WRITE, words, arm->source->lkey, RT_SLOT,
		      arm->view.iova + off, arm->view.rkey);

	if (arm->mode != PINLEASE_MODE_ODP || r != -(1000 + IBV_WC_REM_ACCESS_ERR))
		return r;
	printf("%s: a write was refused after %llu ms\n", arm->name,
	       (unsigned long long)(kt_now() - start) / 1000000);
	kt_pair_drop(&arm->pair);
	r = kt_pair_make(&dev, &arm->pair, 4);
	return r ? r : -EAGAIN;
}

static int arm_write(void *arg, uint32_t slot, const uint64_t *words)
{
	struct arm *arm = arg;
	uint64_t off = slot * (uint64_t)RT_SLOT;
	uint32_t gen;
	int r;

	r = pinlease_dma_begin(arm->lease, 1, &gen);
	if (r)
		return r;
	do {
		r = arm_post(arm, off, words);
	} while (r == -EAGAIN);
	if (!r && arm->flags & PINLEASE_L_DIRTY_TOLD)
		r = pinlease_mark_dirty(arm->lease, off, RT_SLOT);
	pinlease_dma_end(arm->lease, 1, gen);
	return r;
}

static void arm_open(struct arm *arm, struct pinlease_ctx *ctx, const char *path)
{
	struct pinlease_opts lo = { .size = sizeof(lo),
				    .pd = dev.pd,
				    .mode = arm->mode,
				    .flags = arm->flags,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_why why = { 0 };
	int r = pinlease_file_open(ctx, path, NULL, &why, &arm->file);

	rt_assert(!r, "open %s: %s, %s", path, strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_acquire(arm->file, 0, CUT_BYTES, &lo, &why, &arm->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	arm->view.size = sizeof(arm->view);
	r = pinlease_view_get(arm->lease, 0, &arm->view);
	rt_assert(!r && arm->view.mode == arm->mode, "view: %s, mode %u", strerror(-r), arm->view.mode);
}

/* Who writes into it. */
static void arm_connect(struct arm *arm)
{
	int r;

	if (arm->remote) {
		rt_peer_connect(arm->books, &dev, &to_peer);
		arm->books->addr = arm->view.iova;
		arm->books->rkey = arm->view.rkey;
		arm->books->slots = CUT_SLOTS;
		rt_peer_order(arm->books, RT_STREAM);
		return;
	}
	r = kt_pair_make(&dev, &arm->pair, 4);
	rt_assert(!r, "no queue pairs: %s", strerror(-r));
	arm->source = ibv_reg_mr(dev.pd, arm->writer.words, RT_SLOT, 0);
	rt_assert(arm->source, "ibv_reg_mr: %s", strerror(errno));
	cut_writer_start(&arm->writer);
}

static void arm_rest(struct arm *arm)
{
	if (!arm->remote) {
		cut_writer_stop(&arm->writer);
		return;
	}
	rt_peer_rest(arm->books);
}

static void arm_close(struct arm *arm)
{
	int r = pinlease_release(arm->lease);

	rt_assert(!r, "release: %s", strerror(-r));
	rt_assert(!pinlease_file_close(arm->file), "file_close");
	if (arm->remote)
		return;
	ibv_dereg_mr(arm->source);
	kt_pair_drop(&arm->pair);
}

static void arm_add(struct arm *arm, struct cut *cut, struct pinlease_ctx *ctx)
{
	struct cut_arm like = { .name = arm->name,
				.control = arm->control,
				.unwritten = arm->unwritten,
				.sync = arm_sync,
				.arg = arm };

	if (!arm->remote) {
		arm->writer = (struct cut_writer){ .write = arm_write, .arg = arm };
		cut_writer_make(&arm->writer);
		arm->books = arm->writer.books;
	}
	like.books = arm->books;
	arm_open(arm, ctx, cut_arm_add(cut, &like)->path);
}

int main(int argc, char **argv)
{
	struct pinlease_ctx *ctx;
	struct kt_call *peer;
	size_t used = ARMS, i;
	struct cut cut;

	rt_assert(argc == 2, "usage: powercut FILESYSTEM");
	kt_init();
	rt_require();
	cut_begin(&cut, argv[1], REC_DM, pl_rounds(PL_R_powercut_points));
	arms[0].books = kt_shared(sizeof(*arms[0].books));
	rt_assert(arms[0].books, "out of shared memory");
	arms[0].books->patient = true;
	peer = rt_peer_start(arms[0].books);
	rt_open(&dev);
	dev.patient = true;
	if (!dev.odp) {
		kt_note("on-demand paging");
		used--;
	}
	rt_assert(!pinlease_ctx_new(NULL, &ctx), "ctx_new");
	for (i = 0; i < used; i++)
		arm_add(&arms[i], &cut, ctx);
	for (i = 0; i < used; i++)
		arm_connect(&arms[i]);
	cut_run(&cut);
	for (i = 0; i < used; i++)
		arm_rest(&arms[i]);
	for (i = 0; i < used; i++)
		arm_close(&arms[i]);
	rt_peer_order(arms[0].books, RT_LEAVE);
	kt_call_end(peer);
	rt_assert(!pinlease_ctx_free(ctx), "ctx_free");
	kt_qp_drop(&to_peer);
	kt_rdma_close(&dev);
	cut_judge(&cut);
	return 0;
}
