/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The program's own changes of a leased file. They go through the leased description, of
 * which the kernel tells its holder nothing; the library breaks what they touch first.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

#define PATIENCE_MS 10

/* A leased file, with a reference, if st says so and it is none of the library's own calls. */
static struct pre_file *leased(int r, const struct stat *st)
{
	return r ? NULL : pre_file_find(st->st_dev, st->st_ino);
}

static struct pre_file *leased_fd(int fd)
{
	int saved = errno;
	struct pre_file *file = NULL;
	struct stat st;

	if (pre_on && !pre_inside && pre_files_any() && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
		file = leased(fstat(fd, &st), &st);
	errno = saved;
	return file;
}

static struct pre_file *leased_path(const char *path)
{
	int saved = errno;
	struct pre_file *file = NULL;
	struct stat st;

	if (pre_on && !pre_inside && pre_files_any() && !access(path, W_OK))
		file = leased(stat(path, &st), &st);
	errno = saved;
	return file;
}

enum change { TRUNCATE, ALLOCATE };

/*
 * -EAGAIN: somebody else's break is being answered, which ends, at the latest, with the
 * deadline. To the program the call just takes its time.
 */
static int change(struct pre_file *file, enum change what, int mode, off_t off, off_t len)
{
	const struct timespec patience = { .tv_nsec = PATIENCE_MS * 1000000L };
	int r;

	pre_inside++;
	pre_mr_yield(file);
	do {
		if (what == TRUNCATE)
			r = pinlease_file_truncate(file->file, (uint64_t)len);
		else
			r = pinlease_file_allocate(file->file, mode, (uint64_t)off, (uint64_t)len);
		if (r == -EAGAIN)
			nanosleep(&patience, NULL);
	} while (r == -EAGAIN);
	pre_inside--;
	pre_file_put(file);
	return r;
}

static int answer(int r)
{
	if (!r)
		return 0;
	errno = -r;
	return -1;
}

PRE_EXPORT int ftruncate(int fd, off_t len)
{
	struct pre_file *file = leased_fd(fd);

	if (file)
		return answer(change(file, TRUNCATE, 0, 0, len));
	return pre_next.ftruncate ? pre_next.ftruncate(fd, len) : (int)syscall(SYS_ftruncate, fd, len);
}

PRE_EXPORT int ftruncate64(int fd, off_t len) __attribute__((alias("ftruncate")));

PRE_EXPORT int truncate(const char *path, off_t len)
{
	struct pre_file *file = leased_path(path);

	if (file)
		return answer(change(file, TRUNCATE, 0, 0, len));
	return pre_next.truncate ? pre_next.truncate(path, len) : (int)syscall(SYS_truncate, path, len);
}

PRE_EXPORT int truncate64(const char *path, off_t len) __attribute__((alias("truncate")));

PRE_EXPORT int fallocate(int fd, int mode, off_t off, off_t len)
{
	struct pre_file *file = leased_fd(fd);

	if (file)
		return answer(change(file, ALLOCATE, mode, off, len));
	return pre_next.fallocate ? pre_next.fallocate(fd, mode, off, len) :
				    (int)syscall(SYS_fallocate, fd, mode, off, len);
}

PRE_EXPORT int fallocate64(int fd, int mode, off_t off, off_t len) __attribute__((alias("fallocate")));

/* It answers the error. Where the file system cannot allocate it writes zeros: plain writes move nothing. */
PRE_EXPORT int posix_fallocate(int fd, off_t off, off_t len)
{
	struct pre_file *file = leased_fd(fd);
	int r = -EOPNOTSUPP;

	if (file)
		r = change(file, ALLOCATE, 0, off, len);
	if (r != -EOPNOTSUPP)
		return -r;
	if (pre_next.posix_fallocate)
		return pre_next.posix_fallocate(fd, off, len);
	return syscall(SYS_fallocate, fd, 0, off, len) ? errno : 0;
}

PRE_EXPORT int posix_fallocate64(int fd, off_t off, off_t len) __attribute__((alias("posix_fallocate")));
