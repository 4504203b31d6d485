/* SPDX-License-Identifier: BSD-3-Clause */
/* Who gets which message. */
#include "log.h"
#include "unit.h"

static struct {
	int level, calls;
	char text[512];
} got;

static void callback(void *arg, int level, const char *msg)
{
	assert_ptr_equal(arg, &got);
	got.level = level;
	got.calls++;
	snprintf(got.text, sizeof(got.text), "%s", msg);
}

static void the_callback_gets_all(void **state)
{
	struct pl_log log;

	(void)state;
	/* The environment does not take the application's messages away. */
	setenv("PINLEASE_LOG", "7", 1);
	pl_log_init(&log, callback, &got);
	pl_log_write(&log, 7, "%s %d", "number", 42);
	assert_string_equal(got.text, "number 42");
	assert_int_equal(got.level, 7);
	pl_log_write(&log, 3, "x");
	assert_int_equal(got.calls, 2);
}

static void long_ones_are_cut(void **state)
{
	struct pl_log log;
	char longer[1000];

	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	pl_log_init(&log, callback, &got);
	pl_log_write(&log, 4, "%s", longer);
	assert_true(strlen(got.text) > 100 && strlen(got.text) < sizeof(longer) - 1);
	assert_int_equal(strncmp(got.text, longer, strlen(got.text)), 0);
}

/* What standard error gets with PINLEASE_LOG set so, of an error, a warning and a debug message. */
static void stderr_with(const char *value, char *text, size_t cap)
{
	int out = memfd_create("stderr", 0), saved = dup(2);
	struct pl_log log;
	ssize_t n;

	assert_true(out >= 0 && saved >= 0);
	if (value)
		setenv("PINLEASE_LOG", value, 1);
	else
		unsetenv("PINLEASE_LOG");
	pl_log_init(&log, NULL, NULL);
	dup2(out, 2);
	pl_log_write(&log, 3, "an error");
	pl_log_write(&log, 4, "a warning");
	pl_log_write(&log, 7, "a detail");
	dup2(saved, 2);
	n = pread(out, text, cap - 1, 0);
	assert_true(n >= 0);
	text[n] = '\0';
	close(out);
	close(saved);
}

static void the_environment_chooses(void **state)
{
	static const char *const none[] = { NULL, "", "8", "x", "44", "-1" };
	char text[512];
	size_t i;

	(void)state;
	for (i = 0; i < UNIT_COUNT(none); i++) {
		stderr_with(none[i], text, sizeof(text));
		assert_string_equal(text, "");
	}
	stderr_with("4", text, sizeof(text));
	assert_string_equal(text, "libpinlease[3]: an error\nlibpinlease[4]: a warning\n");
	stderr_with("7", text, sizeof(text));
	assert_non_null(strstr(text, "libpinlease[7]: a detail\n"));
	stderr_with("0", text, sizeof(text));
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_callback_gets_all),
		cmocka_unit_test(long_ones_are_cut),
		cmocka_unit_test(the_environment_chooses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
