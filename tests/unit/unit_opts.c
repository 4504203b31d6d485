/* SPDX-License-Identifier: BSD-3-Clause */
/* Structures that may grow: as they come in, as they go out. */
#include "opts.h"
#include "unit.h"

struct v0 {
	size_t size;
	uint64_t a, b;
};

struct v1 {			/* what a newer program, or a newer library, has */
	size_t size;
	uint64_t a, b, c;
};

static const struct v0 before = { 77, 78, 79 };

static void null_is_all_defaults(void **state)
{
	struct v0 o = before;

	(void)state;
	assert_int_equal(pl_opts_in(&o, sizeof(o), sizeof(o), NULL), 0);
	assert_true(o.size == sizeof(o) && !o.a && !o.b);
}

static void same_size_is_copied(void **state)
{
	struct v0 o = before, in = { sizeof(in), 1, 2 };

	(void)state;
	assert_int_equal(pl_opts_in(&o, sizeof(o), sizeof(o), &in), 0);
	assert_true(o.size == sizeof(o) && o.a == 1 && o.b == 2);
}

static void older_program_gets_zeros(void **state)
{
	struct v0 in = { sizeof(in), 1, 2 };
	struct v1 o = { 9, 9, 9, 9 };

	(void)state;
	assert_int_equal(pl_opts_in(&o, sizeof(o), sizeof(struct v0), &in), 0);
	assert_true(o.size == sizeof(o) && o.a == 1 && o.b == 2 && o.c == 0);
}

static void newer_program_may_not_ask_for_more(void **state)
{
	struct v1 in = { sizeof(in), 1, 2, 0 };
	struct v0 o = before;

	(void)state;
	assert_int_equal(pl_opts_in(&o, sizeof(o), sizeof(o), &in), 0);
	assert_true(o.size == sizeof(o) && o.a == 1 && o.b == 2);
	o = before;
	in.c = (uint64_t)1 << 63;
	assert_int_equal(pl_opts_in(&o, sizeof(o), sizeof(o), &in), -E2BIG);
	assert_memory_equal(&o, &before, sizeof(o));
}

/* A size nobody set: nothing behind the structure may be read. */
static void sizes_that_cannot_be(void **state)
{
	static const size_t sizes[] = { 0, 1, sizeof(size_t), sizeof(struct v0) - 1, 4097, SIZE_MAX };
	struct v0 *in = malloc(sizeof(*in)), o = before;
	size_t i;

	(void)state;
	assert_non_null(in);
	for (i = 0; i < UNIT_COUNT(sizes); i++) {
		*in = (struct v0){ sizes[i], 1, 2 };
		assert_int_equal(pl_opts_in(&o, sizeof(o), sizeof(o), in), -EINVAL);
		assert_memory_equal(&o, &before, sizeof(o));
		assert_int_equal(pl_opts_out(&before, sizeof(before), sizeof(before), in), -EINVAL);
		assert_true(in->size == sizes[i] && in->a == 1 && in->b == 2);
	}
	free(in);
}

static void out_to_every_size(void **state)
{
	struct v1 lib = { sizeof(lib), 1, 2, 3 }, big = { sizeof(big), 9, 9, 9 };
	struct v0 old_lib = { sizeof(old_lib), 1, 2 };
	struct {
		struct v0 o;
		uint64_t behind;
	} small = { { sizeof(struct v0), 9, 9 }, 9 };

	(void)state;
	assert_int_equal(pl_opts_out(&lib, sizeof(lib), sizeof(struct v0), &small.o), 0);
	assert_true(small.o.size == sizeof(struct v0) && small.o.a == 1 && small.o.b == 2);
	assert_int_equal(small.behind, 9);
	assert_int_equal(pl_opts_out(&lib, sizeof(lib), sizeof(struct v0), &big), 0);
	assert_true(big.size == sizeof(big) && big.a == 1 && big.b == 2 && big.c == 3);
	assert_int_equal(pl_opts_out(&old_lib, sizeof(old_lib), sizeof(struct v0), &big), 0);
	assert_true(big.size == sizeof(big) && big.a == 1 && big.b == 2 && big.c == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(null_is_all_defaults),
		cmocka_unit_test(same_size_is_copied),
		cmocka_unit_test(older_program_gets_zeros),
		cmocka_unit_test(newer_program_may_not_ask_for_more),
		cmocka_unit_test(sizes_that_cannot_be),
		cmocka_unit_test(out_to_every_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
