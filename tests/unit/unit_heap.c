/* SPDX-License-Identifier: BSD-3-Clause */
/* The heap against an array. */
#include "heap.h"
#include "rounds.h"
#include "unit.h"
#include "util.h"

#define NODES 300

static struct pl_heap_node nodes[NODES];

static uint64_t model_min(uint64_t none)
{
	uint64_t min = none;
	size_t i;

	for (i = 0; i < NODES; i++)
		if (pl_heap_queued(&nodes[i]))
			min = pl_min_u64(min, nodes[i].key);
	return min;
}

/* Keys are few, so that equal ones are common. */
static void random_pushes_and_removes(void **state)
{
	struct pl_heap heap = { NULL };
	struct unit_random r = { 0 };
	struct pl_heap_node *n;
	unsigned int round;

	(void)state;
	for (round = 0; round < pl_rounds(PL_R_heap_steps); round++) {
		n = &nodes[unit_random(&r, NODES)];
		if (unit_random(&r, 4) == 0 && pl_heap_first(&heap))
			n = pl_heap_first(&heap);
		if (pl_heap_queued(n))
			pl_heap_remove(&heap, n);
		else
			pl_heap_push(&heap, n, unit_random(&r, 100));
		n = pl_heap_first(&heap);
		assert_int_equal(n ? n->key : UINT64_MAX, model_min(UINT64_MAX));
		assert_true(!n || pl_heap_queued(n));
	}
	while ((n = pl_heap_first(&heap)))
		pl_heap_remove(&heap, n);
	assert_int_equal(model_min(UINT64_MAX), UINT64_MAX);
}

static void comes_out_sorted(void **state)
{
	struct pl_heap heap = { NULL };
	struct unit_random r = { 1 };
	uint64_t last = 0, count = 0;
	struct pl_heap_node *n;
	size_t i;

	(void)state;
	for (i = 0; i < NODES; i++)
		pl_heap_push(&heap, &nodes[i], unit_random(&r, UINT32_MAX));
	while ((n = pl_heap_first(&heap))) {
		assert_true(n->key >= last);
		last = n->key;
		pl_heap_remove(&heap, n);
		assert_false(pl_heap_queued(n));
		count++;
	}
	assert_int_equal(count, NODES);
}

/* Every lease broken at once makes as many siblings: no recursion may go through them. */
static void a_million_siblings(void **state)
{
	size_t count = 1000000, i;
	struct pl_heap_node *many = calloc(count, sizeof(*many));
	struct pl_heap heap = { NULL };

	(void)state;
	assert_non_null(many);
	for (i = 0; i < count; i++)
		pl_heap_push(&heap, &many[i], i);
	for (i = 0; i < count; i++) {
		if (pl_heap_first(&heap) != &many[i])
			fail();
		pl_heap_remove(&heap, &many[i]);
	}
	assert_null(pl_heap_first(&heap));
	free(many);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_pushes_and_removes),
		cmocka_unit_test(comes_out_sorted),
		cmocka_unit_test(a_million_siblings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
