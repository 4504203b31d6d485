/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a peer returns narrows what a staged owner writes back: of a megabyte, the pages that it wrote.
 * Counted by the kernel (wchar of /proc/self/io), and beside it the same without PINLEASE_L_GRANTED, which
 * writes all of it.
 */
#include <stdio.h>

#include "ladder.h"

#define FULL	    (RT_SLOTS * (uint64_t)RT_SLOT)
#define WRITTEN	    8u /* slots */
#define LOAD	    32u
#define BREAKS	    2u
#define OTHERS	    16384u /* of a break: messages, wake-ups */
#define DEADLINE_MS 5000u

static uint64_t passed_to_write(void)
{
	FILE *io = fopen("/proc/self/io", "re");
	unsigned long long n;
	char line[64];

	rt_assert(io, "/proc/self/io");
	while (fgets(line, sizeof(line), io)) {
		if (sscanf(line, "wchar: %llu", &n) == 1) {
			fclose(io);
			return n;
		}
	}
	rt_die(__FILE__, __LINE__, "no wchar");
}

/* Bytes that the process passed to write(2) and its like, the least of some breaks. */
static uint64_t least_of_breaks(uint32_t flags)
{
	uint64_t before, n, least = UINT64_MAX;
	static struct ladder l;
	struct kt_call *opener;
	unsigned int i;

	ladder_setup(&l, "ext4", 1, FULL, false);
	l.link[0].peer->books.slots = WRITTEN;
	ladder_open(&l, flags, DEADLINE_MS);
	for (i = 0; i < BREAKS; i++) {
		ladder_load(&l, LOAD);
		before = passed_to_write();
		opener = ladder_break(&l);
		ladder_opener_ms(&l, opener);
		n = passed_to_write() - before;
		least = n < least ? n : least;
		ladder_until(&l, l.restored > i, "RESTORED");
		rt_assert(!l.cut && ladder_lives(&l.link[0]), "the peer did not return");
	}
	rt_assert(l.opener->held == WRITTEN, "%u slots hold an acknowledged write", l.opener->held);
	ladder_close(&l);
	return least;
}

int main(void)
{
	uint64_t narrowed, whole;

	kt_init();
	rt_require();
	narrowed = least_of_breaks(PINLEASE_L_GRANTED);
	whole = least_of_breaks(0);
	printf("%u of %u slots written: a break writes %llu bytes, without L_GRANTED %llu\n", WRITTEN,
	       RT_SLOTS, (unsigned long long)narrowed, (unsigned long long)whole);
	rt_assert(narrowed >= WRITTEN * RT_SLOT && narrowed < WRITTEN * RT_SLOT + OTHERS, "not narrowed");
	rt_assert(whole >= FULL, "the control writes less than the whole: this test proves nothing");
	return 0;
}
