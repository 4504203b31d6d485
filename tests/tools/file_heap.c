/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * LD_PRELOAD, for tests: programs that know of no files get their buffers in one. What has
 * from FILE_HEAP_MIN to FILE_HEAP_MAX bytes comes from a shared mapping of the file FILE_HEAP,
 * as an allocator over persistent memory would have it, and is never given back; all the rest,
 * what they keep their books in, is glibc's. The descriptor is closed right after mapping.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);

#define EXPORT __attribute__((visibility("default")))

static char *heap;
static size_t heap_size, used, least, most;

__attribute__((constructor)) static void heap_start(void)
{
	const char *path = getenv("FILE_HEAP");
	const char *min = getenv("FILE_HEAP_MIN"), *max = getenv("FILE_HEAP_MAX");
	struct stat st;
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0 || fstat(fd, &st))
		return;
	heap = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (heap == MAP_FAILED)
		abort();
	least = min ? strtoul(min, NULL, 0) : 65536;
	most = max ? strtoul(max, NULL, 0) : SIZE_MAX;
	heap_size = (size_t)st.st_size;
}

static bool heap_has(const void *p)
{
	return heap_size && (uintptr_t)p - (uintptr_t)heap < heap_size;
}

/* One thread at a time is enough for the programs that are tested with it. */
static void *heap_take(size_t align, size_t size)
{
	size_t at = (used + align - 1) / align * align;
	void *p;

	if (!heap_size || size < least || size > most || at + size > heap_size)
		return NULL;
	p = heap + at;
	used = at + size;
	return p;
}

EXPORT void *malloc(size_t size)
{
	void *p = heap_take(4096, size);

	return p ? p : __libc_malloc(size);
}

EXPORT void *calloc(size_t count, size_t size)
{
	void *p = heap_take(4096, count * size);

	return p ? p : __libc_calloc(count, size);
}

EXPORT void *realloc(void *old, size_t size)
{
	void *p;

	if (!heap_has(old))
		return __libc_realloc(old, size);
	p = malloc(size);
	if (p)
		memmove(p, old, size);
	return p;
}

EXPORT void *memalign(size_t align, size_t size)
{
	void *p = heap_take(align > 4096 ? align : 4096, size);

	return p ? p : __libc_memalign(align, size);
}

EXPORT void *aligned_alloc(size_t align, size_t size)
{
	return memalign(align, size);
}

EXPORT int posix_memalign(void **out, size_t align, size_t size)
{
	void *p = memalign(align, size);

	if (!p)
		return ENOMEM;
	*out = p;
	return 0;
}

EXPORT void free(void *p)
{
	if (!heap_has(p))
		__libc_free(p);
}
