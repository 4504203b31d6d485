/* SPDX-License-Identifier: BSD-3-Clause */
/* Every reason has a sentence that reads well behind a colon. */
#include <ctype.h>
#include <pinlease.h>

#include "unit.h"

static void every_reason_has_its_own_sentence(void **state)
{
	uint32_t a, b;

	(void)state;
	for (a = 0; a < PINLEASE_WHY_LAST; a++) {
		const char *s = pinlease_reason_str(a);
		size_t len = strlen(s);

		assert_true(len > 10 && len < 120);
		assert_true(!isspace(s[0]) && !isspace(s[len - 1]) && !strchr(".,:;!", s[len - 1]));
		assert_string_not_equal(s, "unknown reason");
		for (b = 0; b < a; b++)
			assert_string_not_equal(s, pinlease_reason_str(b));
	}
}

static void others_are_unknown(void **state)
{
	(void)state;
	assert_string_equal(pinlease_reason_str(PINLEASE_WHY_LAST), "unknown reason");
	assert_string_equal(pinlease_reason_str(UINT32_MAX), "unknown reason");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_reason_has_its_own_sentence),
		cmocka_unit_test(others_are_unknown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
