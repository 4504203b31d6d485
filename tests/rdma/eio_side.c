/* SPDX-License-Identifier: BSD-3-Clause */
#include "eio_side.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct eio eio;

void eio_disk_make(enum rec_kind kind)
{
	unsigned int mib = kt_fs_least_mib(eio.type);
	int r;

	rt_assert(mib, "no such file system: %s", eio.type);
	r = bad_disk_make(&eio.disk, kind, mib < 32 ? 32 : mib);
	if (r == -ENOENT || r == -ENODEV)
		kt_skip("no disk that can be made to fail here: %s", strerror(-r));
	rt_assert(!r, "no disk: %s", strerror(-r));
	rt_assert(!kt_mkfs(eio.type, eio.disk.rec.device), "mkfs.%s", eio.type);
}

void eio_disk_end(void)
{
	kt_fs_drop(&eio.fs);
	kt_fs_forget(eio.type, eio.disk.rec.device);
	bad_disk_end(&eio.disk);
}

void side_path(const struct side *s, const char *dir, char path[KT_PATH_MAX + 8])
{
	snprintf(path, KT_PATH_MAX + 8, "%s/%s", dir, s->path);
}

void side_open(struct side *s, struct pinlease_file *file)
{
	struct pinlease_opts lo = { .size = sizeof(lo),
				    .mode = s->odp ? PINLEASE_MODE_ODP : PINLEASE_MODE_STAGED,
				    .flags = PINLEASE_L_MANUAL | (s->told ? PINLEASE_L_DIRTY_TOLD : 0) };
	char path[KT_PATH_MAX + 8];
	struct pinlease_why why = { 0 };
	int r = 0;

	side_path(s, eio.fs.dir, path);
	s->file = file;
	s->books = calloc(1, sizeof(*s->books));
	rt_assert(s->books, "out of memory");
	if (!file)
		r = pinlease_file_open(eio.ctx, path, NULL, &why, &s->file);
	rt_assert(!r, "open %s: %s, %s", path, strerror(-r), pinlease_reason_str(why.reason));
	eio.device->opts(&lo);
	r = pinlease_acquire(s->file, s->off, SIDE_LEN, &lo, &why, &s->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
}

void side_write(struct side *s)
{
	static _Alignas(RT_SLOT) uint64_t words[RT_SLOT / sizeof(uint64_t)];
	uint32_t slot, seq;
	size_t i;
	int r;

	for (slot = 0; slot < SIDE_SLOTS; slot++) {
		seq = atomic_load(&s->books->slot[slot].posted) + 1;
		for (i = 0; i < RT_SLOT / sizeof(*words); i++)
			words[i] = rt_word(slot, seq);
		atomic_store(&s->books->slot[slot].posted, seq);
		r = eio.device->write(s->lease, s->told, slot * (uint64_t)RT_SLOT, words);
		rt_assert(!r, "%s: write: %s", s->name, strerror(-r));
		atomic_store(&s->books->slot[slot].acked, seq);
	}
}

int side_sync(struct side *s)
{
	return pinlease_sync(s->lease, 0, 0, 0);
}

uint64_t side_dirty(struct side *s)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	rt_assert(!pinlease_lease_info(s->lease, &info), "lease_info");
	return info.dirty_bytes;
}

void disk_set(bool bad)
{
	int r = bad_disk_set(&eio.disk, bad);

	rt_assert(!r, "the disk cannot be made %s: %s", bad ? "bad" : "good", strerror(-r));
}

/* How many of the last writes a file does not hold at off. */
static unsigned int missing_in(struct side *s, int fd)
{
	static unsigned char image[SIDE_LEN];
	unsigned int held, missing;
	ssize_t n = pread(fd, image, SIDE_LEN, (off_t)s->off);

	missing = rt_missing(s->books, image, n < 0 ? 0 : (size_t)n, RT_ALL, 0, &held);
	rt_assert(missing || held == SIDE_SLOTS, "%u slots are judged", held);
	return missing;
}

/* As another machine would find it that gets this disk now. */
static unsigned int missing_on_disk(struct side *s)
{
	char on[KT_DEVICE_MAX], path[KT_PATH_MAX + 8];
	int image = bad_disk_copy(&eio.disk), loop, fd, r;
	unsigned int missing;
	struct kt_fs copy;

	rt_assert(image >= 0, "no copy of the disk: %s", strerror(-image));
	loop = kt_loop(image, on);
	rt_assert(loop >= 0, "no loop device: %s", strerror(-loop));
	r = kt_fs_mount_copy(&copy, eio.type, on);
	rt_assert(!r, "the copy cannot be mounted: %s", strerror(-r));
	side_path(s, copy.dir, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	rt_assert(fd >= 0, "%s: %s", path, strerror(errno));
	missing = missing_in(s, fd);
	close(fd);
	kt_fs_drop(&copy);
	kt_fs_forget(eio.type, on);
	close(loop);
	close(image);
	return missing;
}

bool copies_can_be_looked_at(void)
{
	return strcmp(eio.type, "btrfs") || kt_kernel_from(6, 7);
}

void expect_on_disk(struct side *s, const char *after)
{
	rt_assert(!copies_can_be_looked_at() || !missing_on_disk(s), "%s: data is missing after %s", s->name,
		  after);
}

void expect_not_on_disk(struct side *s)
{
	s->books->quiet = true;
	rt_assert(!copies_can_be_looked_at() || missing_on_disk(s), "%s: the disk did not fail", s->name);
	s->books->quiet = false;
}

void expect_saved(struct side *s)
{
	int fd = memfd_create("saved", MFD_CLOEXEC), r;

	rt_assert(fd >= 0, "memfd: %s", strerror(errno));
	r = pinlease_save(s->lease, fd);
	rt_assert(!r, "%s: save: %s", s->name, strerror(-r));
	rt_assert(!missing_in(s, fd), "%s: what was saved is not what was written", s->name);
	close(fd);
}

uint32_t side_break_ended(struct side *s, struct pinlease_event *lost)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(eio.ctx), .events = POLLIN };
	uint64_t until = kt_now() + SIDE_WAIT_MS * 1000000ull;

	while (kt_now() < until) {
		*lost = (struct pinlease_event){ .size = sizeof(*lost) };
		while (pinlease_ctx_next_event(eio.ctx, lost) == 1)
			if (lost->lease == s->lease && lost->type != PINLEASE_EV_BREAK)
				return lost->type;
		poll(&pfd, 1, 10);
	}
	rt_die(__FILE__, __LINE__, "%s: the break does not end", s->name);
}

void side_restore(struct side *s)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	uint64_t until = kt_now() + SIDE_WAIT_MS * 1000000ull;
	struct pinlease_why why = { 0 };
	bool told = false;
	int r;

	/* A write that failed before may be told to a restore, too: btrfs waits for it there. Once only. */
	while (((r = pinlease_restore(s->lease, &why)) == -EAGAIN || (r == -EIO && !told)) &&
	       kt_now() < until) {
		told |= r == -EIO;
		kt_sleep_ms(5);
	}
	rt_assert(!r, "%s: restore: %s, %s", s->name, strerror(-r), pinlease_reason_str(why.reason));
	while (pinlease_ctx_next_event(eio.ctx, &ev) == 1)
		;
}

void expect_lost(struct side *s, const struct pinlease_event *ev, int err)
{
	uint32_t gen;
	int r;

	rt_assert(ev->err == err && ev->lost_bytes == SIDE_LEN, "%s: LOST: %s, %llu bytes", s->name,
		  strerror(-ev->err), (unsigned long long)ev->lost_bytes);
	r = pinlease_dma_begin(s->lease, 1, &gen);
	rt_assert(r == -ESTALE, "dma_begin in LOST: %d", r);
	expect_saved(s);
}
