/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a lease does not guard: calls through the holder's own open file description
 * (dup, fork, SCM_RIGHTS are all the same to the kernel), and block-moving ioctls that
 * need only a read-only fd, under a read lease. This is why libpinlease offers its own
 * truncate and allocate, and why a read lease promises bytes and not block numbers.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scene.h"

#define ON(which) (1u << (which))
#define EVERY	  (ON(TMPFS) | ON(EXT4) | ON(XFS) | ON(BTRFS))
#define BLOCK	  4096
#define HALF	  (SCENE_SIZE / 2)

/* fs/ext4/ext4.h; not in the user headers. */
struct move_extent {
	uint32_t reserved, donor_fd;
	uint64_t orig_start, donor_start, len, moved_len;
};
#define EXT4_IOC_MOVE_EXT _IOWR('f', 15, struct move_extent)

struct own {
	const struct held *h;
	int fd;	   /* a dup of the leased one */
	int other; /* another file of the same size, O_RDWR */
};

static int do_ftruncate(const struct own *o, int arg)
{
	return ftruncate(o->fd, arg);
}

static int do_fallocate(const struct own *o, int mode)
{
	return fallocate(o->fd, mode, BLOCK, 2 * BLOCK);
}

static int do_remove(const struct own *o, int arg)
{
	(void)arg;
	return madvise((char *)o->h->map + BLOCK, BLOCK, MADV_REMOVE);
}

static int do_pwrite(const struct own *o, int flags)
{
	static _Alignas(BLOCK) char block[BLOCK];
	int old = fcntl(o->fd, F_GETFL), ret;

	if (fcntl(o->fd, F_SETFL, old | flags))
		return -1;
	ret = pwrite(o->fd, block, BLOCK, 0) == BLOCK ? 0 : -1;
	if (!ret)
		fcntl(o->fd, F_SETFL, old);
	return ret;
}

static int do_clone(const struct own *o, int arg)
{
	(void)arg;
	return ioctl(o->fd, FICLONE, o->other);
}

static int do_copy(const struct own *o, int arg)
{
	off_t in = 0, out = 0;

	(void)arg;
	return copy_file_range(o->other, &in, o->fd, &out, BLOCK, 0) == BLOCK ? 0 : -1;
}

static const struct own_row {
	const char *name;
	int (*call)(const struct own *o, int arg);
	int arg;
	unsigned int works_on; /* with the write lease; other file systems say EOPNOTSUPP */
	int on_read;	       /* errno on the O_RDONLY fd */
} own_rows[] = {
	{ "ftruncate(half)", do_ftruncate, HALF, EVERY, EINVAL },
	{ "ftruncate(grow)", do_ftruncate, 2 * SCENE_SIZE, EVERY, EINVAL },
	{ "PUNCH_HOLE", do_fallocate, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, EVERY, EBADF },
	{ "ZERO_RANGE", do_fallocate, FALLOC_FL_ZERO_RANGE, EVERY & ~ON(TMPFS), EBADF },
	{ "COLLAPSE_RANGE", do_fallocate, FALLOC_FL_COLLAPSE_RANGE, ON(EXT4) | ON(XFS), EBADF },
	{ "INSERT_RANGE", do_fallocate, FALLOC_FL_INSERT_RANGE, ON(EXT4) | ON(XFS), EBADF },
	{ "allocate", do_fallocate, 0, EVERY, EBADF },
	{ "MADV_REMOVE", do_remove, 0, EVERY, EACCES },
	{ "pwrite", do_pwrite, 0, EVERY, EBADF },
	{ "pwrite O_DIRECT", do_pwrite, O_DIRECT, EVERY & ~ON(TMPFS), EBADF },
	{ "FICLONE into", do_clone, 0, ON(XFS) | ON(BTRFS), EBADF },
	{ "copy_file_range into", do_copy, 0, EVERY, EBADF },
};

static void call_own_row(const struct own_row *row, const struct own *o, enum scene_fs which)
{
	int ret, want = 0;

	if (o->h->type == F_RDLCK)
		want = row->on_read;
	else if (!(row->works_on & ON(which)))
		want = EOPNOTSUPP;
	errno = 0;
	ret = row->call(o, row->arg);
	print_message("%s: %s: %s\n", scene_type(which), row->name, ret ? strerror(errno) : "done");
	/* tmpfs takes O_DIRECT from 6.6 on, and has nothing to clone. */
	if (which == TMPFS && want == EOPNOTSUPP && (row->arg == O_DIRECT || row->call == do_clone))
		assert_true(!ret || errno == EINVAL || errno == EOPNOTSUPP);
	else if (o->h->type == F_RDLCK && ret && !(row->works_on & ON(which)))
		assert_true(errno == want || errno == EOPNOTSUPP || errno == EINVAL);
	else
		assert_int_equal(ret ? errno : 0, want);
}

static void ask_own_row(const struct own_row *row, enum scene_fs which, int type)
{
	struct own o;
	struct held h;
	char path[KT_PATH_MAX];

	scene_file(which, path);
	held_open(&h, which, type);
	o.h = &h;
	o.fd = dup(h.fd);
	o.other = open(path, O_RDWR | O_CLOEXEC);
	assert_true(o.fd >= 0 && o.other >= 0);
	call_own_row(row, &o, which);
	held_is_untouched(&h);
	close(o.fd);
	close(o.other);
	held_close(&h);
	unlink(path);
}

static void calls_through_the_write_leased_ofd_are_not_guarded(void **state)
{
	(void)state;
	for_each_fs(which) for (size_t i = 0; i < sizeof(own_rows) / sizeof(own_rows[0]); i++)
		ask_own_row(&own_rows[i], which, F_WRLCK);
}

static void calls_through_the_read_leased_ofd_fail(void **state)
{
	(void)state;
	for_each_fs(which) for (size_t i = 0; i < sizeof(own_rows) / sizeof(own_rows[0]); i++)
		ask_own_row(&own_rows[i], which, F_RDLCK);
}

/* Where the first extent of the file lies; 0 when the file system does not say. */
static uint64_t physical(const char *path)
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + sizeof(struct fiemap_extent)];
	} u = { .map = { .fm_length = SCENE_SIZE, .fm_flags = FIEMAP_FLAG_SYNC, .fm_extent_count = 1 } };
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	assert_true(fd >= 0);
	ret = ioctl(fd, FS_IOC_FIEMAP, &u.map);
	close(fd);
	assert_int_equal(ret, 0);
	assert_int_equal(u.map.fm_mapped_extents, 1);
	return u.map.fm_extents[0].fe_physical;
}

struct two {
	char path[KT_PATH_MAX], other[KT_PATH_MAX];
};

/* Both files hold the same bytes, so path's blocks are given up for other's. path is opened O_RDONLY. */
static int dedupe_into(const void *arg)
{
	const struct two *t = arg;
	union {
		struct file_dedupe_range range;
		char room[sizeof(struct file_dedupe_range) + sizeof(struct file_dedupe_range_info)];
	} u = { .range = { .src_length = SCENE_SIZE, .dest_count = 1 } };
	int src = open(t->other, O_RDONLY | O_CLOEXEC), dst = open(t->path, O_RDONLY | O_CLOEXEC);

	if (src < 0 || dst < 0)
		return -errno;
	u.range.info[0].dest_fd = dst;
	if (ioctl(src, FIDEDUPERANGE, &u.range))
		return -errno;
	return u.range.info[0].bytes_deduped == SCENE_SIZE ? 0 : -EIO;
}

static int clone_from(const void *arg)
{
	const struct two *t = arg;
	int src = open(t->path, O_RDONLY | O_CLOEXEC), dst = open(t->other, O_RDWR | O_CLOEXEC);

	if (src < 0 || dst < 0)
		return -errno;
	return ioctl(dst, FICLONE, src) ? -errno : 0;
}

static int defragment(const void *arg)
{
	struct btrfs_ioctl_defrag_range_args range = {
		.len = SCENE_SIZE,
		.extent_thresh = 16u << 20,
		.flags = BTRFS_DEFRAG_RANGE_START_IO | BTRFS_DEFRAG_RANGE_COMPRESS,
		.compress_type = 1,
	};
	const struct two *t = arg;
	int fd = open(t->path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return ioctl(fd, BTRFS_IOC_DEFRAG_RANGE, &range) ? -errno : 0;
}

static void under_a_read_lease(enum scene_fs which, int (*fn)(const void *), bool blocks_move)
{
	struct two t;
	struct held h;
	struct kt_call *call;
	uint64_t before;

	held_open(&h, which, F_RDLCK);
	scene_file(which, t.other);
	memcpy(t.path, h.path, sizeof(t.path));
	before = physical(h.path);
	call = kt_call_start(fn, &t, sizeof(t));
	assert_non_null(call);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	assert_int_equal(call->ret, 0);
	kt_call_end(call);
	held_is_untouched(&h);
	if (blocks_move)
		assert_true(physical(h.path) != before);
	held_close(&h);
	unlink(t.other);
}

static void blocks_move_silently_under_a_read_lease(void **state)
{
	(void)state;
	under_a_read_lease(XFS, dedupe_into, true);
	under_a_read_lease(BTRFS, dedupe_into, true);
	under_a_read_lease(BTRFS, defragment, true);
	under_a_read_lease(XFS, clone_from, false);
	under_a_read_lease(BTRFS, clone_from, false);
}

static void ext4_move_ext_swaps_blocks_under_a_write_lease(void **state)
{
	struct move_extent move = { .len = SCENE_SIZE / BLOCK };
	char donor[KT_PATH_MAX];
	uint64_t before;
	struct held h;
	int fd;

	(void)state;
	scene_file(EXT4, donor);
	fd = open(donor, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	held_open(&h, EXT4, F_WRLCK);
	move.donor_fd = (uint32_t)fd;
	before = physical(donor);
	assert_int_equal(ioctl(h.fd, EXT4_IOC_MOVE_EXT, &move), 0);
	assert_int_equal(move.moved_len, SCENE_SIZE / BLOCK);
	assert_true(physical(donor) != before);
	held_is_untouched(&h);
	held_close(&h);
	close(fd);
	unlink(donor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_through_the_write_leased_ofd_are_not_guarded),
		cmocka_unit_test(calls_through_the_read_leased_ofd_fail),
		cmocka_unit_test(blocks_move_silently_under_a_read_lease),
		cmocka_unit_test(ext4_move_ext_swaps_blocks_under_a_write_lease),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
