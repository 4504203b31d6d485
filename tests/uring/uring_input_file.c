/* SPDX-License-Identifier: BSD-3-Clause */
/* Wrong input to what opens a file, and to the context. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct kt_fs fs;
static struct ut u;
static char path[KT_PATH_MAX];

static struct pinlease_file *const none = (void *)1;

#define OPTS(...) (&(struct pinlease_file_opts){ .size = sizeof(struct pinlease_file_opts), __VA_ARGS__ })

static int open_with(const char *name, const struct pinlease_file_opts *opts, struct pinlease_why *why)
{
	struct pinlease_file *file = none;
	int ret = pinlease_file_open(u.ctx, name, opts, why, &file);

	if (ret)
		assert_ptr_equal(file, none);
	else
		assert_int_equal(pinlease_file_close(file), 0);
	return ret;
}

static int attach_with(int fd, const struct pinlease_file_opts *opts, struct pinlease_why *why)
{
	struct pinlease_file *file = none;
	int ret = pinlease_file_attach(u.ctx, fd, opts, why, &file);

	if (ret)
		assert_ptr_equal(file, none);
	else
		assert_int_equal(pinlease_file_close(file), 0);
	return ret;
}

/* Opened with flags, attached, closed again. */
static int attach_path(const char *name, int flags, uint32_t access, struct pinlease_why *why)
{
	int fd = open(name, flags | O_CLOEXEC), ret;

	assert_true(fd >= 0);
	ret = attach_with(fd, OPTS(.access = access), why);
	close(fd);
	return ret;
}

static int null_ctx(struct pinlease_why *why)
{
	struct pinlease_file *file = none;

	return pinlease_file_open(NULL, path, NULL, why, &file);
}

static int null_path(struct pinlease_why *why)
{
	return open_with(NULL, NULL, why);
}

static int null_out(struct pinlease_why *why)
{
	return pinlease_file_open(u.ctx, path, NULL, why, NULL);
}

static int attach_null_out(struct pinlease_why *why)
{
	return pinlease_file_attach(u.ctx, 0, NULL, why, NULL);
}

static int attach_null_ctx(struct pinlease_why *why)
{
	struct pinlease_file *file = none;

	return pinlease_file_attach(NULL, 0, NULL, why, &file);
}

static int size_zero(struct pinlease_why *why)
{
	return open_with(path, &(struct pinlease_file_opts){ .size = 0 }, why);
}

static int size_short(struct pinlease_why *why)
{
	return open_with(path, &(struct pinlease_file_opts){ .size = sizeof(size_t) }, why);
}

struct longer {
	struct pinlease_file_opts opts;
	uint64_t more;
};

static int size_longer_set(struct pinlease_why *why)
{
	struct longer longer = { .opts.size = sizeof(longer), .more = 1 };

	return open_with(path, &longer.opts, why);
}

static int size_longer_clear(struct pinlease_why *why)
{
	struct longer longer = { .opts.size = sizeof(longer) };

	return open_with(path, &longer.opts, why);
}

static int unknown_access(struct pinlease_why *why)
{
	return open_with(path, OPTS(.access = 3), why);
}

static int unknown_guard(struct pinlease_why *why)
{
	return open_with(path, OPTS(.guard = 99), why);
}

static int unknown_flags(struct pinlease_why *why)
{
	return open_with(path, OPTS(.flags = 1u << 31), why);
}

static int reserved_set(struct pinlease_why *why)
{
	return open_with(path, OPTS(.reserved = 1), why);
}

static int no_such_file(struct pinlease_why *why)
{
	return open_with("/proc/self/no-such-file", NULL, why);
}

static int directory(struct pinlease_why *why)
{
	return open_with(fs.dir, NULL, why);
}

static int attach_directory(struct pinlease_why *why)
{
	return attach_path(fs.dir, O_RDONLY | O_DIRECTORY, PINLEASE_READ, why);
}

static int device(struct pinlease_why *why)
{
	return open_with("/dev/null", NULL, why);
}

static int attach_pipe(struct pinlease_why *why)
{
	int fds[2], ret;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	ret = attach_with(fds[0], NULL, why);
	close(fds[0]);
	close(fds[1]);
	return ret;
}

static int closed_fd(struct pinlease_why *why)
{
	return attach_with(1000, NULL, why);
}

static int negative_fd(struct pinlease_why *why)
{
	return attach_with(-1, NULL, why);
}

static int o_path_fd(struct pinlease_why *why)
{
	return attach_path(path, O_PATH, PINLEASE_WRITE, why);
}

static int read_only_fd(struct pinlease_why *why)
{
	return attach_path(path, O_RDONLY, PINLEASE_WRITE, why);
}

static int write_only_fd(struct pinlease_why *why)
{
	return attach_path(path, O_WRONLY, PINLEASE_WRITE, why);
}

/* A read lease on a descriptor open for writing: the kernel always refuses it. */
static int read_of_writable_fd(struct pinlease_why *why)
{
	return attach_path(path, O_RDWR, PINLEASE_READ, why);
}

static int foreign_file_system(struct pinlease_why *why)
{
	return open_with("/proc/self/status", OPTS(.access = PINLEASE_READ), why);
}

static int seal_of_no_memfd(struct pinlease_why *why)
{
	return open_with(path, OPTS(.guard = PINLEASE_GUARD_SEAL), why);
}

static int sealed_against_sealing(struct pinlease_why *why)
{
	int fd = memfd_create("s", MFD_CLOEXEC), ret;

	ret = attach_with(fd, OPTS(.guard = PINLEASE_GUARD_SEAL), why);
	close(fd);
	return ret;
}

static int leased_already(struct pinlease_why *why)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), ret;

	assert_int_equal(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
	ret = attach_with(fd, NULL, why);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_WRLCK);
	close(fd);
	return ret;
}

static int own_fd(struct pinlease_why *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = open_with(path, NULL, why);

	close(fd);
	return ret;
}

static int own_mapping(struct pinlease_why *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;
	void *map = mmap(NULL, UT_BLOCK, PROT_READ, MAP_SHARED, fd, 0);

	assert_true(map != MAP_FAILED);
	close(fd);
	ret = open_with(path, NULL, why);
	munmap(map, UT_BLOCK);
	return ret;
}

static int foreign_opener(struct pinlease_why *why)
{
	struct kt_call *call = kt_open(path, O_RDONLY);
	int ret;

	assert_non_null(call);
	assert_true(kt_call_done(call, UT_LONG));
	assert_true(call->ret >= 0);
	ret = open_with(path, NULL, why);
	assert_int_equal(why->pid, call->pid);
	kt_call_end(call);
	return ret;
}

/* In a process without CAP_LEASE, on a file of somebody else's. */
struct owner_arg {
	char path[KT_PATH_MAX];
	uint32_t *reason, *stage;
};

static int try_not_owner(const void *arg)
{
	const struct owner_arg *a = arg;
	struct pinlease_ctx_opts opts = { .size = sizeof(opts) };
	struct pinlease_file *file;
	struct pinlease_why why = { 0 };
	struct pinlease_ctx *ctx;
	int ret = input_drop_privilege(0);

	if (!ret)
		ret = pinlease_ctx_new(&opts, &ctx) ? -ENOTRECOVERABLE : 0;
	if (ret)
		return ret;
	ret = pinlease_file_open(ctx, a->path, NULL, &why, &file);
	*a->reason = why.reason;
	*a->stage = why.stage;
	return pinlease_ctx_free(ctx) ? -EBUSY : ret;
}

static int not_owner(struct pinlease_why *why)
{
	struct owner_arg arg = { .reason = kt_shared(sizeof(uint32_t)),
				 .stage = kt_shared(sizeof(uint32_t)) };
	int ret;

	memcpy(arg.path, path, sizeof(arg.path));
	assert_int_equal(chown(path, 1, 1), 0);
	ret = input_unprivileged(try_not_owner, &arg, sizeof(arg));
	assert_int_equal(chown(path, 0, 0), 0);
	why->reason = *arg.reason;
	why->stage = *arg.stage;
	return ret;
}

static int close_null(struct pinlease_why *why)
{
	(void)why;
	return pinlease_file_close(NULL);
}

static int truncate_null(struct pinlease_why *why)
{
	(void)why;
	return pinlease_file_truncate(NULL, 0);
}

static int allocate_null(struct pinlease_why *why)
{
	(void)why;
	return pinlease_file_allocate(NULL, 0, 0, 1);
}

static int ctx_signal(struct pinlease_why *why)
{
	struct pinlease_ctx_opts opts = { .size = sizeof(opts), .signo = SIGUSR1 };
	struct pinlease_ctx *ctx;

	(void)why;
	return pinlease_ctx_new(&opts, &ctx);
}

static int ctx_flags(struct pinlease_why *why)
{
	struct pinlease_ctx_opts opts = { .size = sizeof(opts), .flags = 1 };
	struct pinlease_ctx *ctx;

	(void)why;
	return pinlease_ctx_new(&opts, &ctx);
}

static int ctx_null(struct pinlease_why *why)
{
	(void)why;
	return pinlease_ctx_new(NULL, NULL);
}

static int ctx_event_size(struct pinlease_why *why)
{
	struct pinlease_event ev = { .size = 8 };

	(void)why;
	return pinlease_ctx_next_event(u.ctx, &ev);
}

#define ARGS	  PINLEASE_AT_ARGS
#define AT_OPEN	  PINLEASE_AT_OPEN
#define AT_GUARD  PINLEASE_AT_GUARD
#define ARGUMENT  PINLEASE_WHY_ARGUMENT
#define SIZE	  PINLEASE_WHY_OPTS_SIZE
#define BAD_FD	  PINLEASE_WHY_BAD_FD
#define IRREGULAR PINLEASE_WHY_NOT_REGULAR

static const struct input_row rows[] = {
	{ "open: NULL ctx", null_ctx, -EINVAL, ARGS, ARGUMENT },
	{ "open: NULL path", null_path, -EINVAL, ARGS, ARGUMENT },
	{ "open: NULL output", null_out, -EINVAL, ARGS, ARGUMENT },
	{ "attach: NULL ctx", attach_null_ctx, -EINVAL, ARGS, ARGUMENT },
	{ "attach: NULL output", attach_null_out, -EINVAL, ARGS, ARGUMENT },
	{ "opts of size 0", size_zero, -EINVAL, ARGS, SIZE },
	{ "opts too short", size_short, -EINVAL, ARGS, SIZE },
	{ "opts longer, unknown bytes set", size_longer_set, -E2BIG, ARGS, SIZE },
	{ "opts longer, unknown bytes clear", size_longer_clear, 0, 0, 0 },
	{ "unknown access", unknown_access, -EINVAL, ARGS, ARGUMENT },
	{ "unknown guard", unknown_guard, -EINVAL, ARGS, ARGUMENT },
	{ "unknown flags", unknown_flags, -EINVAL, ARGS, ARGUMENT },
	{ "reserved set", reserved_set, -EINVAL, ARGS, ARGUMENT },
	{ "no such file", no_such_file, -ENOENT, AT_OPEN, PINLEASE_WHY_OPEN },
	{ "a directory", directory, -EISDIR, AT_OPEN, IRREGULAR },
	{ "attach: a directory", attach_directory, -EISDIR, AT_OPEN, IRREGULAR },
	{ "a device", device, -EINVAL, AT_OPEN, IRREGULAR },
	{ "attach: a pipe", attach_pipe, -EINVAL, AT_OPEN, IRREGULAR },
	{ "attach: closed fd", closed_fd, -EBADF, AT_OPEN, BAD_FD },
	{ "attach: fd -1", negative_fd, -EBADF, AT_OPEN, BAD_FD },
	{ "attach: O_PATH fd", o_path_fd, -EBADF, AT_OPEN, BAD_FD },
	{ "attach: O_RDONLY fd for write access", read_only_fd, -EBADF, AT_OPEN, BAD_FD },
	{ "attach: O_WRONLY fd", write_only_fd, -EBADF, AT_OPEN, BAD_FD },
	{ "attach: O_RDWR fd for read access", read_of_writable_fd, -EBADF, AT_OPEN, BAD_FD },
	{ "a file system without leases", foreign_file_system, -EOPNOTSUPP, AT_GUARD,
	  PINLEASE_WHY_FILESYSTEM },
	{ "seals on what is no memfd", seal_of_no_memfd, -EOPNOTSUPP, AT_GUARD, PINLEASE_WHY_NO_SEALS },
	{ "a memfd that takes no seals", sealed_against_sealing, -EOPNOTSUPP, AT_GUARD,
	  PINLEASE_WHY_NO_SEALS },
	{ "a description that carries a lease", leased_already, -EBUSY, AT_GUARD, PINLEASE_WHY_LEASED },
	{ "own second fd", own_fd, -EAGAIN, AT_GUARD, PINLEASE_WHY_OWN_FD },
	{ "own mapping", own_mapping, -EAGAIN, AT_GUARD, PINLEASE_WHY_OWN_MAPPING },
	{ "foreign opener", foreign_opener, -EAGAIN, AT_GUARD, PINLEASE_WHY_OPENER },
	{ "not the owner", not_owner, -EACCES, AT_GUARD, PINLEASE_WHY_NOT_OWNER },
	{ "close: NULL", close_null, 0, 0, 0 },
	{ "truncate: NULL", truncate_null, -EINVAL, 0, 0 },
	{ "allocate: NULL", allocate_null, -EINVAL, 0, 0 },
	{ "ctx: a signal that is not real-time", ctx_signal, -EINVAL, 0, 0 },
	{ "ctx: unknown flags", ctx_flags, -EINVAL, 0, 0 },
	{ "ctx: NULL output", ctx_null, -EINVAL, 0, 0 },
	{ "event: short", ctx_event_size, -EINVAL, 0, 0 },
};

static void table(void **state)
{
	struct stat before, after;

	(void)state;
	assert_int_equal(stat(path, &before), 0);
	input_check(rows, sizeof(rows) / sizeof(rows[0]));
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(before.st_size, after.st_size);
	assert_int_equal(before.st_blocks, after.st_blocks);
	assert_int_equal(before.st_mtime, after.st_mtime);
	/* After all that the file can be had. */
	assert_int_equal(open_with(path, NULL, NULL), 0);
}

/* What outlives what. */
static void free_in_any_order(void **state)
{
	struct pinlease_file *file = ut_open(&u, path, PINLEASE_WRITE, 0);
	struct pinlease *lease = ut_lease(&u, file, UT_LEN, 0, 0);

	(void)state;
	assert_int_equal(pinlease_ctx_free(u.ctx), -EBUSY);
	assert_int_equal(pinlease_file_close(file), -EBUSY);
	assert_int_equal(pinlease_uring_free(u.ring), -EBUSY);
	assert_int_equal(ut_info(lease).state, PINLEASE_ACTIVE);
	ut_drop(lease, file);
	assert_int_equal(pinlease_ctx_free(NULL), 0);
	assert_int_equal(pinlease_release(NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(table), cmocka_unit_test(free_in_any_order) };
	int ret;

	ut_begin_on(&fs, "tmpfs", 16);
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	ut_start(&u, 8, 8);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	ut_stop(&u);
	return ret;
}
