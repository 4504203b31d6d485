/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files that are not simply on a file system of the matrix: behind a bind mount, the backing
 * file of a loop device, in a user namespace, on FUSE or 9p. Each is guarded, or refused with its
 * reason; without a guard, by name, staged memory works everywhere.
 */
#include "ut.h"

#include "fusefs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOON UT_LONG

static struct kt_fs fs;
static struct ut u;

static int open_file(const char *path, uint32_t access, uint32_t guard, struct pinlease_why *why,
		     struct pinlease_file **file)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .access = access, .guard = guard };

	*why = (struct pinlease_why){ 0 };
	return pinlease_file_open(u.ctx, path, &opts, why, file);
}

static void refused(const char *path, uint32_t guard, int err, uint32_t reason)
{
	struct pinlease_file *file = NULL;
	struct pinlease_why why;

	assert_int_equal(open_file(path, PINLEASE_WRITE, guard, &why, &file), err);
	assert_null(file);
	if (why.reason != reason)
		print_error("reason: %s\n", pinlease_reason_str(why.reason));
	assert_int_equal(why.reason, reason);
}

/* Both mounts show one inode, and a lease is the inode's. */
static void a_bind_mount_is_the_file_itself(void **state)
{
	char path[KT_PATH_MAX], dir[KT_PATH_MAX], bound[KT_PATH_MAX + 8];
	struct pinlease_event ev;
	struct pinlease_file *file;
	struct pinlease *lease;

	(void)state;
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	snprintf(dir, sizeof(dir), "%.80s/bound", fs.dir);
	snprintf(bound, sizeof(bound), "%s/f", dir);
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(mount(fs.dir, dir, NULL, MS_BIND, NULL), 0);
	file = ut_open(&u, bound, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	assert_int_equal(kt_truncate_now(path, UT_LEN, SOON), 0);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, SOON, &ev));
	assert_true(ut_event(&u, PINLEASE_EV_RESTORED, SOON, &ev));
	assert_int_equal(kt_truncate_now(bound, UT_LEN, SOON), 0);
	assert_true(ut_event(&u, PINLEASE_EV_BREAK, SOON, &ev));
	ut_drop(lease, file);
	assert_int_equal(umount2(dir, 0), 0);
	unlink(path);
}

/* The kernel has it open, in no process: there is no pid to name. */
static void the_backing_file_of_a_loop_device_is_in_use(void **state)
{
	struct loop_config config = { .fd = 0 };
	char path[KT_PATH_MAX], device[32];
	struct pinlease_file *file;
	struct pinlease_why why;
	int control, loop;

	(void)state;
	ut_file(path, fs.dir, "image", UT_BLOCKS);
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	assert_true(control >= 0);
	snprintf(device, sizeof(device), "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
	close(control);
	loop = open(device, O_RDWR | O_CLOEXEC);
	config.fd = (uint32_t)open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(ioctl(loop, LOOP_CONFIGURE, &config), 0);
	close((int)config.fd);

	assert_int_equal(open_file(path, PINLEASE_WRITE, PINLEASE_GUARD_AUTO, &why, &file), -EAGAIN);
	assert_int_equal(why.reason, PINLEASE_WHY_OPENER);
	assert_int_equal(why.pid, 0);
	assert_int_equal(ioctl(loop, LOOP_CLR_FD), 0);
	close(loop);
	/* Detached by the last close, and free to be leased. */
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	assert_int_equal(pinlease_file_close(file), 0);
	unlink(path);
}

struct in_namespace {
	char mine[KT_PATH_MAX], others[KT_PATH_MAX];
};

static int write_map(const char *what, unsigned int outside)
{
	char path[64], line[32];
	int fd, n, ok;

	snprintf(path, sizeof(path), "/proc/self/%s", what);
	n = snprintf(line, sizeof(line), "0 %u 1", outside);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ok = fd >= 0 && write(fd, line, (size_t)n) == n;
	close(fd);
	return ok ? 0 : -errno;
}

/* root of a namespace of its own, with all capabilities there: 0, or which step failed. */
static int namespace_root(const void *arg)
{
	const struct in_namespace *n = arg;
	struct pinlease_file_opts opts = { .size = sizeof(opts) };
	struct pinlease_why why = { 0 };
	struct pinlease_file *file;
	struct pinlease_ctx *ctx;

	/* Dumpable again, or /proc/self would be root's. */
	if (setresuid(1000, 1000, 1000) || prctl(PR_SET_DUMPABLE, 1))
		return 1;
	if (unshare(CLONE_NEWUSER))
		return -errno;
	if (write_map("uid_map", 1000))
		return 1;
	if (geteuid() || pinlease_ctx_new(NULL, &ctx))
		return 2;
	/* CAP_LEASE is asked of the initial namespace. */
	if (pinlease_file_open(ctx, n->others, &opts, &why, &file) != -EACCES ||
	    why.reason != PINLEASE_WHY_NOT_OWNER)
		return 3;
	if (pinlease_file_open(ctx, n->mine, &opts, &why, &file) || pinlease_file_close(file))
		return 4;
	return pinlease_ctx_free(ctx) ? 5 : 0;
}

static void root_of_a_user_namespace_leases_what_is_its_own(void **state)
{
	struct in_namespace n;
	struct kt_call *call;

	(void)state;
	if (KT_TSAN) {
		kt_note("a process with threads, and ThreadSanitizer has one, makes no user namespace");
		return;
	}
	ut_file(n.mine, fs.dir, "mine", 1);
	ut_file(n.others, fs.dir, "others", 1);
	assert_int_equal(chmod(fs.dir, 0777), 0);
	assert_int_equal(chmod(n.others, 0666), 0);
	assert_int_equal(chown(n.mine, 1000, 1000), 0);
	call = kt_call_start(namespace_root, &n, sizeof(n));
	assert_non_null(call);
	assert_int_equal(kt_call_done(call, SOON), 1);
	if (call->ret == -EPERM || call->ret == -ENOSPC)
		kt_note("no user namespaces: in a chroot, or switched off");
	else
		assert_int_equal(call->ret, 0);
	kt_call_end(call);
}

/*
 * Somebody else may change the file as he likes, and no lease of ours would tell. A block of
 * zeros on its way into a file of other bytes; the lease that was made for it.
 */
static struct pinlease *staged_without_a_guard(const char *path, struct pinlease_file **file)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .backend = pinlease_uring_backend(),
				      .backend_arg = u.ring };
	struct pinlease *lease;
	struct pinlease_why why;
	int zero;

	refused(path, PINLEASE_GUARD_AUTO, -EOPNOTSUPP, PINLEASE_WHY_FILESYSTEM);
	refused(path, PINLEASE_GUARD_LEASE, -EOPNOTSUPP, PINLEASE_WHY_FILESYSTEM);
	refused(path, PINLEASE_GUARD_SEAL, -EOPNOTSUPP, PINLEASE_WHY_NO_SEALS);
	assert_int_equal(open_file(path, PINLEASE_WRITE, PINLEASE_GUARD_NONE, &why, file), 0);
	assert_int_equal(pinlease_acquire(*file, 0, UT_LEN, &opts, &why, &lease), 0);
	assert_int_equal(ut_info(lease).mode, PINLEASE_MODE_STAGED);
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pinlease_uring_read(u.ring, lease, UT_BLOCK, UT_BLOCK, zero, 0, 0), 0);
	assert_int_equal(ut_take(&u).res, UT_BLOCK);
	close(zero);
	return lease;
}

static void fuse_is_refused_and_staged_without_a_guard(void **state)
{
	char dir[KT_PATH_MAX], path[KT_PATH_MAX + 8];
	struct pinlease_file *file;
	struct pinlease *lease;
	struct fusefs *fuse;

	(void)state;
	snprintf(dir, sizeof(dir), "%.80s/fuse", fs.dir);
	snprintf(path, sizeof(path), "%s/" FUSEFS_NAME, dir);
	assert_int_equal(mkdir(dir, 0755), 0);
	fuse = fusefs_start(dir, UT_LEN);
	assert_non_null(fuse);
	lease = staged_without_a_guard(path, &file);
	assert_int_equal(((const char *)ut_view(lease).addr)[UT_LEN - 1], 'k');
	assert_int_equal(fuse->data[UT_BLOCK], 'k');
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_int_equal(fuse->data[UT_BLOCK], 0);
	assert_int_equal(fuse->data[UT_BLOCK - 1], 'k');
	assert_true(atomic_load(&fuse->fsyncs) > 0);
	ut_drop(lease, file);
	fusefs_stop(fuse);
}

/* A folder of the machine that the guest runs on. */
static void a_9p_share_is_refused_and_staged_without_a_guard(void **state)
{
	char path[KT_PATH_MAX];
	struct pinlease_file *file;
	struct pinlease *lease;

	(void)state;
	ut_file(path, getenv("PINLEASE_OUT"), "shared", UT_BLOCKS);
	assert_int_equal(truncate(path, UT_LEN), 0);
	lease = staged_without_a_guard(path, &file);
	memset(ut_view(lease).addr, 'k', 1);
	assert_int_equal(pinlease_sync(lease, 0, 0, 0), 0);
	assert_int_equal(ut_stamp_at(path, 1), 0);
	assert_int_equal(ut_stamp_at(path, 0), -1);
	ut_drop(lease, file);
	unlink(path);
}

static int setup(void **state)
{
	(void)state;
	assert_int_equal(kt_fs_make(&fs, "ext4", 64), 0);
	ut_start(&u, 8, 2);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_stop(&u);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest shared[] = {
		cmocka_unit_test(a_9p_share_is_refused_and_staged_without_a_guard),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bind_mount_is_the_file_itself),
		cmocka_unit_test(the_backing_file_of_a_loop_device_is_in_use),
		cmocka_unit_test(root_of_a_user_namespace_leases_what_is_its_own),
		cmocka_unit_test(fuse_is_refused_and_staged_without_a_guard),
	};

	ut_begin();
	if (argc == 2 && !strcmp(argv[1], "9p")) {
		if (!getenv("PINLEASE_OUT"))
			kt_skip("no folder of the host: run me in a guest");
		return cmocka_run_group_tests(shared, setup, teardown);
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
