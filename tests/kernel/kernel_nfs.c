/* SPDX-License-Identifier: BSD-3-Clause */
/* NFS: what a lease of a client is worth against an open on the server. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "scene.h"

static struct kt_nfs nfs;
static char server_path[KT_PATH_MAX], path[KT_PATH_MAX];

/* The server gives delegations to clients that it can call back, so not with the first open. */
static int take_read_lease(void)
{
	int fd = -1, ret = -EAGAIN;

	for (int i = 0; ret && i < 1000; i++) {
		if (fd >= 0)
			close(fd);
		kt_sleep_ms(20);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_true(fd >= 0);
		ret = kt_lease_take(fd, F_RDLCK, SCENE_SIG);
	}
	assert_int_equal(ret, 0);
	assert_int_equal(kt_lease_get(fd), F_RDLCK);
	return fd;
}

static void an_open_on_the_server_signals_and_does_not_wait(void **state)
{
	struct kt_call *opener;
	int fd;

	(void)state;
	fd = take_read_lease();
	opener = kt_open(server_path, O_RDWR);
	assert_non_null(opener);
	/* Nobody answers the break. */
	assert_int_equal(kt_call_done(opener, SCENE_LONG), 1);
	assert_true(opener->ret >= 0);
	assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, NULL), 1);
	print_message("let in after %.1f ms, lease %d\n", (double)kt_call_ns(opener) / 1e6, kt_lease_get(fd));
	assert_true(kt_call_ns(opener) < SCENE_LONG * 1000000ull);
	kt_call_end(opener);
	kt_lease_drop(fd);
	close(fd);
}

static int make(void **state)
{
	int ret = kt_nfs_make(&nfs);

	(void)state;
	if (ret == -ENODEV)
		kt_skip("this kernel has no NFS server");
	assert_int_equal(ret, 0);
	assert_int_equal(kt_file(server_path, nfs.server.dir, "f", SCENE_SIZE), 0);
	snprintf(path, sizeof(path), "%.64s/f", nfs.client.dir);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	kt_nfs_drop(&nfs);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_open_on_the_server_signals_and_does_not_wait),
	};

	kt_init();
	if (geteuid())
		kt_skip("mounts file systems: needs root");
	return cmocka_run_group_tests(tests, make, drop);
}
