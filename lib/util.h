/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 0: small things everybody needs. */
#ifndef PL_UTIL_H
#define PL_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PL_NS_PER_MS 1000000ull
#define PL_NS_PER_S  1000000000ull
#define PL_NEVER     UINT64_MAX

#define pl_container(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))
#define pl_likely(x)   __builtin_expect(!!(x), 1)
#define pl_unlikely(x) __builtin_expect(!!(x), 0)

static inline uint64_t pl_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t pl_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Times saturate: PL_NEVER plus anything is PL_NEVER. */
static inline uint64_t pl_add_sat(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static inline uint64_t pl_sub_sat(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static inline uint64_t pl_round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

#endif
