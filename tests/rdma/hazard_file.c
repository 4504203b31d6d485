/* SPDX-License-Identifier: BSD-3-Clause */
/* A file that the device reaches, bare or with the library: what is done to it, and what is in it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hazard.h"

#define PATIENCE_NS 20000000000u
#define NAP_US	    500
#define WORDS	    (HAZARD_PAGE / sizeof(uint64_t))

uint32_t hazard_tag(void)
{
	static uint32_t last;

	return ++last;
}

void hazard_fill(uint64_t *words, size_t page, size_t n, uint32_t tag)
{
	size_t i;

	for (i = 0; i < n * WORDS; i++)
		words[i] = (uint64_t)tag << 32 | (page + i / WORDS);
}

bool hazard_page_is(const uint64_t *words, size_t page, uint32_t tag)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		if (words[i] != ((uint64_t)tag << 32 | page))
			return false;
	return true;
}

void hazard_file_new(const struct hazard *h, char path[KT_PATH_MAX], size_t pages)
{
	static unsigned int number;
	char name[16];
	int r;

	snprintf(name, sizeof(name), "f%u", number++);
	r = kt_file(path, h->fs.dir, name, pages * HAZARD_PAGE);
	rt_assert(!r, "no file: %s", strerror(-r));
}

static int reach_bare(struct hazard_file *f, uint32_t access, bool odp)
{
	unsigned int flags = access == PINLEASE_WRITE ? KT_ACCESS_WRITE : KT_ACCESS_READ;

	flags |= odp ? IBV_ACCESS_ON_DEMAND : 0;
	f->mr = ibv_reg_mr(f->h->dev.pd, f->map, f->len, flags);
	if (!f->mr)
		return -errno;
	f->view = (struct pinlease_view){ .size = sizeof(f->view), .iova = (uintptr_t)f->map,
					  .len = f->len, .rkey = f->mr->rkey };
	return 0;
}

static int reach_with(struct hazard_file *f, uint32_t access, const struct hazard_ask *ask)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .access = ask->file };
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = f->h->dev.pd, .addr = f->map,
				    .access = ask->lease, .flags = ask->flags, .mode = ask->mode };
	struct pinlease_lease_info info = { .size = sizeof(info) };
	int r;

	lo.ibv_access = IBV_ACCESS_REMOTE_READ | (access == PINLEASE_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0);
	r = pinlease_file_attach(f->h->ctx, f->fd, &fo, &f->why, &f->file);
	if (r)
		return r;
	r = pinlease_acquire(f->file, 0, f->len, &lo, &f->why, &f->lease);
	if (r) {
		rt_assert(!pinlease_file_close(f->file), "a file without leases does not close");
		f->file = NULL;
		return r;
	}
	rt_assert(!pinlease_lease_info(f->lease, &info), "no info");
	f->h->mode = info.mode;
	return 0;
}

int hazard_reach(struct hazard *h, struct hazard_file *f, const char *path, struct hazard_ask ask)
{
	uint32_t access = ask.lease ? ask.lease : ask.file;
	/* Before 6.5 a registration for reading is refused on what could not be written. */
	bool write = !h->with || ask.file == PINLEASE_WRITE;
	struct stat st;
	int r;

	memset(f, 0, sizeof(*f));
	f->h = h;
	memcpy(f->path, path, strnlen(path, sizeof(f->path) - 1));
	f->fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	rt_assert(f->fd >= 0 && !fstat(f->fd, &st) && st.st_size, "%s: %s", path, strerror(errno));
	f->len = (size_t)st.st_size;
	f->map = mmap(NULL, f->len, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED, f->fd, 0);
	rt_assert(f->map != MAP_FAILED, "mmap: %s", strerror(errno));
	r = h->with ? reach_with(f, access, &ask) : reach_bare(f, access, ask.odp);
	if (!r)
		return 0;
	h->refused = h->with ? 0 : r;
	munmap(f->map, f->len);
	close(f->fd);
	return r;
}

void hazard_leave(struct hazard_file *f)
{
	int r = 0;

	if (f->lease)
		r = pinlease_release(f->lease);
	rt_assert(!r, "release: %s", strerror(-r));
	if (f->file)
		r = pinlease_file_close(f->file);
	rt_assert(!r, "file_close: %s", strerror(-r));
	if (f->mr)
		rt_assert(!ibv_dereg_mr(f->mr), "dereg");
	munmap(f->map, f->len);
	close(f->fd);
}

/*
 * What an application's event loop does: a lease whose file had shrunk for an instant was
 * not restored by itself.
 */
static void file_events(struct hazard_file *f)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (pinlease_ctx_next_event(f->h->ctx, &ev) == 1) {
		if (ev.type == PINLEASE_EV_LOST)
			f->lost++;
		else if (ev.type == PINLEASE_EV_RESTORE_FAILED)
			f->failed = ev.lease;
		ev.size = sizeof(ev);
	}
	/* Once more each time: who shrank the file, or looks at it, may be at it still. */
	if (f->failed && !pinlease_restore(f->failed, NULL))
		f->failed = NULL;
}

/* The right to reach the file, and the keys. */
static int file_begin(struct hazard_file *f, uint32_t *gen)
{
	uint64_t until = kt_now() + PATIENCE_NS;
	int r;

	if (!f->lease)
		return 0;
	do {
		r = pinlease_dma_begin(f->lease, 1, gen);
		if (!r) {
			f->view.size = sizeof(f->view);
			r = pinlease_view_get(f->lease, 0, &f->view);
			if (!r)
				return 0;
			/* A break between the two. */
			pinlease_dma_end(f->lease, 1, *gen);
		}
		file_events(f);
		usleep(NAP_US);
	} while (r == -EAGAIN && kt_now() < until);
	return r;
}

/* An error has ended the connection: another one. */
static int file_do(struct hazard_file *f, enum ibv_wr_opcode opcode, uint64_t off, uint32_t len)
{
	struct hazard *h = f->h;
	int r = kt_do(&h->pair.peer, opcode, h->buf, h->mr->lkey, len, f->view.iova + off, f->view.rkey);

	if (!r)
		return 0;
	kt_pair_drop(&h->pair);
	rt_assert(!kt_pair_make(&h->dev, &h->pair, 16), "no new queue pairs");
	return r;
}

int hazard_do(struct hazard_file *f, enum ibv_wr_opcode opcode, uint64_t off, uint32_t len)
{
	uint32_t gen = 0;
	int r = file_begin(f, &gen);

	if (r)
		return r;
	r = file_do(f, opcode, off, len);
	if (f->lease)
		pinlease_dma_end(f->lease, 1, gen);
	return r;
}

int hazard_write(struct hazard_file *f, size_t page, uint32_t tag)
{
	hazard_fill(f->h->buf, page, 1, tag);
	return hazard_do(f, IBV_WR_RDMA_WRITE, page * HAZARD_PAGE, HAZARD_PAGE);
}

int hazard_read(struct hazard_file *f, size_t page)
{
	memset(f->h->buf, 0xee, HAZARD_PAGE);
	return hazard_do(f, IBV_WR_RDMA_READ, page * HAZARD_PAGE, HAZARD_PAGE);
}

int hazard_write_deaf(struct hazard_file *f, size_t page, uint32_t tag)
{
	hazard_fill(f->h->buf, page, 1, tag);
	return file_do(f, IBV_WR_RDMA_WRITE, page * HAZARD_PAGE, HAZARD_PAGE);
}

void hazard_write_all(struct hazard_file *f, size_t page, size_t n, uint32_t tag)
{
	size_t i;
	int r;

	for (i = page; i < page + n; i++) {
		r = hazard_write(f, i, tag);
		rt_assert(!r, "page %zu was not written: %d", i, r);
	}
}

int hazard_sync(struct hazard_file *f)
{
	uint64_t until = kt_now() + PATIENCE_NS;
	int r;

	if (!f->lease)
		return msync(f->map, f->len, MS_SYNC) || fsync(f->fd) ? -errno : 0;
	while ((r = pinlease_sync(f->lease, 0, 0, 0)) == -EAGAIN && kt_now() < until) {
		file_events(f);
		usleep(NAP_US);
	}
	return r;
}

unsigned int hazard_fd_wrong(int fd, size_t page, size_t n, uint32_t tag)
{
	uint64_t *words = aligned_alloc(HAZARD_PAGE, HAZARD_PAGE);
	unsigned int wrong = 0;
	size_t i;

	rt_assert(words, "out of memory");
	for (i = page; i < page + n; i++)
		wrong += pread(fd, words, HAZARD_PAGE, (off_t)(i * HAZARD_PAGE)) != HAZARD_PAGE ||
			 !hazard_page_is(words, i, tag);
	free(words);
	return wrong;
}

unsigned int hazard_path_wrong(const char *path, int flags, size_t page, size_t n, uint32_t tag)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
	unsigned int wrong;

	rt_assert(fd >= 0, "%s: %s", path, strerror(errno));
	wrong = hazard_fd_wrong(fd, page, n, tag);
	close(fd);
	return wrong;
}

/* Notes which of the pages a stretch of the disk holds; every file system here has blocks of a page. */
static void disk_stretch(int image, off_t from, off_t to, uint32_t tag, bool there[])
{
	uint64_t words[WORDS];
	off_t at;

	for (at = from; at < to; at += HAZARD_PAGE)
		if (pread(image, words, HAZARD_PAGE, at) == HAZARD_PAGE && words[0] >> 32 == tag &&
		    (uint32_t)words[0] < HAZARD_PAGES && hazard_page_is(words, (uint32_t)words[0], tag))
			there[(uint32_t)words[0]] = true;
}

unsigned int hazard_disk_wrong(const struct hazard *h, size_t page, size_t n, uint32_t tag)
{
	bool there[HAZARD_PAGES] = { false };
	unsigned int wrong = 0;
	off_t from, to = 0;
	size_t i;

	rt_assert(h->fs.image >= 0 && page + n <= HAZARD_PAGES, "there is no such disk");
	while ((from = lseek(h->fs.image, to, SEEK_DATA)) >= 0) {
		to = lseek(h->fs.image, from, SEEK_HOLE);
		disk_stretch(h->fs.image, from, to, tag, there);
	}
	for (i = page; i < page + n; i++)
		wrong += !there[i];
	return wrong;
}
