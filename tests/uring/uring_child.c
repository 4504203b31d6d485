/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A forked child: every call answers -ECHILD, every free only frees memory, in any
 * order, and the parent does not notice. The child says which call was the first that
 * did not hold by its exit status.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct kt_fs fs;
static struct ut u;
static char path[KT_PATH_MAX], told_path[KT_PATH_MAX];
static struct pinlease_file *file, *told_file;
static struct pinlease *lease, *told;
static int leased_fd;

static int open_again(void)
{
	struct pinlease_file *out = NULL;

	return pinlease_file_open(u.ctx, path, NULL, NULL, &out);
}

static int attach_again(void)
{
	struct pinlease_file *out = NULL;

	return pinlease_file_attach(u.ctx, 0, NULL, NULL, &out);
}

static int acquire_again(void)
{
	struct pinlease *out = NULL;

	return pinlease_acquire(file, 0, UT_BLOCK, NULL, NULL, &out);
}

static int truncate_file(void)
{
	return pinlease_file_truncate(file, 0);
}

static int allocate_file(void)
{
	return pinlease_file_allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, UT_BLOCK);
}

static int next_event(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	return pinlease_ctx_next_event(u.ctx, &ev);
}

static int event_fd(void)
{
	return pinlease_ctx_fd(u.ctx);
}

static int restore(void)
{
	return pinlease_restore(lease, NULL);
}

static int mr_add(void)
{
	uint32_t index;

	return pinlease_mr_add(lease, (void *)8, 0, &index);
}

static int view(void)
{
	struct pinlease_view out = { .size = sizeof(out) };

	return pinlease_view_get(lease, 0, &out);
}

static int info(void)
{
	struct pinlease_lease_info out = { .size = sizeof(out) };

	return pinlease_lease_info(lease, &out);
}

static int ack(void)
{
	return pinlease_ack(lease, 1);
}

static int begin(void)
{
	uint32_t gen;
	int ret = pinlease_dma_begin(lease, 1, &gen);

	pinlease_dma_end(lease, 1, 1);
	return ret;
}

static int begin_staged(void)
{
	uint32_t gen;
	int ret = pinlease_dma_begin(told, 1, &gen);

	pinlease_dma_end(told, 1, 1);
	return ret;
}

static int mark(void)
{
	return pinlease_mark_dirty(told, 0, UT_BLOCK);
}

static int sync_lease(void)
{
	return pinlease_sync(told, 0, 0, 0);
}

static int save(void)
{
	return pinlease_save(told, 1);
}

static int stats(void)
{
	struct pinlease_ctx_stats out = { .size = sizeof(out) };

	return pinlease_ctx_stats(u.ctx, &out);
}

static int info_of_file(void)
{
	struct pinlease_file_info out = { .size = sizeof(out) };

	return pinlease_file_info(file, &out);
}

static int probe(void)
{
	struct pinlease_probe_result out = { .size = sizeof(out) };

	return pinlease_probe(u.ctx, told_path, NULL, NULL, &out);
}

static int probe_fd(void)
{
	struct pinlease_probe_result out = { .size = sizeof(out) };

	return pinlease_probe_fd(u.ctx, 0, NULL, NULL, &out);
}

static int (*const calls[])(void) = {
	open_again, attach_again, acquire_again, truncate_file, allocate_file, next_event, event_fd,
	restore,    mr_add,	  view,		 info,		ack,	       begin,	   begin_staged,
	mark,	    sync_lease,	  save,		 stats,		info_of_file,  probe,	   probe_fd,
};

#define CALLS (int)(sizeof(calls) / sizeof(calls[0]))

/* 0, or the number of the first call that does not answer -ECHILD, from 1. */
static int child_calls(void)
{
	for (int i = 0; i < CALLS; i++)
		if (calls[i]() != -ECHILD)
			return i + 1;
	return 0;
}

/* From the inside out, or the other way round: none may look into what is freed already. */
static int child_frees(bool inside_out)
{
	int ret;

	if (inside_out) {
		ret = pinlease_release(lease) | pinlease_release(told);
		ret |= pinlease_file_close(file) | pinlease_file_close(told_file);
		ret |= pinlease_uring_free(u.ring) | pinlease_ctx_free(u.ctx);
	} else {
		ret = pinlease_ctx_free(u.ctx) | pinlease_uring_free(u.ring);
		ret |= pinlease_file_close(told_file) | pinlease_file_close(file);
		ret |= pinlease_release(told) | pinlease_release(lease);
	}
	return ret ? CALLS + 2 : 0;
}

static int child_wait(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* The leased fd is closed by the fork handler: a child must not hold the guard for a parent that dies. */
static int child_has_nothing(void)
{
	return fcntl(leased_fd, F_GETFD) < 0 && errno == EBADF ? child_calls() : CALLS + 1;
}

static int run_inside_out(void)
{
	int ret = child_has_nothing();

	return ret ? ret : child_frees(true);
}

static int run_outside_in(void)
{
	int ret = child_has_nothing();

	return ret ? ret : child_frees(false);
}

/* A child of a child: what the first made for itself is not the second's either. */
static int run_grandchild(void)
{
	pid_t pid = fork();
	int ret;

	if (!pid) {
		ret = child_calls();
		_exit(ret ? ret : child_frees(true));
	}
	return child_wait(pid);
}

/*
 * The child's own lease gives this thread counters again, perhaps in the very chunk in
 * which the parent's lease has its slot: that one is refused all the same.
 */
static int run_own_lease(void)
{
	struct pinlease_ctx_opts ctx_opts = { .size = sizeof(ctx_opts) };
	struct pinlease_ctx *ctx = NULL;
	struct pinlease_file *own_file = NULL;
	struct pinlease *own = NULL;
	char own_path[KT_PATH_MAX + 8];
	uint32_t gen = 0;
	int ret;

	snprintf(own_path, sizeof(own_path), "%s/own", fs.dir);
	ret = pinlease_ctx_new(&ctx_opts, &ctx);
	ret = ret ? ret : pinlease_file_open(ctx, own_path, NULL, NULL, &own_file);
	ret = ret ? ret : pinlease_acquire(own_file, 0, UT_BLOCK, NULL, NULL, &own);
	ret = ret ? ret : pinlease_dma_begin(own, 1, &gen);
	if (ret)
		return CALLS + 3;
	ret = child_calls();
	if (!ret)
		ret = run_grandchild();
	pinlease_dma_end(own, 1, gen);
	if (!ret && (pinlease_release(own) || pinlease_file_close(own_file) || pinlease_ctx_free(ctx)))
		ret = CALLS + 4;
	return ret;
}

/* In the child of a thread that has counters, with an operation in flight that the child "ends". */
static void child_does(int (*run)(void))
{
	struct pinlease_lease_info before, after;
	struct pinlease_event ev;
	uint32_t gen;
	pid_t pid;

	assert_int_equal(pinlease_dma_begin(told, 1, &gen), 0);
	pinlease_dma_end(told, 1, gen);
	assert_int_equal(pinlease_dma_begin(lease, 1, &gen), 0);
	before = ut_info(lease);
	pid = fork();
	if (!pid)
		_exit(run());
	assert_int_equal(child_wait(pid), 0);
	after = ut_info(lease);
	assert_memory_equal(&before, &after, sizeof(before));
	assert_int_equal(after.in_flight, 1);
	pinlease_dma_end(lease, 1, gen);
	/* The parent's break goes on as if nothing had been. */
	assert_int_equal(kt_truncate_now(path, UT_LEN, UT_LONG), 0);
	assert_true(ut_event(&u, PINLEASE_EV_REVOKED, UT_LONG, &ev));
	assert_int_equal(ev.in_flight, 0);
	ut_restore(lease);
	assert_int_equal(ut_info(lease).state, PINLEASE_ACTIVE);
}

static void freed_from_the_inside_out(void **state)
{
	(void)state;
	child_does(run_inside_out);
}

static void freed_from_the_outside_in(void **state)
{
	(void)state;
	child_does(run_outside_in);
}

static void child_of_a_child(void **state)
{
	(void)state;
	child_does(run_grandchild);
}

static void child_with_leases_of_its_own(void **state)
{
	(void)state;
	if (KT_TSAN) {
		kt_note("ThreadSanitizer knows no child of a process with threads that starts threads");
		return;
	}
	child_does(run_own_lease);
}

/* The fd that path is leased through: the newest one that is path. */
static int find_leased_fd(void)
{
	char link[64], target[KT_PATH_MAX];

	for (int fd = 3; fd < 256; fd++) {
		ssize_t len;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		len = readlink(link, target, sizeof(target) - 1);
		target[len < 0 ? 0 : len] = 0;
		if (!strcmp(target, path))
			return fd;
	}
	return -1;
}

static int setup(void **state)
{
	char own_path[KT_PATH_MAX];

	(void)state;
	ut_start(&u, 8, 8);
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	ut_file(told_path, fs.dir, "told", UT_BLOCKS);
	ut_file(own_path, fs.dir, "own", 1);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	leased_fd = find_leased_fd();
	assert_true(leased_fd >= 0);
	assert_int_equal(fcntl(leased_fd, F_GETLEASE), F_WRLCK);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	told_file = ut_open(&u, told_path, PINLEASE_WRITE, 0);
	told = ut_lease(&u, told_file, UT_LEN, PINLEASE_L_DIRTY_TOLD, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ut_drop(lease, file);
	ut_drop(told, told_file);
	ut_stop(&u);
	return 0;
}

#define CHILD_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CHILD_TEST(freed_from_the_inside_out),
		CHILD_TEST(freed_from_the_outside_in),
		CHILD_TEST(child_of_a_child),
		CHILD_TEST(child_with_leases_of_its_own),
	};

	ut_begin_on(&fs, "tmpfs", 16);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
