/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pmem-log make FILE: makes an empty log of what is there.
 * pmem-log append FILE < LINES: appends each line as a record, and says so when it is durable.
 * pmem-log read FILE: prints what the log holds.
 *
 * append is the log without a network: the lease has no protection domain, and the
 * processor writes to its memory between pinlease_dma_begin and pinlease_dma_end as a device
 * would. The file may be anything: with pinlease_sync behind each record it is as durable
 * as its file system, on persistent memory without a system call.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pinlease.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

static struct pinlease_ctx *ctx;
static struct pinlease_file *file;
static struct pinlease *lease;

static int fail(const char *what, int r)
{
	fprintf(stderr, "pmem-log: %s: %s\n", what, strerror(-r));
	return r;
}

/* While somebody else has the file open there is nothing to write to. */
static int wait_active(void)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(ctx), .events = POLLIN };
	struct pinlease_event ev = { .size = sizeof(ev) };

	poll(&pfd, 1, -1);
	while (pinlease_ctx_next_event(ctx, &ev) == 1)
		if (ev.type == PINLEASE_EV_LOST || ev.type == PINLEASE_EV_RESTORE_FAILED)
			return fail("the lease does not come back", ev.err);
	return 0;
}

/* 0; -EAGAIN: broken meanwhile, the record may have been written or not. */
static int put(uint64_t at, const char *text, uint32_t len)
{
	struct pinlease_view view = { .size = sizeof(view) };
	uint32_t gen;
	int r = pinlease_dma_begin(lease, 1, &gen);

	if (r)
		return r;
	r = pinlease_view_get(lease, 0, &view);
	if (!r && log_size(len) > view.len - at)
		r = -ENOSPC;
	if (!r)
		log_make((void *)((char *)view.addr + at), at, text, len);
	pinlease_dma_end(lease, 1, gen);
	return r ? r : pinlease_sync(lease, at, log_size(len), 0);
}

/* All of it: a whole record that is left somewhere would be in the new log, once that has grown so far. */
static int make(void)
{
	struct pinlease_view view = { .size = sizeof(view) };
	uint32_t gen;
	int r = pinlease_dma_begin(lease, 1, &gen);

	if (r)
		return fail("make", r);
	r = pinlease_view_get(lease, 0, &view);
	if (!r)
		memset(view.addr, 0, view.len);
	pinlease_dma_end(lease, 1, gen);
	if (!r)
		r = pinlease_sync(lease, 0, 0, 0);
	return r ? fail("make", r) : 0;
}

static int append(void)
{
	struct pinlease_view view = { .size = sizeof(view) };
	char line[LOG_TEXT_MAX];
	uint64_t end;
	int r = pinlease_view_get(lease, 0, &view);

	if (r)
		return fail("view", r);
	end = log_end(view.addr, view.len);
	while (fgets(line, sizeof(line), stdin)) {
		uint32_t len = (uint32_t)strcspn(line, "\n");

		while ((r = put(end, line, len)) == -EAGAIN)
			if (wait_active())
				return -EIO;
		if (r)
			return fail("append", r);
		end += log_size(len);
		printf("durable: %" PRIu64 " bytes\n", end);
	}
	return 0;
}

static int lease_file(const char *path)
{
	struct pinlease_opts opts = { .size = sizeof(opts) };
	struct pinlease_why why = { 0 };
	uint64_t size;
	int r = log_space(path, &size);

	if (r)
		return fail(path, r);
	r = pinlease_ctx_new(NULL, &ctx);
	if (r)
		return fail("pinlease_ctx_new", r);
	r = pinlease_file_open(ctx, path, NULL, &why, &file);
	if (!r)
		r = pinlease_acquire(file, 0, size, &opts, &why, &lease);
	return r ? fail(pinlease_reason_str(why.reason), r) : 0;
}

/* An ordinary reader: its open breaks the lease of who appends, who goes on afterwards. */
static int print_log(const char *path)
{
	const struct log_record *record;
	uint64_t size, at, end;
	int r = log_space(path, &size), fd = open(path, O_RDONLY | O_CLOEXEC);
	char *log;

	if (r || fd < 0)
		return fail(path, r ? r : -errno);
	log = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (log == MAP_FAILED)
		return fail(path, -errno);
	end = log_end(log, size);
	for (at = 0; at < end; at += log_size(record->len)) {
		record = (const void *)(log + at);
		printf("%.*s\n", (int)record->len, record->text);
	}
	munmap(log, size);
	return 0;
}

int main(int argc, char **argv)
{
	int r;

	if (argc == 3 && !strcmp(argv[1], "read"))
		return print_log(argv[2]) != 0;
	if (argc != 3 || (strcmp(argv[1], "append") && strcmp(argv[1], "make"))) {
		fprintf(stderr, "usage: pmem-log make|read FILE | pmem-log append FILE < LINES\n");
		return 2;
	}
	setlinebuf(stdout);
	r = lease_file(argv[2]);
	if (!r)
		r = argv[1][0] == 'm' ? make() : append();
	pinlease_release(lease);
	pinlease_file_close(file);
	pinlease_ctx_free(ctx);
	return r != 0;
}
