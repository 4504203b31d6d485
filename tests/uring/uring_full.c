/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uring_full ext4|xfs|btrfs: a disk that fills up under a lease, and a file system that becomes
 * read-only, because somebody wants it so, or (ext4) because it has found itself to be damaged.
 * What cannot be done is said, with its reason; nothing is left of it; what a device has
 * written is in the file, or an answer said that it is not, and it can be saved elsewhere.
 */
#include "leak.h"
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static struct kt_fs fs;
static const char *fs_type;

struct full {
	struct ut u;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct ut_pump pump;
	char path[KT_PATH_MAX];
};

static struct pinlease_opts staged(struct ut *u)
{
	return (struct pinlease_opts){ .size = sizeof(struct pinlease_opts),
				       .mode = PINLEASE_MODE_STAGED,
				       .flags = PINLEASE_L_MANUAL,
				       .backend = pinlease_uring_backend(),
				       .backend_arg = u->ring };
}

/* A file of blocks, leased, and each of them written by the device since. */
static void written(struct full *f, const char *dir, const char *name)
{
	struct pinlease_opts opts;

	ut_start(&f->u, 32, 4);
	ut_file(f->path, dir, name, UT_BLOCKS);
	f->file = ut_open(&f->u, f->path, PINLEASE_WRITE, 0);
	opts = staged(&f->u);
	assert_int_equal(pinlease_acquire(f->file, 0, UT_LEN, &opts, NULL, &f->lease), 0);
	assert_true(ut_leased(f->path));
	ut_pump_start(&f->pump, &f->u, f->lease, UT_BLOCKS);
	ut_pump_more(&f->pump, 2 * UT_BLOCKS);
	ut_pump_stop(&f->pump);
}

static void given_back(struct full *f)
{
	ut_drop(f->lease, f->file);
	ut_stop(&f->u);
}

/* All that the device has written can be had, whatever the disk says. */
static void expect_saved(struct full *f)
{
	int fd = memfd_create("saved", MFD_CLOEXEC);
	char path[32];

	assert_true(fd >= 0);
	assert_int_equal(pinlease_save(f->lease, fd), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	assert_int_equal(ut_pump_missing(&f->pump, path, UT_BLOCKS), 0);
	close(fd);
}

static void make_room(void)
{
	char path[KT_PATH_MAX + 8];
	int fd = open(fs.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	snprintf(path, sizeof(path), "%s/filler", fs.dir);
	assert_int_equal(unlink(path), 0);
	/* The first one may tell of what could not be written before. */
	syncfs(fd);
	assert_int_equal(syncfs(fd), 0);
	close(fd);
}

/* A break: REVOKED or LOST, and the opener goes on. Answers what was told. */
static int broken(struct full *f)
{
	struct pinlease_event ev;

	assert_true(kt_open_now(f->path, O_RDONLY, UT_LONG) >= 0);
	/* The opener is let on a little before that is said. */
	for (unsigned int ms = 0; ms < UT_LONG && ut_info(f->lease).state == PINLEASE_FENCING; ms++)
		kt_sleep_ms(1);
	if (ut_info(f->lease).state == PINLEASE_REVOKED)
		return 0;
	assert_int_equal(ut_info(f->lease).state, PINLEASE_LOST);
	assert_true(ut_event(&f->u, PINLEASE_EV_LOST, UT_LONG, &ev));
	assert_int_equal(ev.lost_bytes, UT_LEN);
	return ev.err;
}

static int try_hole(struct full *f, const char *path, struct pinlease_why *why)
{
	struct pinlease_opts opts = staged(&f->u);
	struct pinlease_file *file = ut_open(&f->u, path, PINLEASE_WRITE, 0);
	struct pinlease *lease = NULL;
	int r = pinlease_acquire(file, 0, UT_LEN, &opts, why, &lease);

	if (!r)
		assert_int_equal(pinlease_release(lease), 0);
	assert_int_equal(pinlease_file_close(file), 0);
	return r;
}

/* A hole has no blocks on a full disk: refused, twice the same, and the file is as it was. */
static void hole_without_room(struct full *f, const char *path)
{
	static struct leak_mark before, after;
	struct pinlease_why why = { .reason = 0 };
	struct stat was, is;

	assert_int_equal(stat(path, &was), 0);
	assert_int_equal(try_hole(f, path, &why), -ENOSPC);
	assert_int_equal(leak_take(&before), 0);
	assert_int_equal(try_hole(f, path, &why), -ENOSPC);
	assert_int_equal(why.reason, PINLEASE_WHY_NO_SPACE);
	assert_int_equal(leak_take(&after), 0);
	assert_true(leak_none(&before, &after));
	assert_int_equal(stat(path, &is), 0);
	assert_int_equal(was.st_blocks, is.st_blocks);
	assert_int_equal(was.st_size, is.st_size);
}

static void full_disk(void **state)
{
	char hole[KT_PATH_MAX];
	int synced, told;
	struct full f;

	(void)state;
	assert_int_equal(kt_file(hole, fs.dir, "hole", 0), 0);
	assert_int_equal(truncate(hole, UT_LEN), 0);
	written(&f, fs.dir, "leased");
	assert_int_equal(kt_fill_up(fs.dir), 0);
	hole_without_room(&f, hole);
	/* ext4 and xfs write to the blocks that acquire has seen to; btrfs needs new ones. */
	synced = pinlease_sync(f.lease, 0, 0, 0);
	assert_true(!synced || (synced == -ENOSPC && !strcmp(fs_type, "btrfs")));
	if (synced)
		expect_saved(&f);
	told = broken(&f);
	assert_true(!told || (told == -ENOSPC && synced));
	if (told)
		expect_saved(&f);
	make_room();
	ut_restore(f.lease);
	assert_int_equal(pinlease_sync(f.lease, 0, 0, 0), 0);
	assert_int_equal(try_hole(&f, hole, NULL), 0);
	given_back(&f);
	if (!told)
		assert_int_equal(ut_pump_missing(&f.pump, f.path, UT_BLOCKS), 0);
	printf("%s, full: sync %s, a break %s; what was written is %s\n", fs_type, synced ? "ENOSPC" : "0",
	       told ? "LOST" : "REVOKED", told ? "saved" : "in the file");
}

static int remount(unsigned long flags)
{
	return mount(NULL, fs.dir, NULL, MS_REMOUNT | flags, NULL) ? -errno : 0;
}

/* A file that is leased for writing is open for writing: nobody can make it read-only under the lease. */
static void not_under_a_lease(void)
{
	struct full f;

	written(&f, fs.dir, "busy");
	assert_int_equal(remount(MS_RDONLY), -EBUSY);
	assert_int_equal(ut_info(f.lease).state, PINLEASE_ACTIVE);
	assert_int_equal(pinlease_sync(f.lease, 0, 0, 0), 0);
	given_back(&f);
	assert_int_equal(ut_pump_missing(&f.pump, f.path, UT_BLOCKS), 0);
}

/* A lease for reading is held over the change, there and back, and is broken by the first writer. */
static void read_lease_over_it(struct ut *u, const char *path)
{
	struct pinlease_opts opts = staged(u);
	struct pinlease_why why = { .reason = 0 };
	struct pinlease_file *file = NULL;
	struct pinlease *lease;

	assert_int_equal(pinlease_file_open(u->ctx, path, NULL, &why, &file), -EROFS);
	assert_int_equal(why.reason, PINLEASE_WHY_OPEN);
	assert_null(file);
	file = ut_open(u, path, PINLEASE_READ, 0);
	assert_int_equal(pinlease_acquire(file, 0, UT_LEN, &opts, NULL, &lease), 0);
	assert_int_equal(ut_stamp_of(ut_view(lease).addr), 0);
	assert_int_equal(kt_open_now(path, O_RDWR, UT_LONG), -EROFS);
	assert_int_equal(ut_info(lease).state, PINLEASE_ACTIVE);
	assert_int_equal(remount(0), 0);
	assert_int_equal(ut_info(lease).state, PINLEASE_ACTIVE);
	assert_int_equal(kt_truncate_now(path, UT_LEN, UT_LONG), 0);
	assert_int_equal(ut_info(lease).state, PINLEASE_REVOKED);
	ut_restore(lease);
	ut_drop(lease, file);
}

static void read_only(void **state)
{
	static struct leak_mark before, after;
	char path[KT_PATH_MAX];
	struct ut u;

	(void)state;
	ut_file(path, fs.dir, "read", UT_BLOCKS);
	not_under_a_lease();
	ut_start(&u, 8, 4);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(leak_take(&before), 0);
		assert_int_equal(remount(MS_RDONLY), 0);
		read_lease_over_it(&u, path);
		assert_int_equal(leak_take(&after), 0);
	}
	leak_files_only(&before);
	leak_files_only(&after);
	assert_true(leak_none(&before, &after));
	ut_stop(&u);
}

/* Its own loop device's: the name is checked, since this is done to a file system of this machine. */
static int damage(const char *device)
{
	char path[96];
	int number, fd;
	ssize_t n;

	if (sscanf(device, "/dev/loop%d", &number) != 1)
		return -EINVAL;
	snprintf(path, sizeof(path), "/sys/fs/ext4/loop%d/trigger_fs_error", number);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, "1", 1);
	close(fd);
	return n == 1 ? 0 : -EIO;
}

/* errors=remount-ro: read-only from one moment to the next, whoever has files open for writing. */
static void damaged(void **state)
{
	int image = memfd_create("damaged", MFD_CLOEXEC), loop, synced, told;
	char device[KT_DEVICE_MAX];
	struct kt_fs bad;
	struct full f;

	(void)state;
	if (strcmp(fs_type, "ext4"))
		return;
	assert_int_equal(ftruncate(image, 64 << 20), 0);
	loop = kt_loop(image, device);
	assert_true(loop >= 0);
	assert_int_equal(kt_mkfs("ext4", device), 0);
	assert_int_equal(kt_fs_mount(&bad, "ext4", device, "errors=remount-ro"), 0);
	written(&f, bad.dir, "leased");
	assert_int_equal(damage(device), 0);
	synced = pinlease_sync(f.lease, 0, 0, 0);
	assert_true(synced == -EROFS || synced == -EIO);
	expect_saved(&f);
	told = broken(&f);
	assert_true(told == -EROFS || told == -EIO);
	expect_saved(&f);
	given_back(&f);
	kt_fs_drop(&bad);
	close(loop);
	close(image);
	printf("ext4, damaged: sync %s, a break LOST (%s), all of it saved\n", strerror(-synced),
	       strerror(-told));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(full_disk),
		cmocka_unit_test(read_only),
		cmocka_unit_test(damaged),
	};

	if (argc != 2)
		return 2;
	fs_type = argv[1];
	ut_begin_on(&fs, fs_type, 64);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
