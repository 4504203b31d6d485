/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * probe_equals_acquire none|uring|rdma: whatever pinlease_probe says of a file, a guard, a
 * mode and an access, pinlease_file_open and pinlease_acquire then do: the same error, stage,
 * reason, culprit; and AUTO takes what it said. The file must be as it was after the
 * probe: content, size, blocks, times, seals, no lease. Each call gets a new file, since the real ones
 * do leave traces. "uring" and "none" have no odp; they and rxe pin and refuse for real.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <pinlease.h>
#include <pinlease/uring.h>

#include "fusefs.h"
#include "kt.h"
#include "kt_rdma.h"
#include "rt.h"

/* A peer that may write makes all staged memory dirty: a trial must not write it back. */
#define REMOTE (IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE)

#define LEN	  (64u << 10)
#define HUGE_PAGE (2u << 20)

static const char *device;
static const char *share; /* a folder of the machine that the guest runs on, by 9p */
static struct kt_rdma rdma;
static struct pinlease_uring *ring;
static struct pinlease_ctx *ctx;
static unsigned int works, refused; /* cells, over all files */

/* A kind of file: makes one, puts a path to it into path; undo ends what make has begun. */
struct kind {
	const char *name, *fs;
	int (*make)(const struct kind *k, char path[KT_PATH_MAX]);
	int seals; /* memfd: put on it */
	unsigned int memfd_flags;
	uint64_t size, hole_from;
};

static struct kt_fs fs, below;
static struct kt_nfs nfs;
static struct fusefs *fuse;
static char devdax[KT_PATH_MAX];
static int kept_fd = -1; /* of a memfd: its only name */
static struct kt_call *opener;

static int make_file(const struct kind *k, char path[KT_PATH_MAX])
{
	int r;

	snprintf(path, KT_PATH_MAX, "%.64s/probed", fs.dir);
	unlink(path);
	r = kt_file(path, fs.dir, "probed", k->hole_from < k->size ? k->hole_from : k->size);
	return r ? r : truncate(path, (off_t)k->size) ? -errno : 0;
}

/* On a file system that gives no lease, or none that guards: nfs, 9p. */
static int make_foreign(const struct kind *k, char path[KT_PATH_MAX])
{
	return make_file(k, path);
}

/* There is one file only, and no other can be made. */
static int make_fuse(const struct kind *k, char path[KT_PATH_MAX])
{
	snprintf(path, KT_PATH_MAX, "%.64s/" FUSEFS_NAME, fuse->dir);
	memset(fuse->data, 'k', k->size);
	return 0;
}

/* hugetlbfs has no write(2): its pages come by touching them. */
static int make_huge(const struct kind *k, char path[KT_PATH_MAX])
{
	int fd, r = 0;
	char *p;

	snprintf(path, KT_PATH_MAX, "%.64s/probed", fs.dir);
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0 || ftruncate(fd, (off_t)k->size))
		return -errno;
	if (k->hole_from) {
		p = mmap(NULL, k->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			r = -errno;
		else
			memset(p, 'k', k->size), munmap(p, k->size);
	}
	close(fd);
	return r;
}

/* Nobody can make or remove it. */
static int make_device(const struct kind *k, char path[KT_PATH_MAX])
{
	(void)k;
	snprintf(path, KT_PATH_MAX, "%s", devdax);
	return 0;
}

/* Another process has it open for reading: in the way of a write lease, not of a read lease. */
static int make_opened(const struct kind *k, char path[KT_PATH_MAX])
{
	int r = make_file(k, path);

	if (r)
		return r;
	opener = kt_open(path, O_RDONLY);
	return opener && kt_call_done(opener, KT_LONG) && opener->ret >= 0 ? 0 : -ETIMEDOUT;
}

static int make_memfd(const struct kind *k, char path[KT_PATH_MAX])
{
	char block[4096];
	uint64_t done;

	kept_fd = memfd_create("probed", MFD_CLOEXEC | k->memfd_flags);
	if (kept_fd < 0 || ftruncate(kept_fd, (off_t)k->size))
		return -errno;
	memset(block, 'k', sizeof(block));
	for (done = 0; done < k->size && done < k->hole_from; done += sizeof(block))
		if (pwrite(kept_fd, block, sizeof(block), (off_t)done) != (ssize_t)sizeof(block))
			return -errno;
	if (k->seals && fcntl(kept_fd, F_ADD_SEALS, k->seals))
		return -errno;
	snprintf(path, KT_PATH_MAX, "/proc/self/fd/%d", kept_fd);
	return 0;
}

static void unmake(void)
{
	if (opener)
		kt_call_end(opener);
	opener = NULL;
	if (kept_fd >= 0)
		close(kept_fd);
	kept_fd = -1;
}

static void make(const struct kind *k, char path[KT_PATH_MAX])
{
	unmake();
	assert_int_equal(k->make(k, path), 0);
}

/* What would show that somebody has been at it. */
struct traces {
	struct stat st;
	int seals;
	unsigned char data[LEN];
};

static void look(const struct kind *k, const char *path, struct traces *t)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	memset(t, 0, sizeof(*t));
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &t->st), 0);
	if (S_ISREG(t->st.st_mode))
		assert_int_equal(pread(fd, t->data, LEN, 0), k->size < LEN ? k->size : LEN);
	t->seals = fcntl(fd, F_GET_SEALS);
	memset(&t->st.st_atim, 0, sizeof(t->st.st_atim));
	close(fd);
}

static void with_device(struct ibv_pd **pd, const struct pinlease_backend **backend, void **arg)
{
	*pd = rdma.pd;
	*backend = ring ? pinlease_uring_backend() : NULL;
	*arg = ring;
}

static void ask(const char *path, uint64_t len, struct pinlease_probe_result *out)
{
	struct pinlease_probe_opts o = { .size = sizeof(o), .len = len, .ibv_access = REMOTE };
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct pinlease_why why = { .reason = 0 };
	int r;

	with_device(&o.pd, &o.backend, &o.backend_arg);
	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	r = pinlease_probe(ctx, path, &o, &why, out);
	if (r)
		print_message("probe: %d, %s\n", r, pinlease_reason_str(why.reason));
	assert_int_equal(r, 0);
	assert_int_equal(out->count, 24);
	assert_int_equal(pinlease_ctx_next_event(ctx, &ev), 0);
}

/* What the real calls say. */
static int32_t really(const char *path, uint64_t len, uint32_t guard, uint32_t mode, uint32_t access,
		      struct pinlease_why *why, struct pinlease_lease_info *info)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .access = access, .guard = guard };
	struct pinlease_opts o = { .size = sizeof(o), .mode = mode, .ibv_access = REMOTE };
	struct pinlease_file *file;
	struct pinlease *lease;
	int32_t r;

	memset(why, 0, sizeof(*why));
	if (access == PINLEASE_READ)
		o.ibv_access = IBV_ACCESS_REMOTE_READ;
	with_device(&o.pd, &o.backend, &o.backend_arg);
	r = pinlease_file_open(ctx, path, &fo, why, &file);
	if (r)
		return r;
	r = pinlease_acquire(file, 0, len, &o, why, &lease);
	if (!r) {
		info->size = sizeof(*info);
		assert_int_equal(pinlease_lease_info(lease, info), 0);
		assert_int_equal(pinlease_release(lease), 0);
	}
	assert_int_equal(pinlease_file_close(file), 0);
	return r;
}

static void print_why(const char *who, int32_t err, const struct pinlease_why *why)
{
	print_message("%s: %d stage %u %s errno %d mode %u guard %u pid %d\n", who, err, why->stage,
		      pinlease_reason_name(why->reason), why->sys_errno, why->mode, why->guard, why->pid);
}

static void same(const char *what, int32_t said, const struct pinlease_why *said_why, int32_t is,
		 const struct pinlease_why *is_why)
{
	if (said == is && !memcmp(said_why, is_why, sizeof(*is_why)))
		return;
	print_why("probe", said, said_why);
	print_why("the calls", is, is_why);
	fail_msg("%s: not the same", what);
}

static void compare_cell(const struct kind *k, const struct pinlease_probe_cell *c)
{
	/* An opener is another process each time. */
	struct pinlease_why why, said = c->why;
	struct pinlease_lease_info info;
	char path[KT_PATH_MAX], what[128];
	int32_t r;

	make(k, path);
	r = really(path, k->size, c->guard, c->mode, c->access, &why, &info);
	if (opener && said.pid && why.pid == opener->pid)
		said.pid = why.pid;
	snprintf(what, sizeof(what), "%s: guard %u mode %u access %u", k->name, c->guard, c->mode, c->access);
	same(what, c->err, &said, r, &why);
	if (!r) {
		assert_int_equal(info.guard, c->guard);
		assert_int_equal(info.mode, c->mode);
	}
	works += !r;
	refused += r != 0;
}

static void compare_auto(const struct kind *k, const struct pinlease_probe_auto *a)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };
	struct pinlease_why why, said = a->why;
	char path[KT_PATH_MAX], what[128];
	int32_t r;

	make(k, path);
	r = really(path, k->size, PINLEASE_GUARD_AUTO, PINLEASE_MODE_AUTO, a->access, &why, &info);
	if (opener && said.pid && why.pid == opener->pid)
		said.pid = why.pid;
	snprintf(what, sizeof(what), "%s: auto, access %u", k->name, a->access);
	same(what, a->err, &said, r, &why);
	if (r)
		return;
	print_message("%s: access %u, auto is guard %u mode %u (%s)\n", k->name, a->access, a->guard, a->mode,
		      pinlease_reason_name(a->mode_reason));
	assert_int_equal(info.guard, a->guard);
	assert_int_equal(info.mode, a->mode);
	assert_int_equal(info.mode_reason, a->mode_reason);
}

static bool begin_fuse(const struct kind *k)
{
	char dir[KT_PATH_MAX];

	if (access("/dev/fuse", F_OK) || kt_fs_make(&below, "tmpfs", 16))
		return false;
	snprintf(dir, sizeof(dir), "%.64s/fuse", below.dir);
	fuse = mkdir(dir, 0755) ? NULL : fusefs_start(dir, k->size);
	return fuse != NULL;
}

static bool begin_nfs(void)
{
	int r = kt_nfs_make(&nfs);

	fs = nfs.client;
	/* Only a kernel without a server may do without. */
	assert_true(!r || r == -ENODEV);
	return !r;
}

/* false: that kind cannot be had here. */
static bool begin(const struct kind *k)
{
	uint64_t size;

	if (!k->fs)
		return true;
	if (!strcmp(k->fs, "device-dax"))
		return !kt_devdax(devdax, &size) && size >= k->size;
	if (!strcmp(k->fs, "hugetlbfs") && kt_hugepages(8))
		return false;
	if (!strcmp(k->fs, "overlay"))
		return !kt_fs_make(&below, "ext4", 64) && !kt_fs_overlay(&fs, &below);
	if (!strcmp(k->fs, "fuse"))
		return begin_fuse(k);
	if (!strcmp(k->fs, "nfs"))
		return begin_nfs();
	if (!strcmp(k->fs, "9p"))
		return snprintf(fs.dir, sizeof(fs.dir), "%s", share ? share : "") > 0;
	return !kt_fs_make(&fs, k->fs, 64);
}

static bool on(const struct kind *k, const char *type)
{
	return k->fs && !strcmp(k->fs, type);
}

static void finish(const struct kind *k, const char *path)
{
	unmake();
	if (on(k, "9p"))
		unlink(path);
	else if (on(k, "nfs"))
		kt_nfs_drop(&nfs);
	else if (on(k, "fuse"))
		fusefs_stop(fuse);
	else if (k->fs && !on(k, "device-dax"))
		kt_fs_drop(&fs);
	if (on(k, "overlay") || on(k, "fuse"))
		kt_fs_drop(&below);
}

/* A kind left out unseen is one not compared: persistent memory, a module or a share may be missing. */
static bool may_be_missing(const struct kind *k)
{
	if (strstr(k->fs, "dax"))
		return access("/dev/pmem0", F_OK);
	if (on(k, "fuse"))
		return access("/dev/fuse", F_OK);
	return on(k, "nfs") || (on(k, "9p") && !share);
}

static void test_kind(void **state)
{
	const struct kind *k = *state;
	struct pinlease_probe_result table;
	static struct traces before, after;
	char path[KT_PATH_MAX];
	int fd;

	if (!begin(k)) {
		assert_true(may_be_missing(k));
		kt_note("%s cannot be made here", k->name);
		return;
	}
	make(k, path);
	look(k, path, &before);
	ask(path, k->size, &table);
	look(k, path, &after);
	assert_memory_equal(&before, &after, sizeof(before));
	if (k->make == make_file) {
		/* No guard is left behind. */
		fd = open(path, O_RDWR | O_CLOEXEC);
		assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
		assert_int_equal(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
		close(fd);
	}
	for (uint32_t i = 0; i < table.count; i++)
		compare_cell(k, &table.cell[i]);
	assert_int_equal(table.auto_read.access, PINLEASE_READ);
	assert_int_equal(table.auto_write.access, PINLEASE_WRITE);
	compare_auto(k, &table.auto_read);
	compare_auto(k, &table.auto_write);
	finish(k, path);
}

/* Both answers must have been seen often: a table that is all yes or all no compares nothing. */
static void test_seen(void **state)
{
	(void)state;
	print_message("%u cells worked, %u were refused\n", works, refused);
	assert_true(works >= 40);
	assert_true(refused >= 40);
}

#define ON(type)                                                                           \
	{                                                                                  \
		.name = type, .fs = type, .make = make_file, .size = LEN, .hole_from = LEN \
	}
#define FOREIGN(type, how)                                                           \
	{                                                                            \
		.name = type, .fs = type, .make = how, .size = LEN, .hole_from = LEN \
	}
#define MEMFD(what, flags, on)                                                             \
	{                                                                                  \
		.name = "memfd, " what, .make = make_memfd, .size = LEN, .hole_from = LEN, \
		.memfd_flags = flags, .seals = on                                          \
	}

static const struct kind kinds[] = {
	ON("tmpfs"),
	ON("ext4"),
	ON("xfs"),
	ON("xfs_noreflink"),
	ON("btrfs"),
	{ .name = "a hole in tmpfs", .fs = "tmpfs", .make = make_file, .size = LEN, .hole_from = LEN / 2 },
	{ .name = "a hole in ext4", .fs = "ext4", .make = make_file, .size = LEN, .hole_from = LEN / 2 },
	ON("ext4_dax"),
	ON("xfs_dax"),
	ON("overlay"),
	FOREIGN("nfs", make_foreign),
	FOREIGN("fuse", make_fuse),
	FOREIGN("9p", make_foreign),
	{ .name = "hugetlbfs",
	  .fs = "hugetlbfs",
	  .make = make_huge,
	  .size = HUGE_PAGE,
	  .hole_from = HUGE_PAGE },
	{ .name = "a hole in hugetlbfs", .fs = "hugetlbfs", .make = make_huge, .size = HUGE_PAGE },
	{ .name = "device-dax", .fs = "device-dax", .make = make_device, .size = HUGE_PAGE },
	{ .name = "an odd size", .fs = "ext4", .make = make_file, .size = LEN - 4000, .hole_from = LEN },
	{ .name = "an empty file", .fs = "ext4", .make = make_file, .size = 0 },
	{ .name = "an opened file", .fs = "tmpfs", .make = make_opened, .size = LEN, .hole_from = LEN },
	MEMFD("to be sealed", MFD_ALLOW_SEALING, 0),
	MEMFD("that takes no seals", 0, 0),
	MEMFD("sealed", MFD_ALLOW_SEALING, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE),
	MEMFD("half sealed", MFD_ALLOW_SEALING, F_SEAL_SHRINK),
	MEMFD("half sealed for good", MFD_ALLOW_SEALING, F_SEAL_SHRINK | F_SEAL_SEAL),
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static int group_setup(void **state)
{
	(void)state;
	if (!strcmp(device, "rdma") && kt_rdma_open(&rdma))
		return -1;
	if (!strcmp(device, "uring") && pinlease_uring_new(8, 4, &ring))
		return -1;
	return pinlease_ctx_new(NULL, &ctx);
}

static int group_teardown(void **state)
{
	int r = pinlease_ctx_free(ctx);

	(void)state;
	if (ring)
		r = pinlease_uring_free(ring) ? -1 : r;
	kt_rdma_close(&rdma);
	return r;
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[KINDS + 1];

	rt_assert(argc == 2, "usage: probe_equals_acquire none|uring|rdma");
	device = argv[1];
	share = getenv("PINLEASE_OUT");
	kt_init();
	if (geteuid())
		kt_skip("file systems cannot be mounted without root");
	if (!strcmp(device, "rdma"))
		rt_require();
	for (size_t i = 0; i < KINDS; i++)
		tests[i] = (struct CMUnitTest){ .name = kinds[i].name,
						.test_func = test_kind,
						.initial_state = (void *)(uintptr_t)&kinds[i] };
	tests[KINDS] = (struct CMUnitTest){ .name = "seen", .test_func = test_seen };
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
