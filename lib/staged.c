/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "staged.h"
#include "util.h"

#include <pinlease.h>

#define FILL_BYTES (4ull << 20)
#define WORD_BITS  64
#define HUGE_BYTES (2ull << 20)

static uint64_t staged_page(const struct pl_staged *s)
{
	return 1ull << s->page_shift;
}

static uint64_t staged_pages(const struct pl_staged *s, uint64_t bytes)
{
	return (bytes + staged_page(s) - 1) >> s->page_shift;
}

static uint64_t staged_words(const struct pl_staged *s)
{
	return (s->map_len >> s->page_shift) / WORD_BITS + 1;
}

/* The pages that were ever marked; NULL: all count as if. */
static _Atomic uint64_t *staged_told(struct pl_staged *s)
{
	return s->unfilled ? s->bits + staged_words(s) : NULL;
}

/* mmap(2) need not give such an address by itself. */
static int staged_map_aligned(uint64_t len, void **out)
{
	int r = pl_sys_map(NULL, len + HUGE_BYTES, PROT_READ | PROT_WRITE, -1, 0, out);
	uint64_t head;
	char *at;

	if (r)
		return r;
	at = *out;
	head = pl_round_up((uintptr_t)at, HUGE_BYTES) - (uintptr_t)at;
	if (head)
		pl_sys_unmap(at, head);
	if (head < HUGE_BYTES)
		pl_sys_unmap(at + head + len, HUGE_BYTES - head);
	*out = at + head;
	return 0;
}

/*
 * Where there is a choice, at an address that huge pages fit to: fewer pages to pin, and
 * fewer entries in the device's tables. From 6.7 on mmap(2) does so for whole huge pages.
 */
static int staged_map(void *addr, uint64_t len, void **out)
{
	int r;

	if (!addr && len >= HUGE_BYTES && len % HUGE_BYTES)
		return staged_map_aligned(len, out);
	r = pl_sys_map(addr, len, PROT_READ | PROT_WRITE, -1, 0, out);
	if (r || addr || len < HUGE_BYTES || !((uintptr_t)*out % HUGE_BYTES))
		return r;
	pl_sys_unmap(*out, len);
	return staged_map_aligned(len, out);
}

int pl_staged_new(struct pl_staged **out, void *addr, uint64_t file_off, uint64_t len, uint64_t page,
		  uint32_t use)
{
	struct pl_staged as = { .len = len, .map_len = pl_round_up(len, page), .file_off = file_off,
				.page_shift = (uint8_t)__builtin_ctzll(page), .writable = use };
	uint64_t maps = use & PL_STAGED_UNFILLED ? 2 : use ? 1 : 0;
	struct pl_staged *s = pl_sys_alloc(sizeof(*s) + maps * staged_words(&as) * sizeof(s->bits[0]));
	int r;

	if (!s)
		return -ENOMEM;
	*s = as;
	s->unfilled = use & PL_STAGED_UNFILLED;
	r = staged_map(addr, s->map_len, &s->addr);
	if (r) {
		pl_sys_free(s);
		return r;
	}
	/* Registered memory that a child shares copy-on-write would part from what the device reaches. */
	r = pl_sys_advise(s->addr, s->map_len, MADV_DONTFORK);
	if (r && !addr) {
		pl_staged_free(s);
		return r;
	}
	*out = s;
	/* Before it is filled, so that filling already gets them; without it everything works the same. */
	if (!r)
		pl_sys_advise(s->addr, s->map_len, MADV_HUGEPAGE);
	return r;
}

void pl_staged_free(struct pl_staged *s)
{
	if (!s)
		return;
	/*
	 * Unmapping clears: the kernel zeroes a page before anybody gets it, this process too. Where that
	 * fails (a mapping must be split, beyond vm.max_map_count) the pages are dropped: no split.
	 */
	if (pl_sys_unmap(s->addr, s->map_len))
		pl_sys_advise(s->addr, s->map_len, MADV_DONTNEED);
	pl_sys_free(s);
}

/* Nobody tells whether the application's mapping had MAP_SYNC: it would miss it, and not mind it. */
int pl_staged_unmap_back(struct pl_staged *s, int fd, int prot, bool pmem)
{
	void *at;
	int r;

	/* Should nothing take its place, what peers have written must not stay there, nor reach a child. */
	pl_sys_advise(s->addr, s->map_len, MADV_DONTNEED);
	r = pmem ? pl_sys_map_sync(s->addr, s->map_len, prot, fd, s->file_off) : -EOPNOTSUPP;
	if (r)
		r = pl_sys_map(s->addr, s->map_len, prot, fd, s->file_off, &at);
	pl_sys_free(s);
	return r;
}

static int fill_fail(struct pl_fill_error *at, uint32_t reason, int sys_errno, int err)
{
	at->stage = PINLEASE_AT_FILL;
	at->reason = reason;
	at->sys_errno = -sys_errno;
	return err;
}

/* All of it is the file's, or was written: anything may be written back now. */
static void staged_filled(struct pl_staged *s)
{
	_Atomic uint64_t *told = staged_told(s);
	uint64_t w;

	for (w = 0; told && w < staged_words(s); w++)
		atomic_store_explicit(&told[w], UINT64_MAX, memory_order_relaxed);
}

int pl_staged_fill(struct pl_staged *s, int fd, bool (*stop)(void *arg), void *arg, struct pl_fill_error *at)
{
	uint64_t done = 0;
	ssize_t n;

	while (done < s->len) {
		if (stop && stop(arg))
			return fill_fail(at, PINLEASE_WHY_BROKEN, 0, -EAGAIN);
		n = pl_sys_pread(fd, (char *)s->addr + done, pl_min_u64(FILL_BYTES, s->len - done),
				 s->file_off + done);
		if (n == -EINTR)
			continue;
		if (n < 0)
			return fill_fail(at, PINLEASE_WHY_IO, (int)n, (int)n);
		if (!n) {
			/* The end of the file: what stood here before must not be read as its contents. */
			memset((char *)s->addr + done, 0, s->len - done);
			break;
		}
		done += (uint64_t)n;
	}
	staged_filled(s);
	return 0;
}

int pl_staged_fill_from(struct pl_staged *s, const void *from, bool (*stop)(void *arg), void *arg,
			struct pl_fill_error *at)
{
	uint64_t done, n;

	for (done = 0; done < s->len; done += n) {
		if (stop && stop(arg))
			return fill_fail(at, PINLEASE_WHY_BROKEN, 0, -EAGAIN);
		n = pl_min_u64(FILL_BYTES, s->len - done);
		memcpy((char *)s->addr + done, (const char *)from + done, n);
	}
	staged_filled(s);
	return 0;
}

/* The bits of word number w that stand for pages first..last. */
static uint64_t word_mask(uint64_t w, uint64_t first, uint64_t last)
{
	uint64_t base = w * WORD_BITS, mask = UINT64_MAX;

	if (first > base)
		mask &= UINT64_MAX << (first - base);
	if (last < base + WORD_BITS - 1)
		mask &= UINT64_MAX >> (base + WORD_BITS - 1 - last);
	return mask;
}

void pl_staged_mark(struct pl_staged *s, uint64_t off, uint64_t len)
{
	uint64_t first = off >> s->page_shift, last, w;
	_Atomic uint64_t *told = staged_told(s);

	if (!len)
		return;
	last = (off + len - 1) >> s->page_shift;
	/* Release: who takes a bit down with acquire sees what was written before it was put up. */
	for (w = first / WORD_BITS; w <= last / WORD_BITS; w++) {
		if (told)
			atomic_fetch_or_explicit(&told[w], word_mask(w, first, last), memory_order_relaxed);
		atomic_fetch_or_explicit(&s->bits[w], word_mask(w, first, last), memory_order_release);
	}
}

static uint64_t granule_bytes(const struct pl_staged *s)
{
	return (staged_pages(s, s->map_len) + WORD_BITS - 1) / WORD_BITS * staged_page(s);
}

uint64_t pl_staged_granules(const struct pl_staged *s, uint64_t off, uint64_t len)
{
	uint64_t bytes = granule_bytes(s);

	return len ? word_mask(0, off / bytes, (off + len - 1) / bytes) : 0;
}

/* Pages first..last, of memory that is not filled only those that hold something. */
static void mark_again(struct pl_staged *s, uint64_t first, uint64_t last)
{
	_Atomic uint64_t *told = staged_told(s);
	uint64_t w, mask;

	for (w = first / WORD_BITS; w <= last / WORD_BITS; w++) {
		mask = word_mask(w, first, last);
		if (told)
			mask &= atomic_load_explicit(&told[w], memory_order_relaxed);
		atomic_fetch_or_explicit(&s->bits[w], mask, memory_order_release);
	}
}

void pl_staged_mark_granules(struct pl_staged *s, uint64_t granules)
{
	uint64_t pages = granule_bytes(s) >> s->page_shift, all = s->map_len >> s->page_shift, first;
	unsigned int i;

	for (i = 0; i < WORD_BITS; i++) {
		first = i * pages;
		if (granules >> i & 1 && first < all)
			mark_again(s, first, pl_min_u64(first + pages, all) - 1);
	}
}

void pl_staged_clear(struct pl_staged *s, uint64_t off, uint64_t len)
{
	uint64_t first = off >> s->page_shift, last, w;

	if (!len)
		return;
	last = (off + len - 1) >> s->page_shift;
	for (w = first / WORD_BITS; w <= last / WORD_BITS; w++)
		atomic_fetch_and_explicit(&s->bits[w], ~word_mask(w, first, last), memory_order_acquire);
}

void pl_staged_clear_whole(struct pl_staged *s, uint64_t off, uint64_t len)
{
	uint64_t first = pl_round_up(off, staged_page(s)), end = off + len;

	if (end < s->len)
		end -= end % staged_page(s);
	pl_staged_clear(s, first, pl_sub_sat(end, first));
}

void pl_staged_clean(struct pl_staged *s)
{
	pl_staged_clear(s, 0, s->map_len);
}

/* The first page from page on, before limit, whose bit is dirty, or is not; limit: none. */
static uint64_t staged_find(const struct pl_staged *s, uint64_t page, uint64_t limit, bool dirty)
{
	uint64_t w, word;

	while (page < limit) {
		w = page / WORD_BITS;
		word = atomic_load_explicit(&s->bits[w], memory_order_acquire);
		word = (dirty ? word : ~word) & word_mask(w, page, UINT64_MAX);
		if (word)
			return pl_min_u64(limit, w * WORD_BITS + (uint64_t)__builtin_ctzll(word));
		page = (w + 1) * WORD_BITS;
	}
	return limit;
}

/*
 * A page that somebody else clears between the two looks and the clearing is written by
 * both, which does no harm.
 */
bool pl_staged_next(struct pl_staged *s, uint64_t from, uint64_t end, uint64_t max_bytes, bool clear,
		    uint64_t *off, uint64_t *len)
{
	uint64_t limit, first, last;

	/* Not by pages: who goes on behind the last run, which ends within a page, must not meet it again. */
	end = pl_min_u64(end, s->len);
	if (from >= end)
		return false;
	limit = staged_pages(s, end);
	first = staged_find(s, from >> s->page_shift, limit, true);
	if (first >= limit)
		return false;
	limit = pl_min_u64(limit, first + pl_max_u64(1, staged_pages(s, pl_min_u64(max_bytes, s->len))));
	last = staged_find(s, first + 1, limit, false);
	*off = first << s->page_shift;
	*len = pl_min_u64(last << s->page_shift, s->len) - *off;
	if (clear)
		pl_staged_clear(s, *off, *len);
	return true;
}

uint64_t pl_staged_dirty_bytes(struct pl_staged *s)
{
	uint64_t bytes = 0, off = 0, len = 0;

	while (pl_staged_next(s, off + len, s->len, s->len, false, &off, &len))
		bytes += len;
	return bytes;
}

int pl_staged_write(const struct pl_staged *s, int fd, uint64_t off, uint64_t len)
{
	uint64_t end = off + len;
	ssize_t n;

	while (off < end) {
		n = pl_sys_pwrite(fd, (const char *)s->addr + off, end - off, s->file_off + off);
		if (n == -EINTR)
			continue;
		if (n < 0)
			return (int)n;
		if (!n)
			return -EIO;
		off += (uint64_t)n;
	}
	return 0;
}
