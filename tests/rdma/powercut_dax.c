/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * powercut_dax ext4|xfs|device: nothing that pinlease_sync promised is lost by a power cut, on
 * persistent memory that loses what was not persisted (shadow.h). After a sync that returned
 * 0 the power is cut: an image of /dev/pmem0 with the shadows in place of the files' blocks
 * is mounted, and each file must hold what its last sync promised. A device-dax has no file
 * system: its shadow is judged, which needs the deep flush, too. The metadata in the image is
 * what the kernel had made durable by itself (MAP_SYNC); one file consists of blocks that
 * were never written.
 *
 * For the controls the seam persists nothing, or leaves out the deep flush: they must lose.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <pinlease.h>

#include "cut.h"
#include "rounds.h"
#include "shadow.h"

#define FS_BYTES  (32ull << 20)
#define MORE	  10u /* writes between two syncs of a lease */
#define WAIT_NS	  20000000000ull
#define DAX_AT(n) ((n) * (2ull << 20)) /* the pages of a device-dax are huge */

struct arm {
	const char *name;
	uint32_t mode, flags;
	uint64_t off; /* in a device-dax */
	bool device, control, unwritten, remote;
	bool used;
	enum shadow_left_out left_out;
	char path[KT_PATH_MAX];
	struct shadow shadow;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
	struct cut_writer writer;
	struct rt_peer *books;
	struct kt_pair pair; /* of this process; remote: the process that writes, and its end here */
	struct kt_qp qp;
	struct kt_call *peer;
	struct ibv_mr *source;
	uint32_t promised[CUT_SLOTS];
	uint64_t next; /* acknowledged writes before the next sync */
	unsigned int syncs, points, held, missing, lost_points;
};

static struct arm arms[] = {
	{ .name = "staged", .mode = PINLEASE_MODE_STAGED },
	{ .name = "told", .mode = PINLEASE_MODE_STAGED, .flags = PINLEASE_L_DIRTY_TOLD, .unwritten = true },
	{ .name = "odp", .mode = PINLEASE_MODE_ODP },
	{ .name = "control", .mode = PINLEASE_MODE_STAGED, .control = true, .left_out = SHADOW_PERSIST },
	{ .name = "pinned", .mode = PINLEASE_MODE_PINNED, .device = true, .remote = true },
	{ .name = "staged", .mode = PINLEASE_MODE_STAGED, .device = true, .off = DAX_AT(1) },
	{ .name = "control without persist",
	  .mode = PINLEASE_MODE_PINNED,
	  .device = true,
	  .control = true,
	  .left_out = SHADOW_PERSIST,
	  .off = DAX_AT(2) },
	{ .name = "control without deep flush",
	  .mode = PINLEASE_MODE_PINNED,
	  .device = true,
	  .control = true,
	  .left_out = SHADOW_DEEP_FLUSH,
	  .off = DAX_AT(3) },
};
#define ARMS (sizeof(arms) / sizeof(arms[0]))

static struct kt_rdma dev;
static struct kt_pair pair;
static pthread_t writer;
static _Atomic bool writer_stop;
static const char *type; /* of the file system; NULL: the device-dax */
static struct kt_fs fs;
static struct pinlease_ctx *ctx;

/* The files */

/* As small as it goes: all of it is copied for each cut. */
static void fs_make(void)
{
	static const char *const ext4[] = {
		"mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0",
		"/dev/pmem0", NULL
	};
	static const char *const xfs[] = {
		"mkfs.xfs", "-q", "-f", "-K", "--unsupported", "-m", "reflink=0", "/dev/pmem0", "-d", NULL
	};
	char size[32];
	int r;

	if (access("/dev/pmem0", F_OK))
		kt_skip("no /dev/pmem0");
	snprintf(size, sizeof(size), strcmp(type, "xfs") ? "%lluk" : "size=%lluk", FS_BYTES >> 10);
	rt_assert(!kt_run(strcmp(type, "xfs") ? ext4 : xfs, size), "mkfs.%s", type);
	r = kt_fs_mount(&fs, type, "/dev/pmem0", "dax=always");
	rt_assert(!r, "mount: %s", strerror(-r));
}

static void file_on_device(struct arm *arm)
{
	uint64_t size;
	int r = kt_devdax(arm->path, &size), fd;
	void *at;

	rt_assert(!r && size >= DAX_AT(4), "device-dax: %s", strerror(-r));
	fd = open(arm->path, O_RDWR | O_CLOEXEC);
	rt_assert(fd >= 0 && !fstat(fd, &arm->shadow.st), "%s: %s", arm->path, strerror(errno));
	at = mmap(NULL, DAX_AT(1), PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)arm->off);
	rt_assert(at != MAP_FAILED, "mmap: %s", strerror(errno));
	memset(at, 'k', CUT_BYTES);
	munmap(at, DAX_AT(1));
	close(fd);
}

static void file_on_fs(struct arm *arm)
{
	struct statx stx;
	int r = kt_file(arm->path, fs.dir, arm->name, arm->unwritten ? 0 : CUT_BYTES), fd;
	uint32_t i;

	rt_assert(!r, "no file: %s", strerror(-r));
	fd = open(arm->path, O_RDWR | O_CLOEXEC);
	rt_assert(fd >= 0 && !fstat(fd, &arm->shadow.st), "open: %s", strerror(errno));
	rt_assert(!statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx) &&
			  stx.stx_attributes & STATX_ATTR_DAX,
		  "the file is not dax");
	rt_assert(!arm->unwritten || !fallocate(fd, 0, 0, (off_t)CUT_BYTES), "fallocate: %s",
		  strerror(errno));
	close(fd);
	arm->shadow.extents = kt_extents(arm->path, arm->shadow.extent, KT_EXTENTS);
	rt_assert(arm->shadow.extents > 0 && arm->shadow.extents < (int)KT_EXTENTS, "%d extents",
		  arm->shadow.extents);
	/* To the judge a slot of zeros is one whose first write was removed. */
	for (i = 0; i < CUT_SLOTS && arm->unwritten; i++) {
		atomic_store(&arm->books->slot[i].posted, 1);
		atomic_store(&arm->books->slot[i].base, 1);
	}
}

static int arm_write(void *arg, uint32_t slot, const uint64_t *words)
{
	struct arm *arm = arg;
	uint64_t off = slot * (uint64_t)RT_SLOT;
	uint32_t gen;
	int r = pinlease_dma_begin(arm->lease, 1, &gen);

	if (r)
		return r;
	r = kt_do(&pair.peer, IBV_WR_RDMA_WRITE, words, arm->source->lkey, RT_SLOT, arm->view.iova + off,
		  arm->view.rkey);
	if (!r && arm->flags & PINLEASE_L_DIRTY_TOLD)
		r = pinlease_mark_dirty(arm->lease, off, RT_SLOT);
	pinlease_dma_end(arm->lease, 1, gen);
	return r;
}

static void arm_books(struct arm *arm)
{
	arm->used = true;
	arm->shadow = (struct shadow){
		.name = arm->name,
		.deep = arm->device,
		.left_out = arm->left_out,
		.off = arm->off,
		.len = CUT_BYTES,
	};
	shadow_add(&arm->shadow, arm->unwritten ? 0 : 'k');
	arm->next = MORE;
	arm->writer = (struct cut_writer){ .write = arm_write, .arg = arm };
	if (arm->remote) {
		arm->books = kt_shared(sizeof(*arm->books));
		rt_assert(arm->books, "out of shared memory");
		arm->books->patient = true;
		arm->peer = rt_peer_start(arm->books);
	} else {
		cut_writer_make(&arm->writer);
		arm->books = arm->writer.books;
	}
}

static void arm_open(struct arm *arm)
{
	struct pinlease_opts lo = { .size = sizeof(lo),
				    .pd = dev.pd,
				    .mode = arm->mode,
				    .flags = arm->flags,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_why why = { 0 };
	size_t i;
	int r = 0;

	for (i = 0; i < ARMS && arm->device; i++)
		if (arms[i].device && arms[i].file)
			arm->file = arms[i].file;
	if (!arm->file)
		r = pinlease_file_open(ctx, arm->path, NULL, &why, &arm->file);
	rt_assert(!r, "open %s: %s, %s", arm->path, strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_acquire(arm->file, arm->off, CUT_BYTES, &lo, &why, &arm->lease);
	rt_assert(!r, "%s: acquire: %s, %s", arm->name, strerror(-r), pinlease_reason_str(why.reason));
	arm->view.size = sizeof(arm->view);
	r = pinlease_view_get(arm->lease, 0, &arm->view);
	rt_assert(!r, "view: %s", strerror(-r));
	rt_assert(arm->shadow.pmem, "%s: not mapped by libpmem2", arm->name);
}

static void arm_start(struct arm *arm)
{
	if (arm->remote) {
		rt_peer_connect(arm->books, &dev, &arm->qp);
		arm->books->addr = arm->view.iova;
		arm->books->rkey = arm->view.rkey;
		arm->books->slots = CUT_SLOTS;
		return;
	}
	arm->source = ibv_reg_mr(dev.pd, arm->writer.words, RT_SLOT, 0);
	rt_assert(arm->source, "ibv_reg_mr: %s", strerror(errno));
}

/* One thread for all that this process writes itself: it spins, and the guest has two processors. */
static void *writer_main(void *arg)
{
	uint32_t k;
	size_t i;

	(void)arg;
	for (k = 0; !atomic_load(&writer_stop); k++)
		for (i = 0; i < ARMS; i++)
			if (arms[i].used && !arms[i].remote)
				cut_writer_step(&arms[i].writer, k % CUT_SLOTS);
	return NULL;
}

static void arm_stop(struct arm *arm)
{
	if (!arm->remote)
		return;
	rt_peer_rest(arm->books);
}

static void arm_close(struct arm *arm)
{
	int r = pinlease_release(arm->lease);

	rt_assert(!r, "%s: release: %s", arm->name, strerror(-r));
	/* The device's leases are of one file. */
	if (!arm->device || arm == &arms[ARMS - 1])
		rt_assert(!pinlease_file_close(arm->file), "file_close");
	if (arm->remote) {
		rt_peer_order(arm->books, RT_LEAVE);
		kt_call_end(arm->peer);
		kt_qp_drop(&arm->qp);
		return;
	}
	ibv_dereg_mr(arm->source);
}

/* The cuts */

static void arm_sync(struct arm *arm)
{
	uint64_t until = kt_now() + WAIT_NS;
	uint32_t promise[CUT_SLOTS], i;
	int r;

	/* Around its own syncs only: the others want the guest's processors, too. */
	if (arm->remote)
		rt_peer_order(arm->books, RT_STREAM);
	while (atomic_load(&arm->books->acked) < arm->next) {
		rt_assert(kt_now() < until, "%s: nothing is written, status %u", arm->name,
			  atomic_load(&arm->books->error));
		usleep(100);
	}
	for (i = 0; i < CUT_SLOTS; i++)
		promise[i] = atomic_load(&arm->books->slot[i].acked);
	r = pinlease_sync(arm->lease, 0, 0, 0);
	rt_assert(!r, "%s: sync: %s", arm->name, strerror(-r));
	memcpy(arm->promised, promise, sizeof(promise));
	arm->next = atomic_load(&arm->books->acked) + MORE;
	arm->syncs++;
	if (arm->remote)
		rt_peer_order(arm->books, RT_REST);
}

/* The books as they would be had nothing been acknowledged since the promise. */
static void arm_judge(struct arm *arm, const unsigned char *image, size_t size)
{
	static struct rt_peer then;
	unsigned int missing, held;
	uint32_t i;

	for (i = 0; i < CUT_SLOTS; i++) {
		then.slot[i].acked = arm->promised[i];
		then.slot[i].posted = atomic_load(&arm->books->slot[i].posted);
		then.slot[i].base = atomic_load(&arm->books->slot[i].base);
	}
	then.quiet = arm->control;
	missing = rt_missing(&then, image, size, RT_ALL, 0, &held);
	arm->points++;
	arm->held += held;
	arm->missing += missing;
	arm->lost_points += missing > 0;
	if (missing && !arm->control)
		printf("%s: %u slots are lost by a power cut after sync %u\n", arm->name, missing,
		       arm->syncs);
}

static void judge_image(void)
{
	static unsigned char data[CUT_BYTES];
	char device[KT_DEVICE_MAX], path[KT_PATH_MAX + 32];
	int image = shadow_image(FS_BYTES), loop = kt_loop(image, device), fd, r;
	struct kt_fs copy;
	ssize_t n;
	size_t i;

	rt_assert(loop >= 0, "no loop device: %s", strerror(-loop));
	r = kt_fs_mount_copy(&copy, type, device);
	rt_assert(!r, "the image cannot be mounted: %s", strerror(-r));
	for (i = 0; i < ARMS; i++) {
		if (!arms[i].used)
			continue;
		snprintf(path, sizeof(path), "%s/%s", copy.dir, arms[i].name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? 0 : read(fd, data, sizeof(data));
		arm_judge(&arms[i], data, n < 0 ? 0 : (size_t)n);
		if (fd >= 0)
			close(fd);
	}
	kt_fs_drop(&copy);
	close(loop);
	close(image);
}

static void run(unsigned int rounds)
{
	unsigned int round;
	size_t i;

	for (round = 0; round < rounds; round++) {
		for (i = 0; i < ARMS; i++)
			if (arms[i].used)
				arm_sync(&arms[i]);
		if (type)
			judge_image();
		for (i = 0; i < ARMS && !type; i++)
			if (arms[i].used)
				arm_judge(&arms[i], arms[i].shadow.bytes, CUT_BYTES);
	}
}

static void report(void)
{
	const struct arm *arm;
	size_t i;

	for (i = 0; i < ARMS; i++) {
		arm = &arms[i];
		if (!arm->used)
			continue;
		printf("%s-dax, %s: %u syncs, lost at %u of %u points; %u promised slots held, %u missing; "
		       "%u persists, %u deep flushes\n",
		       type ? type : "device", arm->name, arm->syncs, arm->lost_points, arm->points,
		       arm->held, arm->missing, arm->shadow.persists, arm->shadow.flushes);
		rt_assert(arm->control || (!arm->missing && arm->held && arm->shadow.persists),
			  "%s lost data, or promised none", arm->name);
		rt_assert(!arm->control || arm->lost_points == arm->points, "the control lost nothing");
		/* It has to be what was left out that lost it. */
		rt_assert(arm->left_out != SHADOW_DEEP_FLUSH || arm->shadow.persists,
			  "nothing was persisted");
		rt_assert(arm->left_out != SHADOW_PERSIST || !arm->device || arm->shadow.flushes,
			  "nothing was flushed");
	}
}

static void arms_make(void)
{
	size_t i;

	for (i = 0; i < ARMS; i++) {
		if (arms[i].device == (type != NULL))
			continue;
		if (arms[i].mode == PINLEASE_MODE_ODP && !dev.odp) {
			kt_note("no ODP here");
			continue;
		}
		arm_books(&arms[i]);
		if (arms[i].device)
			file_on_device(&arms[i]);
		else
			file_on_fs(&arms[i]);
	}
	for (i = 0; i < ARMS; i++)
		if (arms[i].used)
			arm_open(&arms[i]);
}

int main(int argc, char **argv)
{
	size_t i;

	rt_assert(argc == 2, "usage: powercut_dax ext4|xfs|device");
	type = strcmp(argv[1], "device") ? argv[1] : NULL;
	kt_init();
	rt_require();
	if (type)
		fs_make();
	rt_open(&dev);
	dev.patient = true;
	rt_assert(!pinlease_ctx_new(NULL, &ctx), "ctx_new");
	arms_make();
	rt_assert(!kt_pair_make(&dev, &pair, 4), "no queue pairs");
	for (i = 0; i < ARMS; i++)
		if (arms[i].used)
			arm_start(&arms[i]);
	rt_assert(!pthread_create(&writer, NULL, writer_main, NULL), "pthread_create");
	run(pl_rounds(PL_R_powercut_dax_points));
	atomic_store(&writer_stop, true);
	pthread_join(writer, NULL);
	for (i = 0; i < ARMS; i++)
		if (arms[i].used)
			arm_stop(&arms[i]);
	for (i = 0; i < ARMS; i++)
		if (arms[i].used)
			arm_close(&arms[i]);
	rt_assert(!pinlease_ctx_free(ctx), "ctx_free");
	kt_pair_drop(&pair);
	kt_rdma_close(&dev);
	report();
	return 0;
}
