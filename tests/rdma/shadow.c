/* SPDX-License-Identifier: BSD-3-Clause */
#include "shadow.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pmem.h"
#include "rt.h"

#define PAGE 4096u

static struct shadow *shadows;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int __real_pl_pmem_map(int fd, uint64_t off, uint64_t len, bool writable, struct pl_pmem **out);
int __wrap_pl_pmem_map(int fd, uint64_t off, uint64_t len, bool writable, struct pl_pmem **out);
void __real_pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
void __wrap_pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
void __real_pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len);
void __wrap_pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len);
int __real_pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
int __wrap_pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len);

void shadow_add(struct shadow *s, int fill)
{
	s->bytes = malloc(s->len);
	s->queue = s->deep ? malloc(s->len) : s->bytes;
	rt_assert(s->bytes && s->queue, "out of memory");
	memset(s->bytes, fill, s->len);
	memset(s->queue, fill, s->len);
	s->next = shadows;
	shadows = s;
}

int __wrap_pl_pmem_map(int fd, uint64_t off, uint64_t len, bool writable, struct pl_pmem **out)
{
	int r = __real_pl_pmem_map(fd, off, len, writable, out);
	struct shadow *s;
	struct stat st;

	rt_assert(!fstat(fd, &st), "fstat: %s", strerror(errno));
	for (s = shadows; !r && s; s = s->next)
		if (s->st.st_ino == st.st_ino && s->st.st_dev == st.st_dev && s->off == off)
			s->pmem = *out;
	return r;
}

static struct shadow *shadow_of(const struct pl_pmem *pmem)
{
	struct shadow *s = shadows;

	while (s && s->pmem != pmem)
		s = s->next;
	rt_assert(s, "a mapping of nobody's");
	return s;
}

static void shadow_has(const struct shadow *s, uint64_t off, uint64_t len)
{
	rt_assert(off <= s->len && len <= s->len - off, "%s: %llu bytes at %llu", s->name,
		  (unsigned long long)len, (unsigned long long)off);
}

static void shadow_keep(struct shadow *s, const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	shadow_has(s, off, len);
	pthread_mutex_lock(&lock);
	memcpy(s->queue + off, (const char *)pmem->addr + off, len);
	s->persists++;
	pthread_mutex_unlock(&lock);
}

/* What is stored while it runs may, or may not, be flushed with the rest: not. */
void __wrap_pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	struct shadow *s = shadow_of(pmem);

	if (s->left_out == SHADOW_PERSIST)
		return;
	shadow_keep(s, pmem, off, len);
	__real_pl_pmem_persist(pmem, off, len);
}

/* From is written to meanwhile: what came of it is what was copied. */
void __wrap_pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len)
{
	struct shadow *s = shadow_of(pmem);

	if (s->left_out == SHADOW_PERSIST) {
		memcpy((char *)pmem->addr + off, from, len);
		return;
	}
	__real_pl_pmem_copy(pmem, off, from, len);
	shadow_keep(s, pmem, off, len);
}

int __wrap_pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	struct shadow *s = shadow_of(pmem);

	if (s->left_out == SHADOW_DEEP_FLUSH)
		return 0;
	shadow_has(s, off, len);
	pthread_mutex_lock(&lock);
	if (s->deep)
		memcpy(s->bytes + off, s->queue + off, len);
	s->flushes++;
	pthread_mutex_unlock(&lock);
	return __real_pl_pmem_deep_flush(pmem, off, len);
}

/* Past the page cache, in which the kernel has metadata that is not on the medium. */
static void image_read(int fd, uint64_t size)
{
	static const unsigned char zeros[PAGE];
	static _Alignas(PAGE) unsigned char buf[256 * PAGE];
	int from = open("/dev/pmem0", O_RDONLY | O_DIRECT | O_CLOEXEC);
	uint64_t at, page;

	rt_assert(from >= 0, "/dev/pmem0: %s", strerror(errno));
	for (at = 0; at < size; at += sizeof(buf)) {
		rt_assert(pread(from, buf, sizeof(buf), (off_t)at) == (ssize_t)sizeof(buf), "/dev/pmem0: %s",
			  strerror(errno));
		for (page = 0; page < sizeof(buf); page += PAGE)
			rt_assert(!memcmp(buf + page, zeros, PAGE) ||
					  pwrite(fd, buf + page, PAGE, (off_t)(at + page)) == PAGE,
				  "image: %s", strerror(errno));
	}
	close(from);
}

int shadow_image(uint64_t size)
{
	int fd = memfd_create("pmem", MFD_CLOEXEC), i;
	const struct shadow *s;
	uint64_t n;

	rt_assert(fd >= 0 && !ftruncate(fd, (off_t)size), "no image: %s", strerror(errno));
	image_read(fd, size);
	pthread_mutex_lock(&lock);
	for (s = shadows; s; s = s->next)
		for (i = 0; i < s->extents; i++) {
			const struct kt_extent *x = &s->extent[i];

			n = x->len < s->len - x->logical ? x->len : s->len - x->logical;
			rt_assert(pwrite(fd, s->bytes + x->logical, n, (off_t)x->physical) == (ssize_t)n,
				  "image: %s", strerror(errno));
		}
	pthread_mutex_unlock(&lock);
	return fd;
}
