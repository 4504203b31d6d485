/* SPDX-License-Identifier: BSD-3-Clause */
/* What memfd seals refuse: the seal guard rests on SHRINK|GROW|FUTURE_WRITE and on nothing less. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scene.h"

#define GUARD (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

struct sealed {
	int fd;
	char *map; /* writable, made before the seals */
};

static struct sealed make(int seals)
{
	struct sealed s = { .fd = memfd_create("kt", MFD_CLOEXEC | MFD_ALLOW_SEALING) };

	assert_true(s.fd >= 0);
	assert_int_equal(ftruncate(s.fd, SCENE_SIZE), 0);
	s.map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
	assert_true(s.map != MAP_FAILED);
	memset(s.map, 'k', SCENE_SIZE);
	assert_int_equal(fcntl(s.fd, F_ADD_SEALS, seals), 0);
	assert_int_equal(fcntl(s.fd, F_GET_SEALS), seals);
	return s;
}

static void drop(struct sealed *s)
{
	munmap(s->map, SCENE_SIZE);
	close(s->fd);
}

#define assert_refused(call, error)                  \
	do {                                         \
		errno = 0;                           \
		assert_true((intptr_t)(call) == -1); \
		assert_int_equal(errno, error);      \
	} while (0)

static void shrink_alone_does_not_refuse_a_punched_hole(void **state)
{
	struct sealed s = make(F_SEAL_SHRINK);

	(void)state;
	assert_refused(ftruncate(s.fd, 4096), EPERM);
	assert_int_equal(fallocate(s.fd, PUNCH, 0, 4096), 0);
	assert_int_equal(s.map[0], 0);
	assert_int_equal(ftruncate(s.fd, 2 * SCENE_SIZE), 0);
	drop(&s);
}

static void changes_through(int fd, const struct sealed *s)
{
	assert_refused(ftruncate(fd, 0), EPERM);
	assert_refused(ftruncate(fd, 2 * SCENE_SIZE), EPERM);
	assert_refused(fallocate(fd, PUNCH, 0, 4096), EPERM);
	assert_refused(fallocate(fd, 0, 0, 2 * SCENE_SIZE), EPERM);
	assert_refused(write(fd, "x", 1), EPERM);
	assert_refused(mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
	assert_refused(madvise(s->map, 4096, MADV_REMOVE), EPERM);
	assert_int_equal(s->map[0], 'k');
	assert_int_equal(s->map[SCENE_SIZE - 1], 'k');
}

static void shrink_grow_future_write_refuse_every_change(void **state)
{
	struct sealed s = make(GUARD);
	char link[64];
	int fd;

	(void)state;
	changes_through(s.fd, &s);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", s.fd);
	fd = open(link, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	changes_through(fd, &s);
	assert_refused(truncate(link, 0), EPERM);
	assert_refused(open(link, O_RDWR | O_TRUNC | O_CLOEXEC), EPERM);
	close(fd);
	drop(&s);
}

static void the_mapping_made_before_goes_on_writing(void **state)
{
	struct sealed s = make(GUARD);
	char byte;

	(void)state;
	s.map[4096] = 'n';
	assert_int_equal(pread(s.fd, &byte, 1, 4096), 1);
	assert_int_equal(byte, 'n');
	assert_int_equal(madvise(s.map, SCENE_SIZE, MADV_POPULATE_WRITE), 0);
	drop(&s);
}

static void a_shared_mapping_made_after_is_read_only_for_ever(void **state)
{
	struct sealed s = make(GUARD);
	char *map = mmap(NULL, SCENE_SIZE, PROT_READ, MAP_SHARED, s.fd, 0);

	(void)state;
	assert_true(map != MAP_FAILED);
	assert_refused(mprotect(map, SCENE_SIZE, PROT_READ | PROT_WRITE), EACCES);
	s.map[0] = 'n';
	assert_int_equal(map[0], 'n');
	munmap(map, SCENE_SIZE);
	drop(&s);
}

static void f_seal_write_is_refused_while_a_writable_mapping_lives(void **state)
{
	struct sealed s = make(F_SEAL_SHRINK);

	(void)state;
	assert_refused(fcntl(s.fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
	munmap(s.map, SCENE_SIZE);
	assert_int_equal(fcntl(s.fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	close(s.fd);
}

static void seals_cannot_be_taken_off_or_added_after_f_seal_seal(void **state)
{
	struct sealed s = make(F_SEAL_SHRINK | F_SEAL_SEAL);
	int plain = memfd_create("kt", MFD_CLOEXEC);

	(void)state;
	assert_refused(fcntl(s.fd, F_ADD_SEALS, GUARD), EPERM);
	assert_int_equal(fcntl(s.fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_SEAL);
	assert_int_equal(fcntl(plain, F_GET_SEALS), F_SEAL_SEAL);
	assert_refused(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK), EPERM);
	close(plain);
	drop(&s);
}

static void seals_are_added_through_a_descriptor_that_may_write(void **state)
{
	struct sealed s = make(F_SEAL_SHRINK);
	char path[32];
	int reader;

	(void)state;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s.fd);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(reader >= 0);
	assert_refused(fcntl(reader, F_ADD_SEALS, F_SEAL_GROW), EPERM);
	assert_int_equal(fcntl(reader, F_GET_SEALS), F_SEAL_SHRINK);
	close(reader);
	drop(&s);
}

static void a_file_with_a_name_cannot_be_sealed(void **state)
{
	char path[KT_PATH_MAX];

	(void)state;
	for_each_fs(which)
	{
		int fd;

		scene_file(which, path);
		fd = open(path, O_RDWR | O_CLOEXEC);
		assert_true(fd >= 0);
		if (which == TMPFS)
			assert_refused(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), EPERM);
		else
			assert_refused(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), EINVAL);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shrink_alone_does_not_refuse_a_punched_hole),
		cmocka_unit_test(shrink_grow_future_write_refuse_every_change),
		cmocka_unit_test(the_mapping_made_before_goes_on_writing),
		cmocka_unit_test(a_shared_mapping_made_after_is_read_only_for_ever),
		cmocka_unit_test(f_seal_write_is_refused_while_a_writable_mapping_lives),
		cmocka_unit_test(seals_cannot_be_taken_off_or_added_after_f_seal_seal),
		cmocka_unit_test(seals_are_added_through_a_descriptor_that_may_write),
		cmocka_unit_test(a_file_with_a_name_cannot_be_sealed),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
