/* SPDX-License-Identifier: BSD-3-Clause */
/* The tree of ranges against a list of them. */
#include "range.h"
#include "rounds.h"
#include "unit.h"

#define NODES 120
#define SPACE 200

struct item {
	struct pl_range range;
	bool in;
	unsigned int seen;
};

static struct item items[NODES];

static int count_each(void *arg, struct pl_range *node)
{
	(void)arg;
	((struct item *)node)->seen++;
	return 0;
}

/* Bytes in common: the model knows no trick. */
static bool overlap(const struct pl_range *a, uint64_t off, uint64_t end)
{
	uint64_t byte;

	for (byte = a->off; byte < a->off + a->len; byte++)
		if (byte >= off && byte < end)
			return true;
	return false;
}

static void compare(const struct pl_range_tree *tree, uint64_t off, uint64_t end)
{
	size_t i;

	for (i = 0; i < NODES; i++)
		items[i].seen = 0;
	assert_int_equal(pl_range_each(tree, off, end, count_each, NULL), 0);
	for (i = 0; i < NODES; i++)
		assert_int_equal(items[i].seen, items[i].in && overlap(&items[i].range, off, end));
}

/* Few positions, so that equal and nested ranges are common. */
static void random_against_model(void **state)
{
	struct pl_range_tree tree = { NULL };
	struct unit_random r = { 0 };
	unsigned int round;
	struct item *it;
	uint64_t off;

	(void)state;
	for (round = 0; round < pl_rounds(PL_R_range_steps); round++) {
		it = &items[unit_random(&r, NODES)];
		if (it->in)
			pl_range_remove(&tree, &it->range);
		else
			pl_range_insert(&tree, &it->range, unit_random(&r, SPACE), 1 + unit_random(&r, 30));
		it->in = !it->in;
		off = unit_random(&r, SPACE);
		compare(&tree, off, off + 1 + unit_random(&r, 20));
	}
	for (it = items; it < items + NODES; it++) {
		if (it->in)
			pl_range_remove(&tree, &it->range);
		it->in = false;
	}
	assert_null(tree.root);
}

static int stop_at_second(void *arg, struct pl_range *node)
{
	(void)node;
	return ++*(int *)arg == 2 ? 42 : 0;
}

static void stops_when_told(void **state)
{
	struct pl_range_tree tree = { NULL };
	struct pl_range three[3];
	int calls = 0, i;

	(void)state;
	for (i = 0; i < 3; i++)
		pl_range_insert(&tree, &three[i], 10, 10);
	assert_int_equal(pl_range_each(&tree, 0, 100, stop_at_second, &calls), 42);
	assert_int_equal(calls, 2);
}

/* fallocate(2) with a length up to the end of everything must not wrap around. */
static void the_end_saturates(void **state)
{
	struct pl_range_tree tree = { NULL };
	struct pl_range last, first;
	int calls = 0;

	(void)state;
	pl_range_insert(&tree, &last, 4096, UINT64_MAX);
	pl_range_insert(&tree, &first, 0, 4096);
	assert_int_equal(last.max_end, UINT64_MAX);
	assert_int_equal(pl_range_each(&tree, UINT64_MAX - 1, UINT64_MAX, stop_at_second, &calls), 0);
	assert_int_equal(calls, 1);
}

/* Ranges that come in order are what files are leased by: the tree must not become a list. */
static void stays_shallow(void **state)
{
	size_t count = 100000, i, depth, left = 0, right = 0;
	struct pl_range *many = calloc(count, sizeof(*many)), *n;
	struct pl_range_tree tree = { NULL };

	(void)state;
	assert_non_null(many);
	for (i = 0; i < count; i++)
		pl_range_insert(&tree, &many[i], i * 4096, 4096);
	for (n = tree.root; n; n = n->left)
		left++;
	for (n = tree.root; n; n = n->right)
		right++;
	for (i = 0, depth = 0; i < count; i += 997) {
		size_t here = 1;

		for (n = tree.root; n != &many[i]; n = many[i].off < n->off ? n->left : n->right)
			here++;
		depth = here > depth ? here : depth;
	}
	/* A treap of 100,000 is about 40 deep. */
	assert_true(left < 100 && right < 100 && depth < 100);
	free(many);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_against_model),
		cmocka_unit_test(stops_when_told),
		cmocka_unit_test(the_end_saturates),
		cmocka_unit_test(stays_shallow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
