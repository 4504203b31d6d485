/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A program that loads the library, uses it and unloads it. The library's handlers for fork
 * and for the end of a thread stay registered, so its code has to stay: -z nodelete.
 *
 * usage: unit_unload LIBRARY
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pinlease.h>

#include "must.h"

#define SIZE 65536

/* As a program declares what it looks up. */
struct calls {
	__typeof__(&pinlease_ctx_new) ctx_new;
	__typeof__(&pinlease_ctx_free) ctx_free;
	__typeof__(&pinlease_file_attach) file_attach;
	__typeof__(&pinlease_file_close) file_close;
	__typeof__(&pinlease_acquire) acquire;
	__typeof__(&pinlease_release) release;
	__typeof__(&pinlease_dma_begin) dma_begin;
	__typeof__(&pinlease_dma_end) dma_end;
};

static void look_up(void *library, const char *name, void *where, size_t size)
{
	void *symbol = dlsym(library, name);

	must(symbol && size == sizeof(symbol));
	memcpy(where, &symbol, size);
}

#define LOOK_UP(library, calls, name) \
	look_up(library, "pinlease_" #name, &(calls)->name, sizeof((calls)->name))

struct job {
	struct calls c;
	struct pinlease *lease;
	pthread_barrier_t used, unloaded;
};

/* Has counters of its own, and ends after the library is gone. */
static void *worker(void *arg)
{
	struct job *job = arg;
	uint32_t gen;

	must(!job->c.dma_begin(job->lease, 1, &gen));
	job->c.dma_end(job->lease, 1, gen);
	pthread_barrier_wait(&job->used);
	pthread_barrier_wait(&job->unloaded);
	return NULL;
}

static int temporary_file(void)
{
	char path[] = "/var/tmp/pinlease-unload-XXXXXX";
	int fd = mkstemp(path);

	must(fd >= 0 && !ftruncate(fd, SIZE));
	unlink(path);
	return fd;
}

static void *load(const char *path, struct calls *c)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!library)
		fprintf(stderr, "%s\n", dlerror());
	must(library);
	LOOK_UP(library, c, ctx_new);
	LOOK_UP(library, c, ctx_free);
	LOOK_UP(library, c, file_attach);
	LOOK_UP(library, c, file_close);
	LOOK_UP(library, c, acquire);
	LOOK_UP(library, c, release);
	LOOK_UP(library, c, dma_begin);
	LOOK_UP(library, c, dma_end);
	return library;
}

static void forks_still_work(void)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	must(pid > 0 && waitpid(pid, &status, 0) == pid && !status);
}

int main(int argc, char **argv)
{
	struct job job = { .lease = NULL };
	struct pinlease_file_opts opts = { .size = sizeof(opts), .guard = PINLEASE_GUARD_NONE };
	struct pinlease_file *file;
	struct pinlease_ctx *ctx;
	pthread_t thread;
	void *library;
	int fd;

	must(argc == 2);
	library = load(argv[1], &job.c);
	fd = temporary_file();
	must(!job.c.ctx_new(NULL, &ctx));
	must(!job.c.file_attach(ctx, fd, &opts, NULL, &file));
	must(!job.c.acquire(file, 0, SIZE, NULL, NULL, &job.lease));
	must(!pthread_barrier_init(&job.used, NULL, 2) && !pthread_barrier_init(&job.unloaded, NULL, 2));
	must(!pthread_create(&thread, NULL, worker, &job));
	pthread_barrier_wait(&job.used);
	must(!job.c.release(job.lease));
	must(!job.c.file_close(file));
	must(!job.c.ctx_free(ctx));
	must(!dlclose(library));
	pthread_barrier_wait(&job.unloaded);
	pthread_join(thread, NULL);
	forks_still_work();
	close(fd);
	/* The code is there still, which is why all this went well. */
	must(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD));
	return 0;
}
