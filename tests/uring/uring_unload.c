/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A program that loads the two libraries, takes a lease of a buffer of its ring, and unloads
 * them with the lease held. Nobody could answer a break with code that is gone: so it stays
 * (-z nodelete), and the lease is held, answered and released as before.
 *
 * usage: uring_unload LIBRARY (of libpinlease-uring, which brings the other)
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pinlease/uring.h>

#include "kt.h"
#include "must.h"

#define SIZE 65536u
#define HALF (SIZE / 2)
#define SOON KT_LONG	/* lease-break-time is 45 s */

/* As a program declares what it looks up. */
static struct calls {
	__typeof__(&pinlease_ctx_new) ctx_new;
	__typeof__(&pinlease_ctx_free) ctx_free;
	__typeof__(&pinlease_ctx_fd) ctx_fd;
	__typeof__(&pinlease_ctx_next_event) ctx_next_event;
	__typeof__(&pinlease_file_open) file_open;
	__typeof__(&pinlease_file_close) file_close;
	__typeof__(&pinlease_acquire) acquire;
	__typeof__(&pinlease_release) release;
	__typeof__(&pinlease_uring_new) uring_new;
	__typeof__(&pinlease_uring_free) uring_free;
	__typeof__(&pinlease_uring_backend) uring_backend;
	__typeof__(&pinlease_uring_read) uring_read;
	__typeof__(&pinlease_uring_next) uring_next;
} c;

static struct pinlease_ctx *ctx;
static struct pinlease_uring *ring;
static struct pinlease_file *file;
static struct pinlease *lease;
static int zero;

static void look_up(void *library, const char *name, void *where, size_t size)
{
	void *symbol = dlsym(library, name);

	must(symbol && size == sizeof(symbol));
	memcpy(where, &symbol, size);
}

#define LOOK_UP(library, name) look_up(library, "pinlease_" #name, &c.name, sizeof(c.name))

static void *load(const char *path)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!library)
		fprintf(stderr, "%s\n", dlerror());
	must(library);
	LOOK_UP(library, ctx_new);
	LOOK_UP(library, ctx_free);
	LOOK_UP(library, ctx_fd);
	LOOK_UP(library, ctx_next_event);
	LOOK_UP(library, file_open);
	LOOK_UP(library, file_close);
	LOOK_UP(library, acquire);
	LOOK_UP(library, release);
	LOOK_UP(library, uring_new);
	LOOK_UP(library, uring_free);
	LOOK_UP(library, uring_backend);
	LOOK_UP(library, uring_read);
	LOOK_UP(library, uring_next);
	return library;
}

static void hold(const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .mode = PINLEASE_MODE_PINNED };
	int r = c.uring_new(8, 2, &ring);

	if (r)
		kt_skip("no io_uring here: %s", strerror(-r));
	must(!c.ctx_new(NULL, &ctx));
	must(!c.file_open(ctx, path, NULL, NULL, &file));
	opts.backend = c.uring_backend();
	opts.backend_arg = ring;
	must(!c.acquire(file, 0, SIZE, &opts, NULL, &lease));
}

/* A device writes zeros into the lease. */
static void write_zeros(uint64_t off)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };

	must(!c.uring_read(ring, lease, off, 4096, zero, 0, off));
	must(c.uring_next(ring, &done, (int)SOON) == 1 && done.res == 4096 && done.user_data == off);
}

static void expect(uint32_t type)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct pollfd pfd = { .fd = c.ctx_fd(ctx), .events = POLLIN };

	must(poll(&pfd, 1, (int)SOON) == 1);
	must(c.ctx_next_event(ctx, &ev) == 1);
	must(ev.type == type && ev.lease == lease);
}

static bool zeros_at(const char *path, off_t off)
{
	static const char zeros[4096];
	char data[4096] = { 1 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool same = pread(fd, data, sizeof(data), off) == sizeof(data) && !memcmp(data, zeros, sizeof(data));

	close(fd);
	return same;
}

/* Every call is made by what was looked up before. */
static void as_before(const char *path)
{
	write_zeros(4096);
	must(!kt_truncate_now(path, HALF, SOON));
	expect(PINLEASE_EV_BREAK);
	expect(PINLEASE_EV_REVOKED);
	expect(PINLEASE_EV_RESTORED);
	write_zeros(8192);
	must(!c.release(lease) && !c.file_close(file) && !c.uring_free(ring) && !c.ctx_free(ctx));
	must(zeros_at(path, 0) && zeros_at(path, 4096) && zeros_at(path, 8192) && !zeros_at(path, 12288));
}

int main(int argc, char **argv)
{
	char path[KT_PATH_MAX];
	struct kt_fs fs;
	void *library;

	must(argc == 2);
	kt_init();
	if (kt_fs_make(&fs, "tmpfs", 16))
		kt_skip("cannot mount tmpfs");
	must(!kt_file(path, fs.dir, "f", SIZE));
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	library = load(argv[1]);
	hold(path);
	write_zeros(0);
	must(!dlclose(library));
	as_before(path);
	return 0;
}
