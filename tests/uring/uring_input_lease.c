/* SPDX-License-Identifier: BSD-3-Clause */
/* Wrong input to acquire. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct kt_fs fs, tracked;
static struct ut u;
static char path[KT_PATH_MAX], hole_path[KT_PATH_MAX], tracked_path[KT_PATH_MAX];
static struct pinlease_file *file, *read_file, *hole_file, *tracked_file;
static struct pinlease *lease;

static struct pinlease *const none = (void *)1;

/* RAW is what OPTS is made of: the ring's backend is not set. */
#define RAW(...) (&(struct pinlease_opts){ __VA_ARGS__ })
#define OPTS(...)                                                                      \
	RAW(.size = sizeof(struct pinlease_opts), .backend = pinlease_uring_backend(), \
	    .backend_arg = u.ring, ##__VA_ARGS__)

static int acquire_of(struct pinlease_file *from, uint64_t off, uint64_t len,
		      const struct pinlease_opts *opts, struct pinlease_why *why)
{
	struct pinlease *out = none;
	int ret = pinlease_acquire(from, off, len, opts, why, &out);

	if (ret)
		assert_ptr_equal(out, none);
	else
		assert_int_equal(pinlease_release(out), 0);
	return ret;
}

static int acquire(uint64_t off, uint64_t len, const struct pinlease_opts *opts, struct pinlease_why *why)
{
	return acquire_of(file, off, len, opts, why);
}

static int good(struct pinlease_why *why)
{
	return acquire(UT_BLOCK, UT_BLOCK, OPTS(), why);
}

static int null_file(struct pinlease_why *why)
{
	return acquire_of(NULL, 0, UT_BLOCK, OPTS(), why);
}

static int null_out(struct pinlease_why *why)
{
	return pinlease_acquire(file, 0, UT_BLOCK, OPTS(), why, NULL);
}

static int size_zero(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, RAW(.size = 0), why);
}

static int size_longer_set(struct pinlease_why *why)
{
	struct {
		struct pinlease_opts opts;
		uint64_t more;
	} longer = { .opts.size = sizeof(longer), .more = 1 };

	return acquire(0, UT_BLOCK, &longer.opts, why);
}

static int unknown_flags(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, OPTS(.flags = 1u << 30), why);
}

static int unknown_mode(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, OPTS(.mode = 99), why);
}

static int unknown_access(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, OPTS(.access = 4), why);
}

static int pd_and_backend(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, OPTS(.pd = (void *)8), why);
}

static int backend_of_another_version(struct pinlease_why *why)
{
	struct pinlease_backend other = *pinlease_uring_backend();

	other.version++;
	return acquire(0, UT_BLOCK, RAW(.size = sizeof(struct pinlease_opts), .backend = &other), why);
}

static int backend_without_unpin(struct pinlease_why *why)
{
	struct pinlease_backend other = *pinlease_uring_backend();

	other.unpin = NULL;
	return acquire(0, UT_BLOCK, RAW(.size = sizeof(struct pinlease_opts), .backend = &other), why);
}

static int length_zero(struct pinlease_why *why)
{
	return acquire(0, 0, OPTS(), why);
}

static int beyond_the_end(struct pinlease_why *why)
{
	return acquire(UT_LEN - UT_BLOCK, UT_BLOCK + 1, OPTS(), why);
}

static int begins_beyond_the_end(struct pinlease_why *why)
{
	return acquire(UT_LEN + UT_BLOCK, 1, OPTS(), why);
}

static int length_overflows(struct pinlease_why *why)
{
	return acquire(UT_BLOCK, UINT64_MAX - 1, OPTS(), why);
}

static int misaligned_offset(struct pinlease_why *why)
{
	return acquire(512, UT_BLOCK, OPTS(), why);
}

static int misaligned_address(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, OPTS(.addr = (void *)4097), why);
}

static int try_addr(int flags, int fd, off_t off, struct pinlease_why *why)
{
	void *map = mmap(NULL, UT_BLOCK, PROT_READ | PROT_WRITE, flags, fd, off);
	int ret;

	assert_true(map != MAP_FAILED);
	ret = acquire(0, UT_BLOCK, OPTS(.addr = map), why);
	munmap(map, UT_BLOCK);
	return ret;
}

static int address_is_anonymous(struct pinlease_why *why)
{
	return try_addr(MAP_SHARED | MAP_ANONYMOUS, -1, 0, why);
}

static int address_of_another_file(struct pinlease_why *why)
{
	int fd = memfd_create("other", MFD_CLOEXEC), ret;

	assert_int_equal(ftruncate(fd, UT_LEN), 0);
	ret = try_addr(MAP_SHARED, fd, 0, why);
	close(fd);
	return ret;
}

static int more_access_than_the_file(struct pinlease_why *why)
{
	return acquire_of(read_file, 0, UT_BLOCK, OPTS(.access = PINLEASE_WRITE), why);
}

static int dirty_told_for_reading(struct pinlease_why *why)
{
	return acquire_of(read_file, 0, UT_BLOCK, OPTS(.flags = PINLEASE_L_DIRTY_TOLD), why);
}

static int device_writes_for_reading(struct pinlease_why *why)
{
	return acquire_of(read_file, 0, UT_BLOCK, OPTS(.ibv_access = IBV_ACCESS_REMOTE_WRITE), why);
}

static int hole_fill_of_read_file(struct pinlease_why *why)
{
	return acquire_of(read_file, 0, UT_BLOCK, OPTS(.flags = PINLEASE_L_HOLE_FILL), why);
}

/* One staged lease for writing may be written back, so nobody else may have its range. */
static int overlap_with_staged(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, OPTS(.mode = PINLEASE_MODE_STAGED), why);
}

static int odp_by_name(struct pinlease_why *why)
{
	return acquire(0, UT_BLOCK, OPTS(.mode = PINLEASE_MODE_ODP), why);
}

static int pinned_page_cache_by_name(struct pinlease_why *why)
{
	return acquire_of(tracked_file, 0, UT_BLOCK, OPTS(.mode = PINLEASE_MODE_PINNED), why);
}

static int backend_refuses(struct pinlease_why *why)
{
	return acquire_of(read_file, 0, UT_BLOCK, OPTS(.mode = PINLEASE_MODE_PINNED), why);
}

/* A process without CAP_IPC_LOCK, and lockable memory for a ring and half the lease. */
struct memlock_arg {
	char path[KT_PATH_MAX];
	uint32_t *reason, *stage;
	long *pinned_kib;
};

static int try_memlock(const void *arg)
{
	const struct memlock_arg *a = arg;
	struct pinlease_ctx_opts ctx_opts = { .size = sizeof(ctx_opts) };
	struct pinlease_file *own;
	struct pinlease *out;
	struct pinlease_why why = { 0 };
	struct ut mine;
	int ret = input_drop_privilege(UT_LEN / 2);

	if (ret || pinlease_ctx_new(&ctx_opts, &mine.ctx) || pinlease_uring_new(4, 4, &mine.ring))
		return -ENOTRECOVERABLE;
	if (pinlease_file_open(mine.ctx, a->path, NULL, &why, &own))
		return -ENOTRECOVERABLE;
	ret = pinlease_acquire(own, 0, UT_LEN,
			       RAW(.size = sizeof(struct pinlease_opts), .backend = pinlease_uring_backend(),
				   .backend_arg = mine.ring),
			       &why, &out);
	*a->reason = why.reason;
	*a->stage = why.stage;
	*a->pinned_kib = kt_pinned_kib();
	if (pinlease_file_close(own) || pinlease_uring_free(mine.ring) || pinlease_ctx_free(mine.ctx))
		return -EBUSY;
	return ret;
}

static int memlock(struct pinlease_why *why)
{
	static uint32_t *reason, *stage;
	static long *pinned;
	struct memlock_arg arg = { 0 };
	int ret;

	reason = reason ? reason : kt_shared(sizeof(*reason));
	stage = stage ? stage : kt_shared(sizeof(*stage));
	pinned = pinned ? pinned : kt_shared(sizeof(*pinned));
	arg = (struct memlock_arg){ .reason = reason, .stage = stage, .pinned_kib = pinned };
	ut_file(arg.path, fs.dir, "memlock", UT_BLOCKS);
	ret = input_unprivileged(try_memlock, &arg, sizeof(arg));
	assert_int_equal(*pinned, 0);
	why->reason = *reason;
	why->stage = *stage;
	return ret;
}

#define ARGS	 PINLEASE_AT_ARGS
#define AT_SIZE	 PINLEASE_AT_SIZE
#define AT_MAP	 PINLEASE_AT_MAP
#define AT_CHECK PINLEASE_AT_CHECK
#define ARGUMENT PINLEASE_WHY_ARGUMENT
#define SIZE	 PINLEASE_WHY_OPTS_SIZE
#define RANGE	 PINLEASE_WHY_RANGE
#define ALIGN	 PINLEASE_WHY_ALIGNMENT

static const struct input_row rows[] = {
	{ "control: nothing wrong", good, 0, 0, 0 },
	{ "acquire: NULL file", null_file, -EINVAL, ARGS, ARGUMENT },
	{ "acquire: NULL output", null_out, -EINVAL, ARGS, ARGUMENT },
	{ "opts of size 0", size_zero, -EINVAL, ARGS, SIZE },
	{ "opts longer, unknown bytes set", size_longer_set, -E2BIG, ARGS, SIZE },
	{ "unknown flags", unknown_flags, -EINVAL, ARGS, ARGUMENT },
	{ "unknown mode", unknown_mode, -EINVAL, ARGS, ARGUMENT },
	{ "unknown access", unknown_access, -EINVAL, ARGS, ARGUMENT },
	{ "PD and backend", pd_and_backend, -EINVAL, ARGS, ARGUMENT },
	{ "backend of another version", backend_of_another_version, -EINVAL, ARGS, ARGUMENT },
	{ "backend without unpin", backend_without_unpin, -EINVAL, ARGS, ARGUMENT },
	{ "length 0", length_zero, -EINVAL, AT_SIZE, RANGE },
	{ "ends beyond EOF", beyond_the_end, -EINVAL, AT_SIZE, RANGE },
	{ "begins beyond EOF", begins_beyond_the_end, -EINVAL, AT_SIZE, RANGE },
	{ "offset + length overflows", length_overflows, -EINVAL, AT_SIZE, RANGE },
	{ "misaligned offset", misaligned_offset, -EINVAL, ARGS, ALIGN },
	{ "misaligned address", misaligned_address, -EINVAL, ARGS, ALIGN },
	{ "address of anonymous memory", address_is_anonymous, -EINVAL, AT_MAP, PINLEASE_WHY_MAPPING },
	{ "address of another file", address_of_another_file, -EINVAL, AT_MAP, PINLEASE_WHY_MAPPING },
	{ "more access than the file", more_access_than_the_file, -EACCES, ARGS, PINLEASE_WHY_BAD_FD },
	{ "DIRTY_TOLD for reading", dirty_told_for_reading, -EINVAL, ARGS, ARGUMENT },
	{ "remote writes for reading", device_writes_for_reading, -EINVAL, ARGS, ARGUMENT },
	{ "HOLE_FILL of a file opened with READ", hole_fill_of_read_file, -EINVAL, ARGS, ARGUMENT },
	{ "overlap with staged", overlap_with_staged, -EEXIST, ARGS, PINLEASE_WHY_OVERLAP },
	{ "odp of a ring", odp_by_name, -EOPNOTSUPP, AT_CHECK, PINLEASE_WHY_NO_ODP },
	{ "write pin of page cache", pinned_page_cache_by_name, -EOPNOTSUPP, AT_CHECK,
	  PINLEASE_WHY_DIRTY_TRACKED },
	{ "the backend says no", backend_refuses, -EOPNOTSUPP, AT_CHECK, PINLEASE_WHY_PIN_REFUSED },
	{ "memlock limit", memlock, -ENOMEM, PINLEASE_AT_REGISTER, PINLEASE_WHY_MEMLOCK },
};

static void table(void **state)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	uint32_t gen = ut_view(lease).gen;

	(void)state;
	input_check(rows, sizeof(rows) / sizeof(rows[0]));
	/* The lease that all that was tried beside has not noticed. */
	assert_int_equal(ut_view(lease).gen, gen);
	assert_int_equal(ut_info(lease).breaks, 0);
	assert_int_equal(ut_info(lease).in_flight, 0);
	assert_int_equal(pinlease_ctx_next_event(u.ctx, &ev), 0);
	assert_int_equal(ut_stamp_of(ut_view(lease).addr), 0);
}

static blkcnt_t blocks_of(const char *name)
{
	struct stat st;

	assert_int_equal(stat(name, &st), 0);
	return st.st_blocks;
}

/* A hole is not filled behind a reader's back, nor left under a pin. */
static void holes(void **state)
{
	struct pinlease_why why = { 0 };
	blkcnt_t before = blocks_of(hole_path);

	(void)state;
	assert_int_equal(acquire_of(hole_file, 0, UT_LEN, OPTS(.access = PINLEASE_READ), &why), 0);
	assert_int_equal(blocks_of(hole_path), before);
	assert_int_equal(acquire_of(hole_file, 0, UT_LEN, OPTS(), &why), 0);
	assert_true(before < UT_LEN / 512 && blocks_of(hole_path) >= UT_LEN / 512);
}

static void make_files(void)
{
	int fd;

	ut_file(path, fs.dir, "f", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	ut_file(hole_path, fs.dir, "read", UT_BLOCKS);
	read_file = ut_open(&u, hole_path, PINLEASE_READ, 0);
	ut_file(hole_path, fs.dir, "hole", 1);
	fd = open(hole_path, O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, UT_LEN), 0);
	close(fd);
	hole_file = ut_open(&u, hole_path, PINLEASE_WRITE, 0);
	ut_file(tracked_path, tracked.dir, "f", UT_BLOCKS);
	tracked_file = ut_open(&u, tracked_path, PINLEASE_WRITE, 0);
}

static int setup(void **state)
{
	(void)state;
	ut_start(&u, 8, 8);
	make_files();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_drop(lease, file);
	assert_int_equal(pinlease_file_close(read_file), 0);
	assert_int_equal(pinlease_file_close(hole_file), 0);
	assert_int_equal(pinlease_file_close(tracked_file), 0);
	ut_stop(&u);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(table), cmocka_unit_test(holes) };

	ut_begin();
	if (kt_fs_make(&fs, "tmpfs", 16) || kt_fs_make(&tracked, "ext4", 16))
		kt_skip("cannot mount tmpfs and ext4");
	return cmocka_run_group_tests(tests, setup, teardown);
}
