/* SPDX-License-Identifier: BSD-3-Clause */
/* A lease belongs to an open file description: what fork, exec, close and SIGKILL make of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

enum keeps { KEEPS_FD, KEEPS_MAPPING, KEEPS_NOTHING, EXECS };

struct owner_arg {
	char path[KT_PATH_MAX];
	enum keeps child;
	volatile pid_t *child_pid;
};

/* An owner with fd, mapping and lease, and a child that outlives it. */
static int own_and_fork(const void *arg)
{
	const struct owner_arg *a = arg;
	int fd = open(a->path, O_RDWR);
	void *map;
	pid_t pid;

	if (fd < 0)
		return -errno;
	map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || kt_lease_take(fd, F_WRLCK, SCENE_SIG))
		return -errno;
	if (a->child == KEEPS_NOTHING && madvise(map, SCENE_SIZE, MADV_DONTFORK))
		return -errno;
	pid = fork();
	if (!pid) {
		if (a->child != KEEPS_FD)
			close(fd);
		*a->child_pid = getpid();
		kt_sleep_ms(60000);
		_exit(0);
	}
	/* What it does not keep is gone before anybody is killed. */
	while (pid > 0 && !*a->child_pid)
		kt_sleep_ms(1);
	return pid < 0 ? -errno : 0;
}

static struct kt_call *owner_start(struct owner_arg *a, enum scene_fs which, enum keeps child)
{
	struct kt_call *owner;

	scene_file(which, a->path);
	a->child = child;
	a->child_pid = kt_shared(sizeof(pid_t));
	assert_non_null(a->child_pid);
	owner = kt_call_start(own_and_fork, a, sizeof(*a));
	assert_non_null(owner);
	assert_int_equal(kt_call_done(owner, SCENE_LONG), 1);
	assert_int_equal(owner->ret, 0);
	assert_int_equal(kt_open_now(a->path, O_RDONLY | O_NONBLOCK, SCENE_LONG), -EWOULDBLOCK);
	return owner;
}

/* Kill the owner, and then its child, with a truncate blocked on the lease: whose death lets it on? */
static void child_keeps(enum keeps child, bool lease_lives)
{
	struct owner_arg a;

	for_each_fs(which)
	{
		struct kt_call *owner = owner_start(&a, which, child);
		struct kt_call *breaker = kt_truncate(a.path, 0);

		assert_int_equal(kt_call_blocked(breaker, SCENE_MS), 1);
		kt_call_kill(owner);
		assert_int_equal(kt_call_exited(owner, 0), 1);
		if (lease_lives)
			assert_int_equal(kt_call_blocked(breaker, SCENE_MS), 1);
		else
			assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
		assert_int_equal(kill(*a.child_pid, SIGKILL), 0);
		assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
		assert_int_equal(breaker->ret, 0);
		kt_call_end(breaker);
		kt_call_end(owner);
	}
}

static void a_child_that_keeps_the_fd_keeps_the_lease(void **state)
{
	(void)state;
	child_keeps(KEEPS_FD, true);
}

static void a_child_that_keeps_only_the_mapping_keeps_the_lease(void **state)
{
	(void)state;
	child_keeps(KEEPS_MAPPING, true);
}

static void with_madv_dontfork_and_close_the_child_keeps_nothing(void **state)
{
	(void)state;
	child_keeps(KEEPS_NOTHING, false);
}

static void sigkill_of_a_sole_holder_frees_the_breaker_quickly(void **state)
{
	struct kt_hold_opts opts = {
		.flags = O_RDWR, .type = F_WRLCK, .map = SCENE_SIZE, .answer_ms = KT_NEVER
	};
	struct kt_holder *holder;
	struct kt_call *breaker;
	uint64_t worst = 0, killed, took;

	(void)state;
	for_each_fs(which)
	{
		for (int round = 0; round < 5; round++) {
			scene_file(which, opts.path);
			holder = kt_hold(&opts);
			assert_non_null(holder);
			assert_int_equal(holder->ret, 0);
			breaker = kt_truncate(opts.path, 0);
			assert_int_equal(kt_call_blocked(breaker, SCENE_MS), 1);
			holder_sees_a_break(holder);
			killed = kt_now();
			kt_hold_kill(holder);
			assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
			took = breaker->end_ns - killed;
			worst = took > worst ? took : worst;
			kt_call_end(breaker);
			kt_hold_end(holder);
		}
	}
	print_message("worst: %.2f ms\n", (double)worst / 1e6);
	assert_true(worst < SCENE_LONG * 1000000ull);
}

static void a_mapping_keeps_the_lease_after_close(void **state)
{
	struct kt_hold_opts opts = {
		.flags = O_RDWR, .type = F_WRLCK, .map = SCENE_SIZE, .answer_ms = KT_NEVER, .close_fd = true
	};
	struct kt_holder *holder;
	struct kt_call *breaker;

	(void)state;
	for_each_fs(which)
	{
		scene_file(which, opts.path);
		holder = kt_hold(&opts);
		assert_non_null(holder);
		assert_int_equal(holder->ret, 0);
		breaker = kt_truncate(opts.path, 0);
		assert_int_equal(kt_call_blocked(breaker, 50), 1);
		holder_sees_a_break(holder);
		assert_int_equal(holder->target, -EBADF);
		kt_hold_kill(holder);
		assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
		kt_call_end(breaker);
		kt_hold_end(holder);
	}
}

static void a_mapping_without_fd_that_is_unmapped_drops_the_lease(void **state)
{
	struct held h;

	(void)state;
	for_each_fs(which)
	{
		held_open(&h, which, F_WRLCK);
		close(h.fd);
		assert_int_equal(kt_open_now(h.path, O_RDONLY | O_NONBLOCK, SCENE_LONG), -EWOULDBLOCK);
		assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, NULL), 1);
		munmap(h.map, SCENE_SIZE);
		assert_true(kt_open_now(h.path, O_RDWR | O_NONBLOCK, SCENE_LONG) >= 0);
		unlink(h.path);
	}
}

struct exec_arg {
	char path[KT_PATH_MAX];
	char runs[KT_PATH_MAX]; /* made by the new program */
	int cloexec;
};

/* What exec closes is let go on the way to the new program's first instruction: so that must have run. */
static int lease_and_exec(const void *arg)
{
	const struct exec_arg *a = arg;
	int fd = open(a->path, O_RDWR | a->cloexec);
	sigset_t set;

	if (fd < 0 || kt_lease_take(fd, F_WRLCK, SCENE_SIG))
		return -EIO;
	sigemptyset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	execlp("sh", "sh", "-c", ": > \"$0\"; exec sleep 60", a->runs, (char *)NULL);
	return -errno;
}

static struct kt_call *exec_start(struct exec_arg *a, int cloexec)
{
	struct kt_call *call;

	scene_file(EXT4, a->path);
	snprintf(a->runs, sizeof(a->runs), "%.64s/runs", scene_dir(TMPFS));
	a->cloexec = cloexec;
	call = kt_call_start(lease_and_exec, a, sizeof(*a));
	assert_non_null(call);
	for (int ms = 0; ms < SCENE_LONG && access(a->runs, F_OK); ms++)
		kt_sleep_ms(1);
	assert_int_equal(unlink(a->runs), 0);
	return call;
}

static void a_leased_fd_that_survives_exec_kills_the_new_program(void **state)
{
	struct kt_call *call;
	struct exec_arg a;

	(void)state;
	call = exec_start(&a, 0);
	assert_int_equal(kt_open_now(a.path, O_RDWR | O_NONBLOCK, SCENE_LONG), -EWOULDBLOCK);
	assert_int_equal(kt_call_exited(call, SCENE_LONG), 1);
	assert_true(WIFSIGNALED(call->status));
	assert_int_equal(WTERMSIG(call->status), SCENE_SIG);
	kt_call_end(call);
}

static void with_o_cloexec_exec_drops_the_lease(void **state)
{
	struct kt_call *call;
	struct exec_arg a;

	(void)state;
	call = exec_start(&a, O_CLOEXEC);
	assert_true(kt_open_now(a.path, O_RDWR | O_NONBLOCK, SCENE_LONG) >= 0);
	assert_int_equal(kt_call_exited(call, 20), 0);
	kt_call_end(call);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_that_keeps_the_fd_keeps_the_lease),
		cmocka_unit_test(a_child_that_keeps_only_the_mapping_keeps_the_lease),
		cmocka_unit_test(with_madv_dontfork_and_close_the_child_keeps_nothing),
		cmocka_unit_test(sigkill_of_a_sole_holder_frees_the_breaker_quickly),
		cmocka_unit_test(a_mapping_keeps_the_lease_after_close),
		cmocka_unit_test(a_mapping_without_fd_that_is_unmapped_drops_the_lease),
		cmocka_unit_test(a_leased_fd_that_survives_exec_kills_the_new_program),
		cmocka_unit_test(with_o_cloexec_exec_drops_the_lease),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
