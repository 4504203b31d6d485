/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * demo-opener truncate PATH LEN | write PATH COPY | read PATH COPY: somebody who changes
 * or opens the file by its path and has never heard of RDMA. It tells how long the one
 * call that can block took. COPY gets what it finds in the file, for the checker; while
 * the writer keeps the file open, it also looks whether anything changes under it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tell.h"

#define HOLD_US 200000	/* how long the writer keeps the file open */

static void returned(uint64_t called_ns)
{
	uint64_t ns = now_ns();

	tell_at(ns, "returned %llu", (unsigned long long)(ns - called_ns));
}

struct image {
	char *data;
	size_t len;
};

static struct image look(int fd)
{
	struct image im = { 0 };
	struct stat st;

	if (fstat(fd, &st))
		give_up("fstat", errno);
	im.len = (size_t)st.st_size;
	im.data = malloc(im.len + 1);
	if (!im.data || pread(fd, im.data, im.len, 0) != st.st_size)
		give_up("reading", errno);
	return im;
}

static void keep(const struct image *im, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, im->data, im->len) != (ssize_t)im->len || close(fd))
		give_up(path, errno);
}

static void look_for_changes(int fd, const struct image *before)
{
	struct image after;
	size_t i, changed = 0;

	usleep(HOLD_US);
	after = look(fd);
	for (i = 0; i < before->len && i < after.len; i++)
		changed += before->data[i] != after.data[i];
	tell("changed %zu", changed);
	free(after.data);
}

static int open_file(const char *path, int flags)
{
	uint64_t called_ns = now_ns();
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		give_up(path, errno);
	returned(called_ns);
	return fd;
}

static void truncate_file(const char *path, off_t len)
{
	uint64_t called_ns = now_ns();

	if (truncate(path, len))
		give_up(path, errno);
	returned(called_ns);
}

static void look_into_file(const char *path, int flags, const char *copy)
{
	int fd = open_file(path, flags);
	struct image im = look(fd);

	if (flags == O_RDWR)
		look_for_changes(fd, &im);
	keep(&im, copy);
	free(im.data);
	if (close(fd))
		give_up("close", errno);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "truncate"))
		truncate_file(argv[2], (off_t)strtoull(argv[3], NULL, 10));
	else if (argc == 4 && !strcmp(argv[1], "write"))
		look_into_file(argv[2], O_RDWR, argv[3]);
	else if (argc == 4 && !strcmp(argv[1], "read"))
		look_into_file(argv[2], O_RDONLY, argv[3]);
	else
		give_up("usage: demo-opener truncate|write|read PATH LEN|COPY", EINVAL);
	return 0;
}
