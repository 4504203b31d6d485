/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layer 1: structures that may grow. Each starts with size_t size, which says how much
 * of it the caller knows. They are normalised once, at the door: behind it every
 * structure is as long as the library's own.
 */
#ifndef PL_OPTS_H
#define PL_OPTS_H

#include <stdbool.h>
#include <stddef.h>

/*
 * src, from the application, to dst, of dst_size bytes; min_size: what the oldest
 * program passes. NULL is all defaults. 0; -EINVAL: src->size is too small, or no
 * structure's; -E2BIG: bytes that this library does not know are set. dst is
 * touched on success only.
 */
int pl_opts_in(void *dst, size_t dst_size, size_t min_size, const void *src);
/* Would pl_opts_out take dst? For who cannot give back what it has taken out. */
bool pl_opts_fits(size_t min_size, const void *dst);
/* src, of src_size bytes, to the application's dst: what dst->size has room for, the rest 0. -EINVAL. */
int pl_opts_out(const void *src, size_t src_size, size_t min_size, void *dst);

#endif
