/* SPDX-License-Identifier: BSD-3-Clause */
/* The messages of pinlease_peers(7): what is written is read, and anything else is refused. */
#include <pinlease/peers.h>

#include "unit.h"
#include "wire.h"

static struct pl_wire sample(uint32_t type)
{
	struct pl_wire w = { .type = type, .gen = 0x01020304, .lease = 0x1112131415161718, .grant = 7 };

	if (type == PL_WIRE_GRANT || type == PL_WIRE_RESTORED) {
		w.addr = 0xfffffffffffff000;
		w.len = 0x1000;
		w.rkey = 0xa1b2c3d4;
		w.access = PINLEASE_WRITE;
		w.align = 4096;
	} else if (type == PL_WIRE_RECALL) {
		w.left_ms = 777;
	} else if (type == PL_WIRE_RETURNED) {
		pl_wire_add(&w, 8, 8);
		pl_wire_add(&w, 100, 1);
	}
	return w;
}

/* In memory of just that size, so that a sanitizer sees a byte too many. */
static int decode_exact(const void *bytes, size_t len, struct pl_wire *w)
{
	unsigned char *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, bytes, len);
	r = pl_wire_decode(len ? copy : copy + 1, len, w);
	free(copy);
	return r;
}

static void what_is_written_is_read(void **state)
{
	unsigned char buf[PL_WIRE_MAX];
	struct pl_wire w, got;
	uint32_t type;
	int n, len;

	(void)state;
	for (type = PL_WIRE_GRANT; type <= PL_WIRE_GONE; type++) {
		w = sample(type);
		n = pl_wire_encode(&w, buf, sizeof(buf));
		assert_in_range(n, 32, PL_WIRE_MAX);
		memset(&got, 0x55, sizeof(got));
		assert_int_equal(decode_exact(buf, (size_t)n, &got), 0);
		assert_memory_equal(&got, &w, sizeof(w));
		for (len = 0; len < n; len++) {
			assert_int_equal(pl_wire_encode(&w, buf, (size_t)len), -ENOSPC);
			assert_int_equal(decode_exact(buf, (size_t)len, &got), -EPROTO);
		}
		assert_memory_equal(&got, &w, sizeof(w));
		buf[n] = 0;
		assert_int_equal(pl_wire_decode(buf, (size_t)n + 1, &got), -EPROTO);
	}
}

/* The bytes of the manual page, whatever the byte order here. */
static void bytes_are_those_of_the_page(void **state)
{
	static const unsigned char want[40] = { 'P', 'N', 'L', 'S', 1, 2, 0, 0, 40, 0, 0, 0, 4, 3, 2, 1,
						0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
						7, 0, 0, 0, 0, 0, 0, 0, 9, 3, 0, 0, 0, 0, 0, 0 };
	struct pl_wire w = sample(PL_WIRE_RECALL);
	unsigned char buf[40];

	(void)state;
	assert_int_equal(pl_wire_encode(&w, buf, sizeof(buf)), 40);
	assert_memory_equal(buf, want, sizeof(want));
	assert_int_equal(PL_WIRE_MAX, PINLEASE_MESSAGE_MAX);
}

static void corrupt(unsigned int at, uint64_t value, unsigned int bytes, uint32_t type)
{
	unsigned char buf[PL_WIRE_MAX];
	struct pl_wire w = sample(type), got;
	int n = pl_wire_encode(&w, buf, sizeof(buf));

	for (; bytes--; value >>= 8)
		buf[at++] = (unsigned char)value;
	assert_int_equal(decode_exact(buf, (size_t)n, &got), -EPROTO);
}

static void nonsense_is_refused(void **state)
{
	(void)state;
	corrupt(0, 0, 1, PL_WIRE_GONE);
	corrupt(4, 2, 1, PL_WIRE_GONE);
	corrupt(5, 0, 1, PL_WIRE_GONE);
	corrupt(5, 6, 1, PL_WIRE_GONE);
	corrupt(6, 1, 2, PL_WIRE_GONE);
	corrupt(8, 33, 4, PL_WIRE_GONE);
	corrupt(40, 0, 8, PL_WIRE_GRANT);
	corrupt(40, 0x1001, 8, PL_WIRE_GRANT);
	corrupt(52, 0, 4, PL_WIRE_GRANT);
	corrupt(52, 3, 4, PL_WIRE_GRANT);
	corrupt(56, 0, 4, PL_WIRE_GRANT);
	corrupt(56, 6, 4, PL_WIRE_GRANT);
	corrupt(60, 1, 4, PL_WIRE_RESTORED);
	corrupt(36, 1, 4, PL_WIRE_RECALL);
	corrupt(32, 1, 4, PL_WIRE_RETURNED);
	corrupt(32, 0xffffffff, 4, PL_WIRE_RETURNED);
	corrupt(32, 0x10000002, 4, PL_WIRE_RETURNED);
	corrupt(48, 0, 8, PL_WIRE_RETURNED);
	corrupt(48, UINT64_MAX, 8, PL_WIRE_RETURNED);
}

static void any_bytes(void **state)
{
	unsigned char buf[PL_WIRE_MAX + 64];
	struct unit_random rnd = { .x = 5 };
	struct pl_wire w, got;
	unsigned int i, j, good = 0;
	size_t len;
	int n, r;

	(void)state;
	for (i = 0; i < 20000; i++) {
		len = unit_random(&rnd, sizeof(buf));
		for (j = 0; j < sizeof(buf); j++)
			buf[j] = (unsigned char)unit_random(&rnd, 256);
		assert_int_equal(decode_exact(buf, len, &got), -EPROTO);
		/* Nearly a message: some bytes of a good one are others. */
		w = sample(1 + (uint32_t)unit_random(&rnd, 5));
		n = pl_wire_encode(&w, buf, sizeof(buf));
		for (j = (unsigned int)unit_random(&rnd, 3); j; j--)
			buf[unit_random(&rnd, (uint64_t)n)] = (unsigned char)unit_random(&rnd, 256);
		r = decode_exact(buf, (size_t)n, &got);
		assert_true(r == 0 || r == -EPROTO);
		good += !r;
		if (r)
			continue;
		/* What was taken is sensible, and says the same again. */
		assert_in_range(got.count, 0, PL_WIRE_RANGES);
		assert_int_equal(pl_wire_encode(&got, buf + 0, (size_t)n), n);
	}
	assert_in_range(good, 5000, 19999);
}

/* Never less than what was written, in order, apart, and no more than there is room for. */
static void ranges_cover(void **state)
{
	struct unit_random rnd = { .x = 9 };
	bool was[1000];
	struct pl_wire w;
	unsigned int round, i, byte, at;
	uint64_t off, len;

	(void)state;
	for (round = 0; round < 200; round++) {
		memset(was, 0, sizeof(was));
		w = (struct pl_wire){ .type = PL_WIRE_RETURNED };
		for (i = 0; i < 10 + round % 60; i++) {
			off = unit_random(&rnd, 990);
			len = 1 + unit_random(&rnd, 10);
			pl_wire_add(&w, off, len);
			memset(was + off, 1, len);
			assert_in_range(w.count, 1, PL_WIRE_RANGES);
		}
		for (i = 1; i < w.count; i++)
			assert_true(w.range[i].off > w.range[i - 1].off + w.range[i - 1].len);
		for (byte = 0; byte < sizeof(was); byte++) {
			for (at = 0; at < w.count; at++)
				if (byte >= w.range[at].off && byte < w.range[at].off + w.range[at].len)
					break;
			assert_true(!was[byte] || at < w.count);
			/* Exact, as long as there was room. */
			if (w.count < PL_WIRE_RANGES && round % 60 < 20)
				assert_true(was[byte] == (at < w.count));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read), cmocka_unit_test(bytes_are_those_of_the_page),
		cmocka_unit_test(nonsense_is_refused),	   cmocka_unit_test(any_bytes),
		cmocka_unit_test(ranges_cover),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
