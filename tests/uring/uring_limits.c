/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a process may have is used up, and by the kernel's own counts: descriptors, address
 * space, locked memory, queued signals. The limit is raised step by step, and at each step the
 * whole life of two leases is tried, one pinned and one staged: a call that cannot get what it
 * needs says so, with its reason, and nothing is left of it; a break is answered all the same.
 */
#include "input.h"
#include "leak.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define BLOCKS	 64u
#define LEN	 (BLOCKS * (uint64_t)UT_BLOCK)
#define STEPS	 64u	    /* of descriptors, at most */
#define AS_STEP	 (4u << 20) /* bytes, and pieces of it */
#define AS_FINE	 (64u << 10)
#define AS_STEPS 64u

static struct kt_fs fs;
static char path[2][KT_PATH_MAX];

/* Whatever is NULL could not be had. */
struct life {
	struct ut u;
	struct pinlease_file *file[2];
	struct pinlease *lease[2];
	struct pinlease_why why;
	const char *at; /* what failed */
};

static int failed(struct life *l, const char *at, int r)
{
	if (r)
		l->at = at;
	return r;
}

static int life_lease(struct life *l, unsigned int i)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .mode = i ? PINLEASE_MODE_STAGED : PINLEASE_MODE_PINNED,
				      .flags = PINLEASE_L_MANUAL,
				      .backend = pinlease_uring_backend(),
				      .backend_arg = l->u.ring };
	int r = failed(l, "file_open", pinlease_file_open(l->u.ctx, path[i], NULL, &l->why, &l->file[i]));

	return r ? r
		 : failed(l, "acquire", pinlease_acquire(l->file[i], 0, LEN, &opts, &l->why, &l->lease[i]));
}

/* 0, or what the first call that failed has said. */
static int life_begin(struct life *l)
{
	int r = failed(l, "ctx_new", pinlease_ctx_new(NULL, &l->u.ctx));

	if (!r)
		r = failed(l, "uring_new", pinlease_uring_new(8, 4, &l->u.ring));
	if (!r)
		r = life_lease(l, 0);
	if (!r)
		r = life_lease(l, 1);
	return r;
}

/* Both are broken by a process that has no limit, and come back as far as the limit lets them. */
static int life_break(struct life *l, unsigned int ms)
{
	int r = 0;

	for (unsigned int i = 0; i < 2 && !r; i++) {
		struct pinlease_event ev;

		assert_int_equal(kt_truncate_now(path[i], (off_t)LEN, ms), 0);
		assert_true(ut_event(&l->u, PINLEASE_EV_REVOKED, ms, &ev));
		assert_int_equal(ut_info(l->lease[i]).state, PINLEASE_REVOKED);
		do {
			r = pinlease_restore(l->lease[i], &l->why);
		} while (r == -EAGAIN && l->why.reason == PINLEASE_WHY_OPENER);
		failed(l, "restore", r);
	}
	return r;
}

/* What there is can be given back whatever the limit. */
static void life_end(struct life *l)
{
	for (unsigned int i = 0; i < 2; i++) {
		if (l->lease[i])
			assert_int_equal(pinlease_release(l->lease[i]), 0);
		if (l->file[i])
			assert_int_equal(pinlease_file_close(l->file[i]), 0);
	}
	if (l->u.ring)
		assert_int_equal(pinlease_uring_free(l->u.ring), 0);
	assert_int_equal(pinlease_ctx_free(l->u.ctx), 0);
}

static void limit_set(int what, rlim_t value)
{
	struct rlimit limit;

	assert_int_equal(getrlimit((__rlimit_resource_t)what, &limit), 0);
	limit.rlim_cur = value < limit.rlim_max ? value : limit.rlim_max;
	assert_int_equal(setrlimit((__rlimit_resource_t)what, &limit), 0);
}

/* One life under a limit, lifted when it is looked at what is left. */
static int life_under(int what, rlim_t limit, const int errs[2], unsigned int *by_reason)
{
	static struct leak_mark before, after;
	struct life l = { .at = "" };
	long had = kt_status_kib("Threads");
	int r;

	assert_int_equal(leak_take(&before), 0);
	limit_set(what, limit);
	r = life_begin(&l);
	if (!r)
		r = life_break(&l, UT_LONG);
	limit_set(what, RLIM_INFINITY);
	life_end(&l);
	assert_int_equal(leak_take(&after), 0);
	/* Stacks and arenas are kept by the C library for the next thread. */
	leak_files_only(&before);
	leak_files_only(&after);
	assert_true(leak_none(&before, &after));
	/* Who was joined is counted until the kernel has reaped it, a little later (release_task). */
	for (unsigned int ms = 0; kt_status_kib("Threads") > had && ms < UT_LONG; ms++)
		kt_sleep_ms(1);
	assert_int_equal(kt_status_kib("Threads"), had);
	if (r && r != errs[0] && r != errs[1])
		fail_msg("%s: %d", l.at, r);
	if (r && strcmp(l.at, "ctx_new") && strcmp(l.at, "uring_new")) {
		assert_int_not_equal(l.why.reason, PINLEASE_WHY_NONE);
		(*by_reason)++;
	}
	return r;
}

static rlim_t lowest_free_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	close(fd);
	return (rlim_t)fd;
}

static void descriptors(void **state)
{
	unsigned int n, refused = 0, reasons = 0;
	static const int errs[2] = { -EMFILE, -EMFILE };
	rlim_t from = lowest_free_fd();

	(void)state;
	for (n = 0; n < STEPS; n++) {
		if (!life_under(RLIMIT_NOFILE, from + n, errs, &reasons))
			break;
		refused++;
	}
	printf("%u descriptors more are needed; refused %u times, %u of them with a reason\n", n, refused,
	       reasons);
	assert_in_range(n, 4, STEPS - 1);
	assert_int_equal(refused, n);
	assert_in_range(reasons, 2, n);
}

static rlim_t address_space(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	assert_true(f && fscanf(f, "%lu", &pages) == 1);
	fclose(f);
	return pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* Up until all can be had, then down in small steps as long as a ctx can: what fails then is a lease. */
static void memory(void **state)
{
	/* pthread_create says EAGAIN for a stack that cannot be mapped. */
	static const int errs[2] = { -ENOMEM, -EAGAIN };
	unsigned int n, up, down, reasons = 0, before;
	rlim_t from;

	(void)state;
	if (KT_ASAN || KT_TSAN) {
		kt_note("a sanitizer that finds no room for what it keeps ends the process");
		return;
	}
	/* What the C library keeps is there from now on, and counted. */
	assert_int_equal(life_under(RLIMIT_AS, RLIM_INFINITY, errs, &reasons), 0);
	from = address_space();
	for (up = 0; up < AS_STEPS; up++)
		if (!life_under(RLIMIT_AS, from - 8 * AS_STEP + up * AS_STEP, errs, &reasons))
			break;
	assert_in_range(up, 1, AS_STEPS - 1);
	from += up * AS_STEP - 8 * AS_STEP;
	for (n = 1, down = 0; n <= AS_STEP / AS_FINE; n++) {
		before = reasons;
		down += life_under(RLIMIT_AS, from - n * AS_FINE, errs, &reasons) != 0;
		if (down && before == reasons && down > reasons)
			break;
	}
	printf("address space: refused %u times, %u of them with a reason\n", up + down, reasons);
	assert_in_range(reasons, 1, AS_STEPS);
}

/* Returned by who runs without privileges, in a process of its own. */
enum { UNPRIVILEGED_WRONG = -1000 };

struct locked_arg {
	char path[2][KT_PATH_MAX];
	struct locked {
		_Atomic uint32_t refused, restores;
		_Atomic bool held, broken;
	} * shared;
};

static int locked_wrong(const char *what, int r, uint32_t reason)
{
	printf("locked memory: %s: %d, \"%s\"\n", what, r, pinlease_reason_str(reason));
	return UNPRIVILEGED_WRONG;
}

/* Lowered under a lease that is held: it does not come back before it is raised again. */
static int locked_restore(struct life *l, const struct locked_arg *a)
{
	struct rlimit none = { 0, LEN * 8 }, enough = { LEN * 4, LEN * 8 };
	uint64_t until = kt_now() + UT_LONG * 1000000ull;
	int r;

	if (setrlimit(RLIMIT_MEMLOCK, &none))
		return -errno;
	a->shared->held = true;
	while (!a->shared->broken && kt_now() < until)
		kt_sleep_ms(1);
	do {
		r = pinlease_restore(l->lease[0], &l->why);
	} while (r == -EAGAIN);
	if (r != -ENOMEM || l->why.reason != PINLEASE_WHY_MEMLOCK)
		return locked_wrong("restore", r, l->why.reason);
	if (setrlimit(RLIMIT_MEMLOCK, &enough))
		return -errno;
	r = pinlease_restore(l->lease[0], &l->why);
	if (r)
		return locked_wrong("restore again", r, l->why.reason);
	a->shared->restores++;
	return 0;
}

/* From nothing to what both leases need; the ring's own memory is in it. */
static int locked_main(const void *arg)
{
	const struct locked_arg *a = arg;
	struct rlimit limit = { 0, LEN * 8 };
	int r = input_drop_privilege(LEN * 8);

	memcpy(path, a->path, sizeof(path));
	for (rlim_t bytes = 0; !r && bytes <= 4 * LEN; bytes += LEN / 4) {
		struct life l = { .at = "" };

		limit.rlim_cur = bytes;
		if (setrlimit(RLIMIT_MEMLOCK, &limit))
			return -errno;
		r = life_begin(&l);
		a->shared->refused += r != 0;
		if (r == -ENOMEM && (!strcmp(l.at, "uring_new") || l.why.reason == PINLEASE_WHY_MEMLOCK))
			r = 0;
		else if (r)
			r = locked_wrong(l.at, r, l.why.reason);
		else if (bytes == 4 * LEN)
			r = locked_restore(&l, a);
		life_end(&l);
	}
	return r;
}

static void locked_memory(void **state)
{
	struct locked_arg arg = { .shared = kt_shared(sizeof(*arg.shared)) };
	struct kt_call *call;

	(void)state;
	memcpy(arg.path, path, sizeof(path));
	call = kt_call_start(locked_main, &arg, sizeof(arg));
	assert_non_null(call);
	while (!arg.shared->held && !kt_call_done(call, 1))
		;
	assert_int_equal(kt_truncate_now(path[0], (off_t)LEN, UT_LONG), 0);
	arg.shared->broken = true;
	assert_true(kt_call_done(call, UT_LONG));
	assert_int_equal(call->ret, 0);
	kt_call_end(call);
	printf("locked memory: refused %u times, and one restore\n", arg.shared->refused);
	assert_in_range(arg.shared->refused, 4, 12);
	assert_int_equal(arg.shared->restores, 1);
}

/* No room for a single signal: the slow pass finds each break within 500 ms, and SIGIO kills nobody. */
static void signals(void **state)
{
	struct life l = { .at = "" };
	uint64_t start;

	(void)state;
	limit_set(RLIMIT_SIGPENDING, 0);
	assert_int_equal(life_begin(&l), 0);
	start = kt_now();
	assert_int_equal(life_break(&l, UT_LONG), 0);
	printf("no room for signals: two breaks one after the other took %.0f ms\n",
	       (double)(kt_now() - start) / 1e6);
	life_end(&l);
	limit_set(RLIMIT_SIGPENDING, RLIM_INFINITY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors),
		cmocka_unit_test(memory),
		cmocka_unit_test(locked_memory),
		cmocka_unit_test(signals),
	};

	/* What each thread takes of the address space is then the same in each life, whoever comes first. */
	mallopt(M_ARENA_MAX, 1);
	ut_begin_on(&fs, "tmpfs", 16);
	for (unsigned int i = 0; i < 2; i++)
		ut_file(path[i], fs.dir, i ? "staged" : "pinned", BLOCKS);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
