/* SPDX-License-Identifier: BSD-3-Clause */
/* What the atomic operations of the library become (memory.c). */
#ifndef PL_EXPLORE_ATOMICS_H
#define PL_EXPLORE_ATOMICS_H

#include <stddef.h>

void explore_load(const volatile void *p, void *value, size_t size);
void explore_store(volatile void *p, const void *value, size_t size, int ordered);
void explore_rmw(void);
void explore_fence(int ordered);

#endif
