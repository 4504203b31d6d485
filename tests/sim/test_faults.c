/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Every call through the seams fails: first once, at each place where it is made, then for ever from
 * there on, with each errno that it may have, in every scene of the life of a lease. An application may
 * be told of the error; nothing is left behind, nobody is kept waiting, what was told to be in the file
 * is in it, and the judge sees nothing forbidden.
 *
 * EINTR is another matter: whoever is interrupted goes on, and the application never sees it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault_life.h"
#include "rounds.h"

#define MANY  400
#define ERRNO 7
#define RUNS  "%zu calls, %u kinds of errors, %u lives with one, %u with one that stays\n"

struct fault {
	const char *call;
	int err[ERRNO];		/* ends with 0 */
	/* For ever: time would have to have passed, or the provider keeps what only it could give back. */
	bool once;
	bool keeps;	/* for ever: what the provider was given; a guard is then the kernel's to take */
};

static const struct fault faults[] = {
	{ .call = "add_seals", .err = { -EPERM, -EBUSY, -EINVAL } },
	{ .call = "advise", .err = { -EFAULT, -EINVAL, -EHWPOISON, -ENOMEM, -EAGAIN } },
	{ .call = "alarm_new", .err = { -EAGAIN, -ENOMEM } },
	{ .call = "alloc", .err = { -ENOMEM } },
	{ .call = "allocate", .err = { -ENOSPC, -EOPNOTSUPP, -EDQUOT, -EIO, -EPERM, -EFBIG } },
	{ .call = "anchor_new", .err = { -ETOOMANYREFS, -EMFILE, -ENFILE, -ENOMEM } },
	{ .call = "cond_init", .err = { -ENOMEM, -EAGAIN } },
	{ .call = "create_cq", .err = { -ENOMEM, -EINVAL } },
	{ .call = "create_qp", .err = { -ENOMEM, -EINVAL, -EPERM } },
	{ .call = "datasync", .err = { -EIO, -ENOSPC, -EDQUOT, -EROFS } },
	{ .call = "dereg_mr", .err = { -EBUSY, -EINVAL, -EIO }, .keeps = true },
	{ .call = "destroy_cq", .err = { -EBUSY }, .once = true },
	{ .call = "destroy_qp", .err = { -EBUSY }, .once = true },
	{ .call = "dup", .err = { -EMFILE, -EBADF } },
	{ .call = "each_lease", .err = { -EACCES, -EMFILE } },
	{ .call = "each_mapping", .err = { -EACCES, -EMFILE } },
	{ .call = "each_number", .err = { -EACCES, -ENOENT, -EMFILE } },
	{ .call = "event_new", .err = { -EMFILE, -ENFILE, -ENOMEM } },
	{ .call = "get_flags", .err = { -EBADF } },
	{ .call = "get_lease", .err = { -EBADF } },
	{ .call = "get_seals", .err = { -EINVAL } },
	{ .call = "has_hole", .err = { -EIO, -EOPNOTSUPP, -ENOMEM } },
	{ .call = "map", .err = { -ENOMEM, -EAGAIN, -ENODEV, -EACCES, -EPERM } },
	{ .call = "map_sync", .err = { -EOPNOTSUPP, -ENOMEM } },
	{ .call = "modify_qp", .err = { -EINVAL, -ENOMEM, -ETIMEDOUT } },
	{ .call = "msync", .err = { -EIO, -ENOMEM, -EBUSY } },
	{ .call = "notify_add", .err = { -ENOSPC, -ENOMEM, -EACCES } },
	{ .call = "notify_new", .err = { -EMFILE, -ENOMEM } },
	{ .call = "notify_read", .err = { -EIO, -EAGAIN } },
	{ .call = "odp_caps", .err = { -EOPNOTSUPP, -ENOSYS } },
	{ .call = "open", .err = { -ENFILE, -EMFILE, -EACCES, -EPERM, -ENOENT, -ETXTBSY, -EINTR } },
	{ .call = "pmem_deep_flush", .err = { -EIO, -EOPNOTSUPP } },
	{ .call = "pmem_device", .err = { -ENOENT, -EACCES } },
	{ .call = "pmem_map", .err = { -ENOMEM, -EINVAL } },
	{ .call = "pmem_persist", .err = { -EIO } },
	{ .call = "pmem_copy", .err = { -EIO } },
	{ .call = "poll_cq", .err = { -EIO } },
	{ .call = "port_count", .err = { -EIO } },
	{ .call = "post_send", .err = { -ENOMEM, -EINVAL } },
	{ .call = "pread", .err = { -EIO, -ENOMEM } },
	{ .call = "pwrite", .err = { -EIO, -ENOSPC, -EDQUOT, -EPERM, -EFBIG } },
	{ .call = "query_port", .err = { -EINVAL } },
	{ .call = "read_text", .err = { -EACCES, -ENOENT, -EMFILE } },
	{ .call = "reg_mr", .err = { -EFAULT, -EOPNOTSUPP, -EINVAL, -EPERM, -ENOMEM, -EAGAIN } },
	{ .call = "same_description", .err = { -EPERM, -ENOSYS, -ESRCH } },
	{ .call = "scratch", .err = { -EMFILE, -ENOMEM, -ENOSYS } },
	{ .call = "set_lease", .err = { -EAGAIN, -EINVAL, -ENOLCK, -EACCES, -ENOMEM } },
	{ .call = "set_owner", .err = { -ESRCH, -EINVAL } },
	{ .call = "set_signal", .err = { -EINVAL } },
	{ .call = "signal_thread", .err = { -EAGAIN, -ESRCH } },
	{ .call = "stat", .err = { -EIO, -ESTALE } },
	{ .call = "stat_id", .err = { -EIO, -ESTALE } },
	{ .call = "stat_path", .err = { -ENOENT, -EACCES } },
	{ .call = "thread_new", .err = { -EAGAIN, -ENOMEM } },
	{ .call = "truncate", .err = { -EIO, -EFBIG, -EPERM } },
	{ .call = "wait_signal", .err = { -EAGAIN }, .once = true },
};
#define FAULTS (sizeof(faults) / sizeof(faults[0]))

/* Made once in a process, when the first ctx is. */
static const struct fault firsts[] = {
	{ .call = "at_fork", .err = { -ENOMEM } },
	{ .call = "key_new", .err = { -EAGAIN, -ENOMEM } },
	{ .call = "membarrier_register", .err = { -ENOSYS, -EPERM, -EINVAL } },
};
#define FIRSTS (sizeof(firsts) / sizeof(firsts[0]))

/*
 * What no fault is put into, and why; doc_seams knows by this that no call is left out: what is
 * in neither table must answer nothing at all.
 */
static const struct {
	const char *call, *why;
} unfailing[] = {
	{ "cached", "any error is a no: unit_filemap" },
	{ "close", "the number is free whatever it answers" },
	{ "cond_wait", "only ever says that time is over" },
	{ "device_guid", "no error" },
	{ "device_name", "no error" },
	{ "dup_over", "a forked child's: unit_forkguard" },
	{ "fs_is", "says yes or no" },
	{ "memlock_limit", "no error" },
	{ "page_size", "no error" },
	{ "pid", "no error" },
	{ "now", "no error" },
	{ "query_gid", "asked of RoCE ports only: datacheck" },
	{ "thread_id", "no error" },
	{ "unmap", "what is mapped stays so: unit_staged_free" },
};

/* Once through all of it; false: it was over before the nth call. */
static bool life_once(const struct fault_scene *scene, const struct fault *f, int err, unsigned int n,
		      unsigned int times)
{
	struct fault_life l = { .kept_out = f->keeps };
	unsigned int before = sim_faults();
	bool met;

	life_new(&l, scene);
	sim_fail(f->call, n, err, times);
	life_begin(&l);
	life_break(&l);
	life_release(&l);
	/* What stays goes before the end: nothing could be given back. */
	if (!times)
		sim_clear();
	life_end(&l);
	met = sim_faults() != before;
	sim_clear();
	/* So the data check's region stays, and its pages. */
	if (f->keeps && !times && scene->odp)
		sim_rebase();
	return met;
}

static bool life_checked(const struct fault_scene *scene, const struct fault *f, int err, unsigned int n,
			 unsigned int times)
{
	bool met = life_once(scene, f, err, n, times);

	sim_check();
	sim_check_bytes();
	return met;
}

/* Every place in turn; answers how many there were. */
static unsigned int through(const struct fault_scene *scene, const struct fault *f, int err,
			    unsigned int times)
{
	unsigned int n;

	for (n = 1; life_checked(scene, f, err, n, times); n++)
		assert_in_range(n, 1, MANY);
	return n - 1;
}

/* All scenes with this one; answers how many lives it met. */
static unsigned int everywhere(const struct fault *f, int err, unsigned int times)
{
	unsigned int lives = 0;
	size_t i;

	for (i = 0; i < fault_scene_count; i++)
		lives += through(&fault_scenes[i], f, err, times);
	return lives;
}

static void test_errors(struct world *w)
{
	unsigned int kinds = 0, once = 0, staying = 0, never = 0, met;
	size_t i, k, errnos = pl_rounds(PL_R_fault_errnos);

	(void)w;
	assert_in_range(errnos, 1, ERRNO);
	alarm(300 * (unsigned int)errnos);
	for (i = 0; i < FAULTS; i++) {
		for (k = 0; k < errnos && faults[i].err[k]; k++, kinds++) {
			met = everywhere(&faults[i], faults[i].err[k], 1);
			if (!met)
				print_error("%s is never called\n", faults[i].call);
			never += !met;
			once += met;
			if (!faults[i].once)
				staying += everywhere(&faults[i], faults[i].err[k], 0);
		}
	}
	assert_int_equal(never, 0);
	print_message(RUNS, FAULTS, kinds, once, staying);
}

/* At every place where it may happen, so many times in a row. */
static unsigned int interrupted(const struct fault_scene *scene, unsigned int times)
{
	struct fault_life l;
	unsigned int n = 0, before;

	do {
		before = sim_faults();
		l = (struct fault_life){ .quiet = true };
		life_new(&l, scene);
		sim_fail_class(SIM_BLOCKING, ++n, -EINTR, times);
		life_begin(&l);
		life_break(&l);
		life_release(&l);
		life_end(&l);
		before = sim_faults() - before;
		sim_clear();
		sim_check();
		assert_in_range(n, 1, MANY);
	} while (before);
	return n - 1;
}

static void test_interrupted(struct world *w)
{
	unsigned int times;
	size_t i;

	(void)w;
	for (i = 0; i < fault_scene_count; i++)
		for (times = 1; times <= 7; times += 3)
			assert_in_range(interrupted(&fault_scenes[i], times), 1, MANY);
}

/* A call is in one of the tables. */
static void test_tables(struct world *w)
{
	size_t i, k;

	(void)w;
	for (i = 0; i < sizeof(unfailing) / sizeof(unfailing[0]); i++) {
		assert_non_null(unfailing[i].why);
		for (k = 0; k < FAULTS; k++)
			assert_string_not_equal(unfailing[i].call, faults[k].call);
	}
}

/* A scene that is refused from the start shows nothing about faults. */
static void test_scenes(struct world *w)
{
	struct fault_life l;
	size_t i;

	(void)w;
	for (i = 0; i < fault_scene_count; i++) {
		l = (struct fault_life){ .quiet = true };
		life_new(&l, &fault_scenes[i]);
		life_begin(&l);
		assert_true(l.lease && (fault_scenes[i].acts & ACT_READS || (l.durable && l.written)));
		life_break(&l);
		life_release(&l);
		life_end(&l);
		sim_check();
	}
}

/* A process that has made no ctx yet; afterwards it can, and what it keeps for ever is made once. */
static void first_once(const struct fault *f, int err)
{
	struct fault_life l = { .quiet = true };

	sim_begin();
	assert_true(life_once(&fault_scenes[0], f, err, 1, 1));
	life_new(&l, &fault_scenes[0]);
	life_begin(&l);
	life_break(&l);
	life_release(&l);
	life_end(&l);
	sim_rebase();
	assert_false(life_checked(&fault_scenes[0], f, err, 1, 1));
	sim_end();
}

/* Each in a child of its own, before this process has made any. */
static int firsts_fail(void)
{
	unsigned int kinds = 0;
	int status = 0;
	size_t i, k;
	pid_t pid;

	fflush(stdout);
	for (i = 0; i < FIRSTS; i++) {
		for (k = 0; firsts[i].err[k] && !status; k++, kinds++) {
			pid = fork();
			if (!pid) {
				first_once(&firsts[i], firsts[i].err[k]);
				exit(0);
			}
			if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
				print_error("%s, %d: status %#x\n", firsts[i].call, firsts[i].err[k], status);
		}
	}
	print_message("%u kinds of errors when the first ctx is made\n", kinds);
	return status;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_tables),
		world_test(test_scenes),
		world_test(test_interrupted),
		world_test(test_errors),
	};

	if (firsts_fail())
		return 1;
	return cmocka_run_group_tests(tests, world_group, NULL);
}
