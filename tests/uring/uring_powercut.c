/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uring_powercut FS: nothing that pinlease_sync promised is lost by a power cut.
 *
 * Three files of one file system on a recorded disk (cut.h), each under a staged lease that
 * a ring of its own reads into while it is synced: everything dirty, dirty as told in a file
 * whose blocks were never written, and the control, for which the kernel is never asked to
 * put anything on the disk. tests/rdma/powercut.c is the same with a remote peer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <pinlease/uring.h>

#include "cut.h"
#include "rounds.h"

struct arm {
	const char *name;
	uint32_t flags;
	bool control, unwritten;
	struct pinlease_uring *ring;
	struct pinlease_file *file;
	struct pinlease *lease;
	int source; /* memfd: what the device reads from */
	struct cut_writer writer;
};

static struct arm arms[] = {
	{ .name = "all" },
	{ .name = "told", .flags = PINLEASE_L_DIRTY_TOLD, .unwritten = true },
	{ .name = "control", .control = true },
};
#define ARMS (sizeof(arms) / sizeof(arms[0]))

static int arm_sync(void *arg)
{
	struct arm *arm = arg;

	cut_pretend = arm->control;
	return pinlease_sync(arm->lease, 0, 0, 0);
}

static int arm_write(void *arg, uint32_t slot, const uint64_t *words)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };
	struct arm *arm = arg;
	int r;

	if (pwrite(arm->source, words, RT_SLOT, 0) != (ssize_t)RT_SLOT)
		return -EIO;
	r = pinlease_uring_read(arm->ring, arm->lease, slot * (uint64_t)RT_SLOT, RT_SLOT, arm->source, 0,
				slot);
	if (r)
		return r;
	r = pinlease_uring_next(arm->ring, &done, (int)KT_LONG);
	return r < 0 ? r : done.res == (int)RT_SLOT ? 0 : -EIO;
}

static void arm_open(struct arm *arm, struct pinlease_ctx *ctx, const char *path)
{
	struct pinlease_opts lo = { .size = sizeof(lo),
				    .flags = arm->flags,
				    .backend = pinlease_uring_backend() };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_why why = { 0 };
	int r = pinlease_uring_new(4, 2, &arm->ring);

	if (r == -EPERM || r == -ENOSYS || r == -EOPNOTSUPP)
		kt_skip("no io_uring here: %s", strerror(-r));
	rt_assert(!r, "uring_new: %s", strerror(-r));
	arm->source = memfd_create("source", MFD_CLOEXEC);
	rt_assert(arm->source >= 0, "memfd: %s", strerror(errno));
	r = pinlease_file_open(ctx, path, NULL, &why, &arm->file);
	rt_assert(!r, "open %s: %s, %s", path, strerror(-r), pinlease_reason_str(why.reason));
	lo.backend_arg = arm->ring;
	r = pinlease_acquire(arm->file, 0, CUT_BYTES, &lo, &why, &arm->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	rt_assert(!pinlease_lease_info(arm->lease, &info) && info.mode == PINLEASE_MODE_STAGED, "mode %u",
		  info.mode);
}

static void arm_close(struct arm *arm)
{
	int r = pinlease_release(arm->lease);

	rt_assert(!r, "release: %s", strerror(-r));
	rt_assert(!pinlease_file_close(arm->file) && !pinlease_uring_free(arm->ring), "close");
	close(arm->source);
}

static void arm_add(struct arm *arm, struct cut *cut, struct pinlease_ctx *ctx)
{
	struct cut_arm like = { .name = arm->name,
				.control = arm->control,
				.unwritten = arm->unwritten,
				.sync = arm_sync,
				.arg = arm };

	arm->writer = (struct cut_writer){ .write = arm_write, .arg = arm };
	cut_writer_make(&arm->writer);
	like.books = arm->writer.books;
	arm_open(arm, ctx, cut_arm_add(cut, &like)->path);
}

int main(int argc, char **argv)
{
	struct pinlease_ctx *ctx;
	struct cut cut;
	size_t i;

	rt_assert(argc == 2, "usage: uring_powercut FILESYSTEM");
	kt_init();
	if (geteuid())
		kt_skip("mounts file systems: needs root");
	cut_begin(&cut, argv[1], REC_FUSE, pl_rounds(PL_R_powercut_points));
	rt_assert(!pinlease_ctx_new(NULL, &ctx), "ctx_new");
	for (i = 0; i < ARMS; i++)
		arm_add(&arms[i], &cut, ctx);
	for (i = 0; i < ARMS; i++)
		cut_writer_start(&arms[i].writer);
	cut_run(&cut);
	for (i = 0; i < ARMS; i++)
		cut_writer_stop(&arms[i].writer);
	for (i = 0; i < ARMS; i++)
		arm_close(&arms[i]);
	rt_assert(!pinlease_ctx_free(ctx), "ctx_free");
	cut_judge(&cut);
	return 0;
}
