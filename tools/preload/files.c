/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The context, made with the first memory region over a file, and the leased files: one for
 * each open file description, attached while memory regions are over it, and no longer, so
 * that nobody is held up for nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <syslog.h>
#include <unistd.h>

#include "preload.h"

static struct {
	pthread_mutex_t lock;
	struct pinlease_ctx *ctx;
	struct pre_file *list;
	_Atomic unsigned int count;
} files = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void files_log(void *arg, int level, const char *msg)
{
	(void)arg;
	if (level <= LOG_WARNING)
		pre_say("%s", msg);
}

static int files_ctx(void)
{
	struct pinlease_ctx_opts opts = { .size = sizeof(opts), .log = files_log };

	opts.signo = pre_config.signo;
	return files.ctx ? 0 : pinlease_ctx_new(&opts, &files.ctx);
}

/*
 * A memfd has no file leases (F_SETLEASE takes it for opened by others), and AUTO would seal it;
 * but seals stay, and the program may want to resize it, or map it again. If its owner has
 * sealed it, AUTO finds that nothing can change. A file that is no memfd answers F_SEAL_SEAL.
 */
static bool files_would_seal(const struct pre_fd *fd)
{
	const int no_writer = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE, fixed = F_SEAL_SHRINK | F_SEAL_GROW;
	int seals = fcntl(fd->fd, F_GET_SEALS);

	return seals >= 0 && !(seals & F_SEAL_SEAL) && ((seals & fixed) != fixed || !(seals & no_writer));
}

/* Of a description that is open for writing the kernel gives no lease for reading. */
static int files_attach(struct pre_fd *fd, struct pinlease_why *why, struct pre_file **out)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts) };
	struct pre_file *file;
	int r = files_ctx();

	if (r)
		return r;
	if (!pre_fd_ours(fd)) {
		why->reason = PINLEASE_WHY_FD_REPLACED;
		return -EBADF;
	}
	if (files_would_seal(fd)) {
		why->reason = PINLEASE_WHY_NO_LEASES;
		return -EOPNOTSUPP;
	}
	file = malloc(sizeof(*file));
	if (!file)
		return -ENOMEM;
	opts.access = fd->writable ? PINLEASE_WRITE : PINLEASE_READ;
	*file = (struct pre_file){ .fd = fd, .refs = 1 };
	r = pinlease_file_attach(files.ctx, fd->fd, &opts, why, &file->file);
	if (r) {
		free(file);
		return r;
	}
	pre_fd_get(fd);
	file->next = files.list;
	files.list = file;
	files.count++;
	fd->file = file;
	*out = file;
	return 0;
}

int pre_file_get(struct pre_fd *fd, struct pinlease_why *why, struct pre_file **file)
{
	int r = 0;

	pthread_mutex_lock(&files.lock);
	if (fd->file) {
		fd->file->refs++;
		*file = fd->file;
	} else {
		r = files_attach(fd, why, file);
	}
	pthread_mutex_unlock(&files.lock);
	return r;
}

void pre_file_put(struct pre_file *file)
{
	struct pre_file **at;

	pthread_mutex_lock(&files.lock);
	if (--file->refs) {
		pthread_mutex_unlock(&files.lock);
		return;
	}
	for (at = &files.list; *at != file;)
		at = &(*at)->next;
	*at = file->next;
	files.count--;
	file->fd->file = NULL;
	pre_inside++;
	/* -EBUSY: a lease that could not be released; it, and what keeps others out, stays. */
	if (pinlease_file_close(file->file))
		pre_say("a file cannot be closed: it stays leased");
	pre_inside--;
	pthread_mutex_unlock(&files.lock);
	pre_fd_put(file->fd);
	free(file);
}

bool pre_files_any(void)
{
	return files.count;
}

struct pre_file *pre_file_find(uint64_t dev, uint64_t ino)
{
	struct pre_file *file;

	pthread_mutex_lock(&files.lock);
	for (file = files.list; file; file = file->next)
		if (file->fd->dev == dev && file->fd->ino == ino && file->fd->writable)
			break;
	if (file)
		file->refs++;
	pthread_mutex_unlock(&files.lock);
	return file;
}

/*
 * The context and all below it are the parent's; their memory stays with the child. Our
 * duplicates of what is leased go: they would keep the lease of a killed parent.
 */
void pre_files_child(void)
{
	struct pre_file *file;

	for (file = files.list; file; file = file->next) {
		file->fd->file = NULL;
		if (pre_fd_ours(file->fd))
			close(file->fd->fd);
		file->fd->fd = -1;
	}
	files.list = NULL;
	files.ctx = NULL;
	files.count = 0;
	files.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}
