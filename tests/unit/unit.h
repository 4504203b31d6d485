/* SPDX-License-Identifier: BSD-3-Clause */
/* What the unit tests share. cmocka's assertions jump: they are made in the main thread only. */
#ifndef PL_UNIT_H
#define PL_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNIT_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* xorshift64*: every run takes the same way. */
struct unit_random {
	uint64_t x;
};

static inline uint64_t unit_random(struct unit_random *r, uint64_t below)
{
	r->x = r->x ? r->x : 0x9e3779b97f4a7c15u;
	r->x ^= r->x >> 12;
	r->x ^= r->x << 25;
	r->x ^= r->x >> 27;
	return (r->x * 0x2545f4914f6cdd1du >> 16) % below;
}

static inline void unit_sleep_ms(long ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

/* Waits half a minute at most for what another thread does. */
static inline bool unit_until(bool (*is_so)(void *arg), void *arg)
{
	int i;

	for (i = 0; i < 30000; i++) {
		if (is_so(arg))
			return true;
		unit_sleep_ms(1);
	}
	return is_so(arg);
}

static inline int unit_memfd(uint64_t size)
{
	int fd = memfd_create("unit", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* A file that has no name, on a disk if /var/tmp is on one. */
static inline int unit_disk_file(uint64_t size)
{
	int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* A file with a name; the caller unlinks it. */
static inline int unit_named_file(char path[32], uint64_t size)
{
	int fd;

	strcpy(path, "/var/tmp/pl-unit-XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* The exit status of a child; 128 + n: killed by signal n. */
static inline int unit_wait_child(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif
