/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pinleasectl, whole, over a library that says what the input says: arguments, file names and
 * reasons of all kinds. With --json what comes out has to be JSON, otherwise text that a terminal
 * shows and does not obey.
 *
 * An input: the arguments, each ended by a nought, an empty one ends them; then what the
 * library answers.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>

#include "ctl.h"
#include "fuzz.h"
#include "json_check.h"

#define ARGS 16

int ctl_main(int argc, char **argv);

static struct fuzz_input answers;
static unsigned int events;
static int leaked; /* a descriptor that the end of the program would have closed, or -1 */
static struct {
	char *text;
	size_t size;
} out, err;

/* The library. Its handles are never looked into. */

static int some_error(void)
{
	uint8_t b = fuzz_byte(&answers);

	return b & 1 ? -(int)(1 + (b >> 1) % 133) : 0;
}

static void some_why(struct pinlease_why *why)
{
	*why = (struct pinlease_why){ .reason = fuzz_byte(&answers),
				      .sys_errno = fuzz_byte(&answers) % 134,
				      .mode = fuzz_byte(&answers),
				      .guard = fuzz_byte(&answers),
				      .pid = (int32_t)fuzz_int(&answers, 2) % 3 };
}

int pinlease_ctx_new(const struct pinlease_ctx_opts *opts, struct pinlease_ctx **ctx)
{
	(void)opts;
	*ctx = (void *)&answers;
	return some_error();
}

int pinlease_ctx_free(struct pinlease_ctx *ctx)
{
	(void)ctx;
	return 0;
}

int pinlease_ctx_fd(const struct pinlease_ctx *ctx)
{
	(void)ctx;
	return -1;
}

/* When there are no more, the user ends the program. */
int pinlease_ctx_next_event(struct pinlease_ctx *ctx, struct pinlease_event *ev)
{
	(void)ctx;
	if (!events--) {
		raise(SIGTERM);
		events = 0;
		return 0;
	}
	ev->type = fuzz_byte(&answers);
	ev->cause = fuzz_byte(&answers);
	ev->err = some_error();
	ev->off = fuzz_int(&answers, 8);
	ev->deadline_ns = fuzz_int(&answers, 8);
	return 1;
}

int pinlease_file_open(struct pinlease_ctx *ctx, const char *path, const struct pinlease_file_opts *opts,
		       struct pinlease_why *why, struct pinlease_file **file)
{
	int r = some_error();

	(void)ctx;
	fuzz_require(path && opts->size == sizeof(*opts) && opts->guard <= PINLEASE_GUARD_NONE);
	*file = (void *)&answers;
	if (r)
		some_why(why);
	return r;
}

int pinlease_file_close(struct pinlease_file *file)
{
	(void)file;
	return 0;
}

int pinlease_acquire(struct pinlease_file *file, uint64_t off, uint64_t len, const struct pinlease_opts *opts,
		     struct pinlease_why *why, struct pinlease **lease)
{
	int r = some_error();

	(void)file;
	fuzz_require(off <= INT64_MAX && len <= INT64_MAX && opts->mode <= PINLEASE_MODE_STAGED);
	*lease = (void *)&answers;
	if (r)
		some_why(why);
	return r;
}

int pinlease_release(struct pinlease *lease)
{
	(void)lease;
	return some_error();
}

int pinlease_lease_info(struct pinlease *lease, struct pinlease_lease_info *info)
{
	(void)lease;
	info->guard = fuzz_byte(&answers);
	info->mode = fuzz_byte(&answers);
	info->mode_reason = fuzz_byte(&answers);
	info->len = fuzz_int(&answers, 8);
	return 0;
}

static void some_auto(struct pinlease_probe_auto *a, uint32_t access)
{
	a->access = access;
	a->err = some_error();
	a->guard = 1 + fuzz_byte(&answers) % 4;
	a->mode = 1 + fuzz_byte(&answers) % 3;
	a->mode_reason = fuzz_byte(&answers);
	some_why(&a->why);
}

/* Every cell is answered, as the library's are. */
int pinlease_probe(struct pinlease_ctx *ctx, const char *path, const struct pinlease_probe_opts *opts,
		   struct pinlease_why *why, struct pinlease_probe_result *result)
{
	struct pinlease_probe_cell *c;
	int r = some_error();

	(void)ctx;
	fuzz_require(path && opts->off <= INT64_MAX && opts->len <= INT64_MAX);
	some_why(why);
	if (r)
		return r;
	for (result->count = 0; result->count < PINLEASE_PROBE_CELLS; result->count++) {
		c = &result->cell[result->count];
		c->guard = 1 + result->count / 6;
		c->mode = 1 + result->count / 2 % 3;
		c->access = 1 + result->count % 2;
		c->err = some_error();
		some_why(&c->why);
	}
	some_auto(&result->auto_read, PINLEASE_READ);
	some_auto(&result->auto_write, PINLEASE_WRITE);
	result->odp_err = some_error();
	return 0;
}

const char *pinlease_version(void)
{
	return "0";
}

/* Devices have names that can be shown. */
int ctl_device_open(const char *name, struct ctl_device *device)
{
	const char *c;
	int r = some_error();

	for (c = name; c && *c; c++)
		if (*c < '!' || *c > '~')
			r = -ENODEV;

	*device = (struct ctl_device){ .name = name };
	if (!r)
		leaked = -1;
	return r;
}

void ctl_device_close(struct ctl_device *device)
{
	(void)device;
}

/* It looks at the machine, not at its input; and no program is run here. */
int ctl_doctor(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return CTL_OK;
}

int __real_signalfd(int fd, const sigset_t *set, int flags);
int __wrap_signalfd(int fd, const sigset_t *set, int flags);
int __wrap_signalfd(int fd, const sigset_t *set, int flags)
{
	leaked = __real_signalfd(fd, set, flags);
	return leaked;
}

int __wrap_execvp(const char *file, char *const argv[]);
int __wrap_execvp(const char *file, char *const argv[])
{
	fuzz_require(file == argv[0]);
	errno = ENOENT;
	return -1;
}

/* Complete strings of what a terminal shows: UTF-8, no control characters but the end of a line. */
static void shown(const char *text, size_t size)
{
	const unsigned char *s = (const unsigned char *)text, *end = s + size;
	unsigned int n;

	for (; s < end; s += n) {
		n = ctl_utf8_len(s);
		fuzz_require(n && n <= (size_t)(end - s));
		fuzz_require(*s == '\n' || (*s >= 0x20 && *s != 0x7f));
		fuzz_require(*s != 0xc2 || s[1] >= 0xa0);
	}
}

static void judge(int argc, char **argv, int status)
{
	bool json = false, hold = argc > 1 && !strcmp(argv[1], "hold");
	int i;

	/* --version and --help look at nothing behind them, and are for people. */
	for (i = 2; i < argc && argv[1][0] != '-' && strcmp(argv[i], "--"); i++)
		json |= !strcmp(argv[i], "--json");
	fuzz_require(status >= 0 && status <= 127);
	/* What getopt says of an option is the C library's, and the arguments are the caller's own. */
	if (status != CTL_USAGE)
		shown(err.text, err.size);
	shown(out.text, out.size);
	if (json && out.size)
		fuzz_require(hold ? json_check_lines(out.text, out.size) : json_check(out.text, out.size));
}

static void run(int argc, char **argv)
{
	FILE *was_out = stdout, *was_err = stderr;
	sigset_t term;
	int status;

	stdout = open_memstream(&out.text, &out.size);
	stderr = open_memstream(&err.text, &err.size);
	fuzz_require(stdout && stderr);
	optind = 0;
	status = ctl_main(argc, argv);
	fclose(stdout);
	fclose(stderr);
	stdout = was_out;
	stderr = was_err;
	/* The program would have ended here: what is pending, blocked and open is taken back. */
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	while (sigtimedwait(&term, NULL, &(struct timespec){ 0 }) == SIGTERM)
		;
	judge(argc, argv, status);
	free(out.text);
	free(err.text);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	/* run puts a library into the environment of the program, which is none here. */
	setenv("LD_PRELOAD", "", 1);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static char program[] = "pinleasectl";
	char *copy = malloc(len + 2), *argv[ARGS + 2] = { program };
	size_t at = 0;
	int argc = 1;

	fuzz_require(copy);
	memcpy(copy, data, len);
	copy[len] = copy[len + 1] = '\0';
	while (argc <= ARGS && at < len && copy[at]) {
		argv[argc++] = copy + at;
		at += strlen(copy + at) + 1;
	}
	answers = (struct fuzz_input){ .at = data + (at < len ? at : len), .end = data + len };
	events = fuzz_byte(&answers) % 8;
	leaked = -1;
	run(argc, argv);
	if (leaked >= 0)
		close(leaked);
	free(copy);
	return 0;
}
