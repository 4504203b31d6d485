/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In place of the compiler's <stdatomic.h> where the library is compiled for the explorer:
 * each atomic operation is a step, and stores go through a store buffer (memory.c). What
 * the library writes is what it writes elsewhere; only the machine below is another one.
 */
#ifndef PL_EXPLORE_STDATOMIC_H
#define PL_EXPLORE_STDATOMIC_H

#include_next <stdatomic.h>

#include "../atomics.h"

#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store
#undef atomic_store_explicit
#undef atomic_exchange
#undef atomic_exchange_explicit
#undef atomic_fetch_add
#undef atomic_fetch_add_explicit
#undef atomic_fetch_or_explicit
#undef atomic_fetch_and_explicit
#undef atomic_compare_exchange_weak_explicit
#undef atomic_thread_fence
#undef atomic_signal_fence

#define atomic_load_explicit(p, order)                                                   \
	__extension__({                                                                  \
		__auto_type explore_lp = (p);                                            \
		__typeof__((void)0, *explore_lp) explore_lv;                             \
		(void)(order);                                                           \
		explore_load((const volatile void *)explore_lp, (void *)&explore_lv, sizeof(explore_lv)); \
		explore_lv;                                                              \
	})
#define atomic_load(p) atomic_load_explicit(p, memory_order_seq_cst)

#define atomic_store_explicit(p, v, order)                                                 \
	__extension__({                                                                    \
		__auto_type explore_sp = (p);                                              \
		__typeof__((void)0, *explore_sp) explore_sv = (v);                         \
		explore_store((volatile void *)explore_sp, (const void *)&explore_sv, sizeof(explore_sv), \
			      (order) == memory_order_seq_cst);                            \
	})
#define atomic_store(p, v) atomic_store_explicit(p, v, memory_order_seq_cst)

/* What reads and writes at once empties the buffer first, whatever its order: as on x86. */
#define explore_bare(p) ((__typeof__((void)0, *(p)) *)(p))
#define atomic_exchange_explicit(p, v, order) (explore_rmw(), __atomic_exchange_n(explore_bare(p), v, order))
#define atomic_exchange(p, v)		      atomic_exchange_explicit(p, v, __ATOMIC_SEQ_CST)
#define atomic_fetch_add_explicit(p, v, order) (explore_rmw(), __atomic_fetch_add(explore_bare(p), v, order))
#define atomic_fetch_add(p, v)		       atomic_fetch_add_explicit(p, v, __ATOMIC_SEQ_CST)
#define atomic_fetch_or_explicit(p, v, order)  (explore_rmw(), __atomic_fetch_or(explore_bare(p), v, order))
#define atomic_fetch_and_explicit(p, v, order) (explore_rmw(), __atomic_fetch_and(explore_bare(p), v, order))
#define atomic_compare_exchange_weak_explicit(p, e, v, yes, no) \
	(explore_rmw(), __atomic_compare_exchange_n(explore_bare(p), e, v, 1, yes, no))

#define atomic_thread_fence(order) explore_fence((order) == memory_order_seq_cst)
#define atomic_signal_fence(order) ((void)(order), explore_fence(0))

#endif
