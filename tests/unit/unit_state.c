/* SPDX-License-Identifier: BSD-3-Clause */
/* What must be so of the two tables whatever the arrows are. */
#include "state.h"
#include "unit.h"

#define LEASE_STATES (PINLEASE_CLOSED + 1)
#define FILE_STATES  (PL_FILE_REARMING + 1)

/* Can b be reached from a? */
static bool reaches(const struct pl_arrow *arrows, size_t count, int a, int b)
{
	bool known[16] = { false }, more = true;
	size_t i;

	known[a] = true;
	while (more) {
		more = false;
		for (i = 0; i < count; i++)
			if (known[arrows[i].from] && !known[arrows[i].to])
				more = known[arrows[i].to] = true;
	}
	return known[b];
}

static void lease_states_lead_where_they_must(void **state)
{
	int s;

	(void)state;
	for (s = PINLEASE_INIT; s < PINLEASE_CLOSED; s++) {
		assert_true(reaches(pl_lease_arrows, pl_lease_arrow_count, s, PINLEASE_CLOSED));
		assert_true(reaches(pl_lease_arrows, pl_lease_arrow_count, PINLEASE_INIT, s));
		assert_null(pl_lease_arrow(PINLEASE_CLOSED, (enum pinlease_state)s));
		assert_null(pl_lease_arrow((enum pinlease_state)s, (enum pinlease_state)s));
		assert_true(s == PINLEASE_INIT || !pl_lease_arrow((enum pinlease_state)s, PINLEASE_INIT));
	}
}

/* I1, I3: DMA that may be in flight is waited for and fenced before the guard is let go. */
static void no_way_around_the_fence(void **state)
{
	int s;

	(void)state;
	for (s = PINLEASE_INIT; s < LEASE_STATES; s++) {
		enum pinlease_state to = (enum pinlease_state)s;

		assert_int_equal(pl_lease_arrow(PINLEASE_ACTIVE, to) != NULL, s == PINLEASE_BREAKING);
		assert_int_equal(pl_lease_arrow(PINLEASE_BREAKING, to) != NULL, s == PINLEASE_FENCING);
		assert_int_equal(pl_lease_arrow(to, PINLEASE_REVOKED) != NULL, s == PINLEASE_FENCING);
		assert_int_equal(pl_lease_arrow(to, PINLEASE_LOST) != NULL, s == PINLEASE_FENCING);
	}
}

static void file_states_go_round(void **state)
{
	int a, b;

	(void)state;
	for (a = PL_FILE_HELD; a < FILE_STATES; a++)
		for (b = PL_FILE_HELD; b < FILE_STATES; b++)
			assert_true(reaches(pl_file_arrows, pl_file_arrow_count, a, b));
	/* Taken only when free: a guard that may be held still is never taken again. */
	for (a = PL_FILE_HELD; a < FILE_STATES; a++)
		assert_int_equal(pl_file_arrow((enum pl_file_state)a, PL_FILE_REARMING) != NULL,
				 a == PL_FILE_FREE);
}

static void arrows_are_unique_and_named(void **state)
{
	size_t i, j;

	(void)state;
	for (i = 0; i < pl_lease_arrow_count; i++) {
		const struct pl_arrow *a = &pl_lease_arrows[i];

		assert_string_equal(pl_lease_arrow((enum pinlease_state)a->from, (enum pinlease_state)a->to),
				    a->name);
		for (j = 0; j < i; j++)
			assert_false(pl_lease_arrows[j].from == a->from && pl_lease_arrows[j].to == a->to);
	}
	for (i = 0; i < pl_file_arrow_count; i++) {
		const struct pl_arrow *a = &pl_file_arrows[i];

		assert_string_equal(pl_file_arrow((enum pl_file_state)a->from, (enum pl_file_state)a->to),
				    a->name);
		for (j = 0; j < i; j++)
			assert_false(pl_file_arrows[j].from == a->from && pl_file_arrows[j].to == a->to);
	}
}

static void states_have_names(void **state)
{
	int a, b;

	(void)state;
	for (a = 0; a < LEASE_STATES; a++)
		for (b = 0; b <= LEASE_STATES; b++)
			assert_int_equal(strcmp(pl_lease_state_name((enum pinlease_state)a),
						pl_lease_state_name((enum pinlease_state)b)) == 0, a == b);
	for (a = 0; a < FILE_STATES; a++)
		for (b = 0; b <= FILE_STATES; b++)
			assert_int_equal(strcmp(pl_file_state_name((enum pl_file_state)a),
						pl_file_state_name((enum pl_file_state)b)) == 0, a == b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lease_states_lead_where_they_must),
		cmocka_unit_test(no_way_around_the_fence),
		cmocka_unit_test(file_states_go_round),
		cmocka_unit_test(arrows_are_unique_and_named),
		cmocka_unit_test(states_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
