/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "opts.h"

/* No structure of any version comes near it: a size beyond it was never set. */
#define OPTS_SIZE_MAX 4096

static size_t opts_size(const void *p)
{
	size_t size;

	memcpy(&size, p, sizeof(size));
	return size;
}

static bool opts_zero(const char *p, size_t from, size_t to)
{
	while (from < to && !p[from])
		from++;
	return from >= to;
}

bool pl_opts_fits(size_t min_size, const void *dst)
{
	return opts_size(dst) >= min_size && opts_size(dst) <= OPTS_SIZE_MAX;
}

int pl_opts_in(void *dst, size_t dst_size, size_t min_size, const void *src)
{
	size_t size = src ? opts_size(src) : 0, known = size < dst_size ? size : dst_size;

	if (src && (size < min_size || size > OPTS_SIZE_MAX))
		return -EINVAL;
	if (src && !opts_zero(src, dst_size, size))
		return -E2BIG;
	memset(dst, 0, dst_size);
	if (src)
		memcpy(dst, src, known);
	memcpy(dst, &dst_size, sizeof(dst_size));
	return 0;
}

int pl_opts_out(const void *src, size_t src_size, size_t min_size, void *dst)
{
	size_t size = opts_size(dst), known = size < src_size ? size : src_size;

	if (size < min_size || size > OPTS_SIZE_MAX)
		return -EINVAL;
	memset((char *)dst + known, 0, size - known);
	memcpy((char *)dst + sizeof(size), (const char *)src + sizeof(size), known - sizeof(size));
	return 0;
}
