/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scene.h"

static const char *const types[SCENE_FS_COUNT] = { "tmpfs", "ext4", "xfs", "btrfs" };
static struct kt_fs mounted[SCENE_FS_COUNT];

int scene_setup(void **state)
{
	(void)state;
	if (geteuid())
		kt_skip("mounting scratch file systems needs root");
	for_each_fs(which) assert_int_equal(kt_fs_make(&mounted[which], types[which], 64), 0);
	assert_int_equal(kt_break_time(SCENE_TIME), 0);
	return kt_sig_block(SCENE_SIG);
}

const char *scene_type(enum scene_fs which)
{
	return types[which];
}

const char *scene_dir(enum scene_fs which)
{
	if (!mounted[which].dir[0])
		assert_int_equal(kt_fs_make(&mounted[which], types[which], 64), 0);
	return mounted[which].dir;
}

void scene_file(enum scene_fs which, char path[KT_PATH_MAX])
{
	static unsigned int number;
	char name[16];

	snprintf(name, sizeof(name), "f%u", number++);
	assert_int_equal(kt_file(path, scene_dir(which), name, SCENE_SIZE), 0);
}

void held_open(struct held *h, enum scene_fs which, int type)
{
	bool write = type == F_WRLCK;

	h->type = type;
	scene_file(which, h->path);
	h->fd = open(h->path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	assert_true(h->fd >= 0);
	h->map = mmap(NULL, SCENE_SIZE, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED, h->fd, 0);
	assert_true(h->map != MAP_FAILED);
	assert_int_equal(kt_lease_take(h->fd, type, SCENE_SIG), 0);
}

void held_close(struct held *h)
{
	munmap(h->map, SCENE_SIZE);
	close(h->fd);
	unlink(h->path);
	while (kt_sig_wait(SCENE_SIG, 0, NULL))
		;
}

void held_is_broken_to(const struct held *h, int target)
{
	siginfo_t info = { 0 };

	assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, &info), 1);
	assert_int_equal(info.si_fd, h->fd);
	assert_int_equal(kt_lease_get(h->fd), target);
}

void held_is_untouched(const struct held *h)
{
	assert_int_equal(kt_sig_wait(SCENE_SIG, 0, NULL), 0);
	assert_int_equal(kt_lease_get(h->fd), h->type);
}

long long size_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

/* Its breaker is asleep as soon as the signal is sent, and the holder has yet to run. */
void holder_sees_a_break(const struct kt_holder *holder)
{
	for (unsigned int ms = 0; ms < SCENE_LONG && !holder->breaks; ms++)
		kt_sleep_ms(1);
	assert_int_equal(holder->breaks, 1);
}
