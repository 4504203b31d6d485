/* SPDX-License-Identifier: BSD-3-Clause */
/* 9p: whose file system type statfs(2) tells. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "scene.h"

#define LINE 512

/* The type of the mount that fd lies on, by its mnt_id. */
static void mounted_type(int fd, char type[LINE])
{
	char path[64], line[LINE];
	long id = -1, other;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "mnt_id: %ld", &id) == 1)
			break;
	fclose(f);
	f = fopen("/proc/self/mountinfo", "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%ld %*s %*s %*s %*s %*[^-]- %511s", &other, type) == 2 && other == id)
			break;
	fclose(f);
}

static void a_9p_share_passes_on_the_type_of_its_servers_file_system(void **state)
{
	char path[KT_PATH_MAX], type[LINE] = "";
	struct statfs sfs;
	struct stat st;
	int fd;

	(void)state;
	assert_int_equal(kt_file(path, getenv("PINLEASE_OUT"), "9p", SCENE_SIZE), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	mounted_type(fd, type);
	assert_string_equal(type, "9p");
	assert_int_equal(fstatfs(fd, &sfs), 0);
	assert_true(sfs.f_type != V9FS_MAGIC);
	print_message("f_type %#lx\n", (unsigned long)sfs.f_type);
	/* What gives it away: no disk, no seals. */
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(major(st.st_dev), 0);
	assert_int_equal(fcntl(fd, F_GET_SEALS), -1);
	assert_int_equal(errno, EINVAL);
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_9p_share_passes_on_the_type_of_its_servers_file_system),
	};

	kt_init();
	if (!getenv("PINLEASE_OUT"))
		kt_skip("no folder of the host: run me in a guest");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
