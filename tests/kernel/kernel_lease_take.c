/* SPDX-License-Identifier: BSD-3-Clause */
/* Who may take which lease, and what stands in the way: opens, mappings, ownership, kinds of file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scene.h"

static int open_ro(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int open_rw(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void assert_take(int fd, int type, int want)
{
	assert_int_equal(kt_lease_take(fd, type, SCENE_SIG), want);
	if (!want)
		assert_int_equal(kt_lease_drop(fd), 0);
}

struct mapping {
	char path[KT_PATH_MAX];
	int flags;
};

/* A mapping whose fd is closed: still an open file, though no fd shows it. */
static int map_and_close(const void *arg)
{
	const struct mapping *m = arg;
	int fd = open(m->path, m->flags | O_CLOEXEC);
	void *map;

	if (fd < 0)
		return -errno;
	map = mmap(NULL, SCENE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return map == MAP_FAILED ? -errno : 0;
}

static struct kt_call *mapper(const char *path, int flags)
{
	struct mapping m = { .flags = flags };
	struct kt_call *call;

	snprintf(m.path, sizeof(m.path), "%s", path);
	call = kt_call_start(map_and_close, &m, sizeof(m));
	assert_non_null(call);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	assert_int_equal(call->ret, 0);
	return call;
}

static struct kt_call *opener(const char *path, int flags)
{
	struct kt_call *call = kt_open(path, flags);

	assert_non_null(call);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	assert_true(call->ret >= 0);
	return call;
}

static void a_write_lease_needs_to_be_the_sole_opener(void **state)
{
	char path[KT_PATH_MAX];
	struct kt_call *other;

	(void)state;
	for_each_fs(which)
	{
		int fd, own;

		scene_file(which, path);
		fd = open_rw(path);
		assert_take(fd, F_WRLCK, 0);
		other = opener(path, O_RDONLY);
		assert_take(fd, F_WRLCK, -EAGAIN);
		kt_call_end(other);
		other = mapper(path, O_RDONLY);
		assert_take(fd, F_WRLCK, -EAGAIN);
		kt_call_end(other);
		own = open_ro(path);
		assert_take(fd, F_WRLCK, -EAGAIN);
		close(own);
		other = opener(path, O_PATH);
		assert_take(fd, F_WRLCK, 0);
		kt_call_end(other);
		close(fd);
	}
}

static void a_read_lease_is_never_had_on_o_rdwr(void **state)
{
	char path[KT_PATH_MAX];

	(void)state;
	for_each_fs(which)
	{
		int fd;

		scene_file(which, path);
		fd = open_rw(path);
		assert_take(fd, F_RDLCK, -EAGAIN);
		close(fd);
	}
}

static void a_read_lease_needs_that_no_writer_lives_in_any_process(void **state)
{
	char path[KT_PATH_MAX];
	struct kt_call *other;

	(void)state;
	for_each_fs(which)
	{
		int fd, own;
		void *map;

		scene_file(which, path);
		fd = open_ro(path);
		assert_take(fd, F_RDLCK, 0);
		other = opener(path, O_WRONLY);
		assert_take(fd, F_RDLCK, -EAGAIN);
		kt_call_end(other);
		own = open_rw(path);
		assert_take(fd, F_RDLCK, -EAGAIN);
		map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
		assert_true(map != MAP_FAILED);
		close(own);
		assert_take(fd, F_RDLCK, -EAGAIN);
		munmap(map, SCENE_SIZE);
		assert_take(fd, F_RDLCK, 0);
		close(fd);
	}
}

static void a_read_lease_is_shared_by_any_number_of_processes(void **state)
{
	struct kt_hold_opts opts = { .flags = O_RDONLY, .type = F_RDLCK, .map = SCENE_SIZE };
	struct kt_holder *holders[4];
	struct kt_call *writer;

	(void)state;
	for_each_fs(which)
	{
		scene_file(which, opts.path);
		for (int i = 0; i < 4; i++) {
			holders[i] = kt_hold(&opts);
			assert_non_null(holders[i]);
			assert_int_equal(holders[i]->ret, 0);
		}
		writer = kt_truncate(opts.path, SCENE_SIZE / 2);
		assert_int_equal(kt_call_done(writer, SCENE_LONG), 1);
		assert_int_equal(writer->ret, 0);
		kt_call_end(writer);
		for (int i = 0; i < 4; i++) {
			holder_sees_a_break(holders[i]);
			assert_int_equal(holders[i]->target, F_UNLCK);
			for (int ms = 0; ms < SCENE_LONG && holders[i]->unlock_ret == -EINPROGRESS; ms++)
				kt_sleep_ms(1);
			assert_int_equal(holders[i]->unlock_ret, 0);
			kt_hold_end(holders[i]);
		}
	}
}

static void a_lease_is_seen_and_dropped_through_any_fd_of_its_ofd(void **state)
{
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		int fd;

		held_open(&h, which, F_WRLCK);
		fd = dup(h.fd);
		assert_int_equal(kt_lease_get(fd), F_WRLCK);
		assert_int_equal(kt_lease_drop(fd), 0);
		assert_int_equal(kt_lease_get(h.fd), F_UNLCK);
		close(fd);
		held_close(&h);
	}
}

static int take_as_nobody(const void *arg)
{
	int fd;

	if (setgid(65534) || setuid(65534))
		return -EPERM;
	fd = open(arg, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -ENOENT : fcntl(fd, F_SETLEASE, F_RDLCK) ? -errno : 0;
}

static void a_lease_needs_the_owner_of_the_file(void **state)
{
	char path[KT_PATH_MAX];
	struct kt_call *call;

	(void)state;
	for_each_fs(which)
	{
		for (int own = 0; own < 2; own++) {
			scene_file(which, path);
			if (own)
				assert_int_equal(chown(path, 65534, 65534), 0);
			call = kt_call_start(take_as_nobody, path, sizeof(path));
			assert_non_null(call);
			assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
			assert_int_equal(call->ret, own ? 0 : -EACCES);
			kt_call_end(call);
		}
	}
}

static void only_regular_files_have_leases(void **state)
{
	char path[KT_PATH_MAX];

	(void)state;
	for_each_fs(which)
	{
		int fd = open(scene_dir(which), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		assert_true(fd >= 0);
		assert_int_equal(fcntl(fd, F_SETLEASE, F_RDLCK), -1);
		assert_true(errno == EINVAL);
		close(fd);
		scene_file(which, path);
		fd = open(path, O_PATH | O_CLOEXEC);
		assert_int_equal(fcntl(fd, F_SETLEASE, F_RDLCK), -1);
		assert_int_equal(errno, EBADF);
		close(fd);
	}
}

/* The memfd's own fd counts nowhere: it cannot be leased, and it does not stand in the way of a lease either.
 */
static void a_memfd_has_a_write_lease_only_through_a_reopen(void **state)
{
	int memfd = memfd_create("kt", MFD_CLOEXEC), reopened;
	char link[64];

	(void)state;
	assert_int_equal(ftruncate(memfd, SCENE_SIZE), 0);
	assert_take(memfd, F_WRLCK, -EAGAIN);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", memfd);
	reopened = open_rw(link);
	assert_int_equal(kt_lease_take(reopened, F_WRLCK, SCENE_SIG), 0);
	assert_int_equal(pwrite(memfd, "x", 1, 0), 1);
	assert_int_equal(ftruncate(memfd, 0), 0);
	assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
	assert_int_equal(kt_lease_drop(reopened), 0);
	close(memfd);
	assert_take(reopened, F_WRLCK, 0);
	close(reopened);
}

static void hugetlbfs_has_leases_until_setlease_became_opt_in(void **state)
{
	char path[KT_PATH_MAX + 8];
	struct kt_fs fs;
	int fd;

	(void)state;
	assert_int_equal(kt_fs_make(&fs, "hugetlbfs", 2), 0);
	snprintf(path, sizeof(path), "%s/f", fs.dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_take(fd, F_WRLCK, kt_kernel_from(7, 0) ? -EINVAL : 0);
	close(fd);
	kt_fs_drop(&fs);
}

/* lower, upper and work are folders of one tmpfs; NULL when this kernel has no overlayfs. */
static bool overlay_mount(const char *base, char merged[KT_PATH_MAX], char upper[KT_PATH_MAX])
{
	static const char *const names[] = { "lower", "upper", "work", "merged" };
	char path[KT_PATH_MAX + 8], options[4 * KT_PATH_MAX];

	for (size_t i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s/%s", base, names[i]);
		assert_int_equal(mkdir(path, 0755), 0);
	}
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", base, base,
		 base);
	snprintf(merged, KT_PATH_MAX, "%.64s/merged", base);
	if (mount("kt", merged, "overlay", 0, options)) {
		assert_int_equal(errno, ENODEV);
		return false;
	}
	assert_int_equal(kt_file(path, merged, "f", SCENE_SIZE), 0);
	snprintf(upper, KT_PATH_MAX, "%.64s/upper/f", base);
	snprintf(merged, KT_PATH_MAX, "%.64s/merged/f", base);
	assert_int_equal(size_of(upper), SCENE_SIZE);
	return true;
}

static void overlayfs_does_not_see_opens_of_the_upper_file(void **state)
{
	char merged[KT_PATH_MAX], upper[KT_PATH_MAX];
	struct kt_call *call;
	struct kt_fs fs;
	int fd;

	(void)state;
	assert_int_equal(kt_fs_make(&fs, "tmpfs", 4), 0);
	if (!overlay_mount(fs.dir, merged, upper)) {
		kt_note("overlayfs is not in this kernel");
		return;
	}
	fd = open_rw(merged);
	assert_int_equal(kt_lease_take(fd, F_WRLCK, SCENE_SIG), 0);
	assert_true(kt_open_now(upper, O_RDWR, SCENE_LONG) >= 0);
	assert_int_equal(kt_truncate_now(upper, SCENE_SIZE, SCENE_LONG), 0);
	assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
	call = kt_open(merged, O_RDWR);
	assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, NULL), 1);
	assert_int_equal(kt_call_blocked(call, SCENE_MS), 1);
	assert_int_equal(kt_lease_drop(fd), 0);
	assert_int_equal(kt_call_done(call, SCENE_LONG), 1);
	kt_call_end(call);
	close(fd);
}

static void overlayfs_drops_the_lease_at_close_though_a_mapping_lives(void **state)
{
	char merged[KT_PATH_MAX], upper[KT_PATH_MAX];
	struct kt_fs fs;
	void *map;
	int fd;

	(void)state;
	assert_int_equal(kt_fs_make(&fs, "tmpfs", 4), 0);
	if (!overlay_mount(fs.dir, merged, upper)) {
		kt_note("overlayfs is not in this kernel");
		return;
	}
	fd = open_rw(merged);
	map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	assert_int_equal(kt_lease_take(fd, F_WRLCK, SCENE_SIG), 0);
	close(fd);
	assert_true(kt_open_now(merged, O_RDWR, SCENE_LONG) >= 0);
	assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
	munmap(map, SCENE_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_write_lease_needs_to_be_the_sole_opener),
		cmocka_unit_test(a_read_lease_is_never_had_on_o_rdwr),
		cmocka_unit_test(a_read_lease_needs_that_no_writer_lives_in_any_process),
		cmocka_unit_test(a_read_lease_is_shared_by_any_number_of_processes),
		cmocka_unit_test(a_lease_is_seen_and_dropped_through_any_fd_of_its_ofd),
		cmocka_unit_test(a_lease_needs_the_owner_of_the_file),
		cmocka_unit_test(only_regular_files_have_leases),
		cmocka_unit_test(a_memfd_has_a_write_lease_only_through_a_reopen),
		cmocka_unit_test(hugetlbfs_has_leases_until_setlease_became_opt_in),
		cmocka_unit_test(overlayfs_does_not_see_opens_of_the_upper_file),
		cmocka_unit_test(overlayfs_drops_the_lease_at_close_though_a_mapping_lives),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
