/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mmap, munmap, mremap. Called by allocators, with their locks held, and in signal handlers:
 * nothing here allocates, and what concerns no shared mapping of a file takes no lock.
 */
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

_Static_assert(sizeof(off_t) == 8, "mmap64 is mmap");

static bool maps_file(int flags, int fd)
{
	int type = flags & MAP_TYPE;

	return fd >= 0 && !(flags & MAP_ANONYMOUS) && (type == MAP_SHARED || type == MAP_SHARED_VALIDATE);
}

PRE_EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	bool file;
	void *p;

	/* Another library's constructor, ahead of ours: no allocator maps files shared. */
	if (!pre_next.mmap && maps_file(flags, fd))
		pre_start();
	if (!pre_next.mmap)
		return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
	file = !pre_inside && maps_file(flags, fd);
	p = pre_next.mmap(addr, len, prot, flags, fd, off);
	if (p == MAP_FAILED || !pre_on)
		return p;
	/* Elsewhere the kernel has chosen a free place, and what was there has gone through munmap. */
	if (file || ((flags & MAP_FIXED) && pre_maps_near(p, len)))
		pre_maps_set(p, len, file ? fd : -1, off);
	return p;
}

PRE_EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off)
	__attribute__((alias("mmap")));

PRE_EXPORT int munmap(void *addr, size_t len)
{
	if (!pre_next.munmap)
		return (int)syscall(SYS_munmap, addr, len);
	if (!pre_on || !pre_maps_near(addr, len))
		return pre_next.munmap(addr, len);
	return pre_maps_unmap(addr, len);
}

PRE_EXPORT void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	void *new = NULL;
	va_list ap;

	va_start(ap, flags);
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
		new = va_arg(ap, void *);
	va_end(ap);
	if (!pre_next.mremap)
		return (void *)syscall(SYS_mremap, old, old_len, new_len, flags, new);
	/* An old length of 0 maps the same once more. */
	if (!pre_on ||
	    (!pre_maps_near(old, old_len + 1) && !((flags & MREMAP_FIXED) && pre_maps_near(new, new_len))))
		return pre_next.mremap(old, old_len, new_len, flags, new);
	return pre_maps_remap(old, old_len, new_len, flags, new);
}
