/* SPDX-License-Identifier: BSD-3-Clause */
/* pl-copy's frames: what is decoded is what was encoded, and nothing else is read or believed. */
#include <errno.h>
#include <stdlib.h>

#include "frame.h"
#include "unit.h"

#define FLIPS 20000u

static int make_hello(void *buf, size_t cap)
{
	struct hello hello = { .data = 1,
			       .mode = 0640,
			       .flags = HELLO_PRESERVE,
			       .mtime_s = -5,
			       .mtime_ns = 999999999,
			       .path = "some/where",
			       .name = "a name" };

	return hello_encode(&hello, buf, cap);
}

static int make_frame(void *buf, size_t cap)
{
	char body[FRAME_MAX];
	struct frame f = { .type = FRAME_HELLO,
			   .status = -5,
			   .flags = 1,
			   .breaks = 2,
			   .chunk = 3,
			   .map = ~0ull,
			   .value = 1ull << 40,
			   .sum = { .bytes = { 1, 2, 3 } },
			   .body = body };

	f.body_len = (uint32_t)make_hello(body, sizeof(body));
	return frame_encode(&f, buf, cap);
}

/* As long as it is, and no byte more, so that a sanitizer sees what is read behind it. */
static void *exactly(const void *from, size_t len)
{
	void *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, from, len);
	return copy;
}

static void test_round_trip(void **state)
{
	char buf[FRAME_MAX];
	struct hello hello;
	struct frame f;
	int n = make_frame(buf, sizeof(buf));

	(void)state;
	assert_true(n > (int)FRAME_HEAD);
	assert_int_equal(frame_decode(buf, (size_t)n, &f), 0);
	assert_int_equal(f.type, FRAME_HELLO);
	assert_int_equal(f.status, -5);
	assert_int_equal(f.breaks, 2);
	assert_true(f.flags == 1 && f.chunk == 3 && f.map == ~0ull && f.value == 1ull << 40);
	assert_true(f.sum.bytes[0] == 1 && f.sum.bytes[2] == 3 && !f.sum.bytes[15]);
	assert_int_equal(hello_decode(f.body, f.body_len, &hello), 0);
	assert_true(hello.data == 1 && hello.mode == 0640 && hello.flags == HELLO_PRESERVE);
	assert_true(hello.mtime_s == -5 && hello.mtime_ns == 999999999);
	assert_string_equal(hello.path, "some/where");
	assert_string_equal(hello.name, "a name");
}

static void test_too_small(void **state)
{
	char buf[FRAME_MAX];
	int n = make_frame(buf, sizeof(buf)), i;

	(void)state;
	for (i = 0; i < n; i++)
		assert_int_equal(make_frame(buf, (size_t)i), -ENOSPC);
	assert_int_equal(make_frame(buf, (size_t)n), n);
}

static void test_cut(void **state)
{
	char buf[FRAME_MAX];
	struct hello hello;
	struct frame f;
	int n = make_frame(buf, sizeof(buf)), i;
	void *part;

	(void)state;
	for (i = 0; i < n; i++) {
		part = exactly(buf, (size_t)i);
		assert_int_equal(frame_decode(part, (size_t)i, &f), -EPROTO);
		free(part);
	}
	n = make_hello(buf, sizeof(buf));
	for (i = 0; i < n; i++) {
		part = exactly(buf, (size_t)i);
		assert_int_equal(hello_decode(part, (size_t)i, &hello), -EPROTO);
		free(part);
	}
}

/* What still decodes keeps to what the rest of the program relies on. */
static void test_flipped(void **state)
{
	char buf[FRAME_MAX];
	int n = make_frame(buf, sizeof(buf));
	unsigned int i, good = 0;
	struct hello hello;
	struct frame f;
	uint8_t *copy;

	(void)state;
	srand(1);
	for (i = 0; i < FLIPS; i++) {
		copy = exactly(buf, (size_t)n);
		copy[rand() % n] ^= (uint8_t)(1 << rand() % 8);
		copy[rand() % n] ^= (uint8_t)(rand() % 4 ? 0 : rand());
		if (!frame_decode(copy, (size_t)n, &f)) {
			assert_true(f.type && f.type < FRAME_LAST && f.status <= 0);
			assert_true(f.body_len == (size_t)n - FRAME_HEAD);
			if (!hello_decode(f.body, f.body_len, &hello)) {
				good++;
				assert_true(*hello.name && !strchr(hello.name, '/') &&
					    strcmp(hello.name, ".."));
				assert_true(strlen(hello.path) < sizeof(hello.path));
				assert_true(hello.mtime_ns < 1000000000u);
			}
		}
		free(copy);
	}
	/* It is not all refused, nor all taken. */
	assert_in_range(good, FLIPS / 10, FLIPS - FLIPS / 10);
}

static void test_names(void **state)
{
	static const char *const wrong[] = { "", ".", "..", "a/b", "/", "../x" };
	struct hello hello = { .path = "x" }, out;
	char buf[FRAME_MAX];
	size_t i;
	int n;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		snprintf(hello.name, sizeof(hello.name), "%s", wrong[i]);
		n = hello_encode(&hello, buf, sizeof(buf));
		assert_true(n > 0);
		assert_int_equal(hello_decode(buf, (size_t)n, &out), -EPROTO);
	}
}

static void test_hail(void **state)
{
	uint8_t buf[56] = { 0 };
	struct hail hail;

	(void)state;
	hail_encode(REFUSAL_BUSY, buf);
	assert_int_equal(hail_decode(buf, sizeof(buf), &hail), 0);
	assert_int_equal(hail.refusal, REFUSAL_BUSY);
	assert_int_equal(hail_decode(buf, HAIL_BYTES - 1, &hail), -EPROTO);
	assert_int_equal(hail_decode(NULL, 0, &hail), -EPROTO);
	buf[4]++;
	assert_int_equal(hail_decode(buf, sizeof(buf), &hail), -EPROTONOSUPPORT);
	buf[0]++;
	assert_int_equal(hail_decode(buf, sizeof(buf), &hail), -EPROTO);
}

static void test_text(void **state)
{
	char text[8];

	(void)state;
	frame_text("a\033[2J\177\nlong", 12, text, sizeof(text));
	assert_string_equal(text, "a?[2J??");
	/* U+009B, which begins a sequence as the escape does, in its long forms too, alone, and cut off. */
	frame_text("\302\233J\233", 4, text, sizeof(text));
	assert_string_equal(text, "??J?");
	frame_text("\340\202\233\360\200\202\233", 7, text, sizeof(text));
	assert_string_equal(text, "???????");
	frame_text("\303\251\342\202\254\302\240\342\202\254", 10, text, sizeof(text));
	assert_string_equal(text, "\303\251\342\202\254\302\240");
	frame_text("123456\303\251", 8, text, sizeof(text));
	assert_string_equal(text, "123456?");
	frame_text("", 0, text, sizeof(text));
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_too_small),
		cmocka_unit_test(test_cut),	   cmocka_unit_test(test_flipped),
		cmocka_unit_test(test_names),	   cmocka_unit_test(test_hail),
		cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
