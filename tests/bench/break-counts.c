/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * break-counts FILES: so many breaks at once, and what the library's threads did meanwhile: bytes
 * and files they asked for, locks they took, and locks that another thread had. The library's
 * calls come here, since a program's own functions go before those of the C library.
 * Prints one line: "NAME NUMBER ...". The slow pass, which reads fs.lease-break-time twice a
 * second and answers nobody, is not counted.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <pinlease.h>

#include "bench.h"
#include "kt.h"

#define WAIT_NS	   60000000000ull
#define FILE_BYTES 4096
#define FILES_MAX  10000u
#define NAME_BYTES 16
#define SEEN	   __attribute__((visibility("default"))) /* by the library */

enum { UNKNOWN, OURS, NOT_OURS };

static _Atomic unsigned long allocations, opens, locks, waits;
static _Atomic bool counting;
static __thread int whose;

/* Threads are known by their names: pinlease-break, and those of the workers. */
static bool counted(void)
{
	char name[NAME_BYTES] = "";

	if (!atomic_load_explicit(&counting, memory_order_relaxed))
		return false;
	if (whose == UNKNOWN) {
		prctl(PR_GET_NAME, name);
		whose = !strncmp(name, "pinlease-", 9) && strcmp(name, "pinlease-slow") ? OURS : NOT_OURS;
	}
	return whose == OURS;
}

static void count(_Atomic unsigned long *what)
{
	if (counted())
		atomic_fetch_add(what, 1);
}

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

SEEN void *malloc(size_t size)
{
	count(&allocations);
	return __libc_malloc(size);
}

SEEN void *calloc(size_t n, size_t size)
{
	count(&allocations);
	return __libc_calloc(n, size);
}

SEEN void *realloc(void *p, size_t size)
{
	count(&allocations);
	return __libc_realloc(p, size);
}

SEEN int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list ap;

	va_start(ap, flags);
	if (flags & O_CREAT)
		mode = va_arg(ap, mode_t);
	va_end(ap);
	count(&opens);
	return openat(AT_FDCWD, path, flags, mode);
}

SEEN int pthread_mutex_lock(pthread_mutex_t *mutex)
{
	static int (*_Atomic next)(pthread_mutex_t *mutex);
	int (*real)(pthread_mutex_t *mutex) = atomic_load_explicit(&next, memory_order_relaxed);

	count(&locks);
	if (counted()) {
		if (!pthread_mutex_trylock(mutex))
			return 0;
		atomic_fetch_add(&waits, 1);
	}
	if (!real) {
		*(void **)&real = dlsym(RTLD_NEXT, "pthread_mutex_lock");
		atomic_store(&next, real);
	}
	return real(mutex);
}

/* The storm */

struct orders {
	_Atomic bool go, done;
	char dir[KT_PATH_MAX];
	unsigned int files;
	unsigned int refused;	/* opens that a lease stood against */
};

static void path_of(char path[KT_PATH_MAX], const char *dir, unsigned int i)
{
	snprintf(path, KT_PATH_MAX, "%.70s/f%u", dir, i);
}

static int storm_main(const void *arg)
{
	char path[KT_PATH_MAX];
	struct orders *o;
	unsigned int i;
	int fd;

	memcpy(&o, arg, sizeof(o));
	while (!atomic_load(&o->go))
		usleep(50);
	for (i = 0; i < o->files; i++) {
		path_of(path, o->dir, i);
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			o->refused += errno == EWOULDBLOCK;
		else
			close(fd);
	}
	atomic_store(&o->done, true);
	return 0;
}

static int hold(struct pinlease_ctx *ctx, const char *path)
{
	struct pinlease_file_opts file_opts = { .size = sizeof(file_opts), .flags = PINLEASE_F_NO_ANCHOR };
	struct pinlease_opts opts = { .size = sizeof(opts), .flags = PINLEASE_L_MANUAL };
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), r;
	struct pinlease_file *file;
	struct pinlease *lease;

	if (fd < 0 || ftruncate(fd, FILE_BYTES))
		return -errno;
	close(fd);
	r = pinlease_file_open(ctx, path, &file_opts, NULL, &file);
	return r ? r : pinlease_acquire(file, 0, FILE_BYTES, &opts, NULL, &lease);
}

static int hold_all(struct pinlease_ctx *ctx, const struct orders *o)
{
	char path[KT_PATH_MAX];
	unsigned int i;
	int r = bench_nofile(o->files + 100);

	for (i = 0; i < o->files && !r; i++) {
		path_of(path, o->dir, i);
		r = hold(ctx, path);
	}
	return r;
}

static int storm(struct pinlease_ctx *ctx, struct orders *o)
{
	struct pinlease_ctx_stats stats = { .size = sizeof(stats) };
	uint64_t until = bench_now() + WAIT_NS;
	int r = 0;

	atomic_store(&counting, true);
	atomic_store(&o->go, true);
	while (!r && (!atomic_load(&o->done) || stats.answered < o->files)) {
		usleep(200);
		pinlease_ctx_stats(ctx, &stats);
		r = bench_now() > until ? -ETIMEDOUT : 0;
	}
	atomic_store(&counting, false);
	/* Each open must have met a lease, or less was broken than is said. */
	return r ? r : o->refused == o->files ? 0 : -EPROTO;
}

int main(int argc, char **argv)
{
	struct orders *o;
	struct pinlease_ctx *ctx;
	struct kt_call *call;
	struct kt_fs fs;
	int r;

	kt_init();
	o = kt_shared(sizeof(*o));
	o->files = argc > 1 ? (unsigned int)strtoul(argv[1], NULL, 10) : 0;
	if (!o->files || o->files > FILES_MAX) {
		fprintf(stderr, "usage: break-counts FILES\n");
		return 2;
	}
	r = kt_fs_make(&fs, "tmpfs", 256);
	snprintf(o->dir, sizeof(o->dir), "%s", fs.dir);
	call = kt_call_start(storm_main, &o, sizeof(o));
	if (!r)
		r = pinlease_ctx_new(NULL, &ctx);
	if (!r)
		r = hold_all(ctx, o);
	if (!r)
		r = storm(ctx, o);
	atomic_store(&o->go, true);
	kt_call_end(call);
	if (r) {
		fprintf(stderr, "break-counts: %s\n", strerror(-r));
		return 1;
	}
	printf("breaks %u allocations %lu opens %lu locks %lu waits %lu\n", o->files,
	       atomic_load(&allocations), atomic_load(&opens), atomic_load(&locks), atomic_load(&waits));
	return 0;
}
