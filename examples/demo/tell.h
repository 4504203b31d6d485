/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the programs of the demo share. Each says what happens to it on stdout, a line
 * an event: CLOCK_MONOTONIC in nanoseconds, then words. demo.py reads the lines.
 */
#ifndef DEMO_TELL_H
#define DEMO_TELL_H

#include <stdint.h>

#define DEMO_SLOT 512u	/* bytes a write; the file is a row of slots */

/* One successful write, as the peer's log has it and the checker reads it. */
struct demo_acked {
	uint64_t seq, slot;
	uint64_t polled_ns;	/* CLOCK_MONOTONIC, when its completion had been polled */
};

/* Every 64-bit word of a write is its sequence number and its slot. */
static inline uint64_t demo_word(uint64_t seq, uint64_t slot)
{
	return seq << 16 | slot;
}

uint64_t now_ns(void);
/* One write(2), so that lines of several threads do not mix; safe in any callback. */
void tell_at(uint64_t ns, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define tell(...) tell_at(now_ns(), __VA_ARGS__)
/* Tell "failed WHAT: error" and exit with 1. err is an errno or -errno. */
__attribute__((noreturn)) void give_up(const char *what, int err);

#endif
