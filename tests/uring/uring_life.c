/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What becomes of leases when their owner forks, spawns, execs, exits, is stopped or killed:
 * no opener is stuck, no lease stays behind, no signal kills anybody, and the signals of the
 * application are its own.
 */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOON	   UT_LONG /* lease-break-time is 45 s, so who waits for that is not soon */
#define DEADLINE   60000u /* an owner that waits for this one holds the opener up for good */
#define BREAK_TIME 2u	  /* s, where the kernel's patience is what is tested */
#define MS	   1000000ull
#define SLEEP	   "/bin/sleep"

extern char **environ;

/* What owner and test tell each other. */
struct shared {
	sem_t ready, go;
	_Atomic int error;		/* the owner's, of setting up */
	_Atomic pid_t child;
	_Atomic uint64_t done;		/* requests that completed */
	_Atomic uint32_t events;	/* a bit for each type seen */
};

struct life {
	struct shared *shared;
	int (*act)(struct shared *s);	/* in the owner, once it holds the lease */
	bool never_end;			/* a begin that has no end */
	char path[KT_PATH_MAX];
};

static struct kt_fs fs;
static struct shared *shared;

/* The owner's process */

struct owner {
	struct ut u;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct shared *shared;
	int source;
};

static void *traffic(void *arg)
{
	struct owner *o = arg;
	struct pinlease_uring_completion c = { .size = sizeof(c) };

	for (;;) {
		if (pinlease_uring_read(o->u.ring, o->lease, 0, UT_BLOCK, o->source, 0, 0))
			kt_sleep_ms(1);
		else if (pinlease_uring_next(o->u.ring, &c, (int)UT_LONG) == 1)
			atomic_fetch_add(&o->shared->done, c.res == (int)UT_BLOCK);
	}
	return NULL;
}

static void *note_events(void *arg)
{
	struct owner *o = arg;
	struct pinlease_event ev = { .size = sizeof(ev) };

	for (;;) {
		while (pinlease_ctx_next_event(o->u.ctx, &ev) == 1)
			atomic_fetch_or(&o->shared->events, 1u << ev.type);
		kt_sleep_ms(1);
	}
	return NULL;
}

static int owner_set_up(struct owner *o, const struct life *life)
{
	struct pinlease_ctx_opts ctx_opts = { .size = sizeof(ctx_opts) };
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .deadline_ms = life->never_end ? DEADLINE : 0,
				      .backend = pinlease_uring_backend() };
	pthread_t thread;
	uint32_t gen;
	int r = pinlease_ctx_new(&ctx_opts, &o->u.ctx);

	if (!r)
		r = pinlease_uring_new(8, 2, &o->u.ring);
	if (!r)
		r = pinlease_file_open(o->u.ctx, life->path, NULL, NULL, &o->file);
	opts.backend_arg = o->u.ring;
	if (!r)
		r = pinlease_acquire(o->file, 0, UT_LEN, &opts, NULL, &o->lease);
	o->source = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	if (!r && life->never_end)
		r = pinlease_dma_begin(o->lease, 1, &gen);
	if (!r)
		r = -pthread_create(&thread, NULL, traffic, o);
	if (!r)
		r = -pthread_create(&thread, NULL, note_events, o);
	return r;
}

static int owner(const void *arg)
{
	const struct life *life = arg;
	struct owner *o = calloc(1, sizeof(*o));
	int r;

	o->shared = life->shared;
	r = owner_set_up(o, life);
	for (int i = 0; !r && !atomic_load(&o->shared->done) && i < (int)UT_LONG; i++)
		kt_sleep_ms(1);
	if (!r && life->act && !life->never_end)
		r = life->act(o->shared);
	atomic_store(&o->shared->error, r);
	sem_post(&o->shared->ready);
	if (!r && life->act && life->never_end) {
		sem_wait(&o->shared->go);
		life->act(o->shared);
	}
	kt_sleep_ms(600000);
	return 0;
}

/* The test's side */

static struct kt_call *owner_start(struct life *life)
{
	struct kt_call *own;

	atomic_store(&shared->done, 0);
	atomic_store(&shared->events, 0);
	atomic_store(&shared->child, 0);
	life->shared = shared;
	ut_file(life->path, fs.dir, "f", UT_BLOCKS);
	own = kt_call_start(owner, life, sizeof(*life));
	assert_non_null(own);
	assert_int_equal(sem_wait(&shared->ready), 0);
	assert_int_equal(atomic_load(&shared->error), 0);
	assert_true(atomic_load(&shared->done) > 0);
	assert_true(ut_leased(life->path));
	return own;
}

static void nothing_left(const struct life *life)
{
	assert_int_equal(kt_truncate_now(life->path, 0, SOON), 0);
	assert_false(ut_leased(life->path));
}

static int into_sleep(void)
{
	return execl(SLEEP, SLEEP, "600", (char *)NULL);
}

static int by_fork(struct shared *s)
{
	pid_t pid = fork();

	if (!pid)
		for (;;)
			pause();
	atomic_store(&s->child, pid);
	return pid < 0 ? -errno : 0;
}

static int by_fork_and_exec(struct shared *s)
{
	pid_t pid = fork();

	if (!pid)
		_exit(into_sleep());
	atomic_store(&s->child, pid);
	return pid < 0 ? -errno : 0;
}

static int by_vfork(struct shared *s)
{
	pid_t pid = vfork();

	if (!pid)
		_exit(into_sleep());
	atomic_store(&s->child, pid);
	return pid < 0 ? -errno : 0;
}

static int by_posix_spawn(struct shared *s)
{
	char name[] = SLEEP, how_long[] = "600", *argv[] = { name, how_long, NULL };
	pid_t pid = 0;
	int r = -posix_spawn(&pid, SLEEP, NULL, NULL, argv, environ);

	atomic_store(&s->child, pid);
	return r;
}

/* The child lives on: breaks are answered, and a killed owner leaves nothing behind in it. */
static void with_child(int (*act)(struct shared *s))
{
	struct life life = { .act = act };
	struct kt_call *own = owner_start(&life);
	pid_t child = atomic_load(&shared->child);

	assert_int_equal(kt_truncate_now(life.path, UT_LEN, SOON), 0);
	kt_call_kill(own);
	assert_int_equal(kill(child, 0), 0);
	nothing_left(&life);
	kill(child, SIGKILL);
	kt_call_end(own);
}

static void children_keep_no_lease(void **state)
{
	(void)state;
	with_child(by_fork);
	with_child(by_fork_and_exec);
	with_child(by_vfork);
	with_child(by_posix_spawn);
}

/* Staged memory, there. */
static void children_keep_no_lease_on_ext4(void **state)
{
	struct kt_fs tmpfs = fs;

	assert_int_equal(kt_fs_make(&fs, "ext4", 64), 0);
	children_keep_no_lease(state);
	kt_fs_drop(&fs);
	fs = tmpfs;
}

/* An opener is blocked, and the owner would hold it up for a minute. */
static struct kt_call *blocked_opener(const struct life *life)
{
	struct kt_call *opener = kt_truncate(life->path, UT_LEN / 2);

	assert_non_null(opener);
	assert_int_equal(kt_call_blocked(opener, 50), 1);
	return opener;
}

static int exec_now(struct shared *s)
{
	(void)s;
	return into_sleep();
}

/* Its descriptors are closed before it has its name. */
static bool is_sleep(pid_t pid)
{
	char comm[32], name[16] = "";
	FILE *f;

	snprintf(comm, sizeof(comm), "/proc/%d/comm", pid);
	f = fopen(comm, "re");
	assert_non_null(f);
	assert_non_null(fgets(name, sizeof(name), f));
	fclose(f);
	return !strcmp(name, "sleep\n");
}

static void exec_lets_go_and_the_new_program_lives(void **state)
{
	struct life life = { .act = exec_now, .never_end = true };
	struct kt_call *own, *opener;

	(void)state;
	own = owner_start(&life);
	opener = blocked_opener(&life);
	sem_post(&shared->go);
	assert_int_equal(kt_call_done(opener, SOON), 1);
	assert_int_equal(opener->ret, 0);
	kt_call_end(opener);
	nothing_left(&life);
	/* A signal of the lease's that were still directed at it would have killed it by now. */
	assert_int_equal(kt_call_exited(own, 100), 0);
	for (unsigned int ms = 0; ms < SOON && !is_sleep(own->pid); ms++)
		kt_sleep_ms(1);
	assert_true(is_sleep(own->pid));
	kt_call_kill(own);
	kt_call_end(own);
}

static int exit_now(struct shared *s)
{
	(void)s;
	exit(0);
}

static void exit_with_leases_held_is_clean(void **state)
{
	struct life life = { .act = exit_now, .never_end = true };
	struct kt_call *own, *opener;

	(void)state;
	own = owner_start(&life);
	opener = blocked_opener(&life);
	sem_post(&shared->go);
	assert_int_equal(kt_call_exited(own, SOON), 1);
	assert_true(WIFEXITED(own->status));
	assert_int_equal(WEXITSTATUS(own->status), 0);
	assert_int_equal(kt_call_done(opener, SOON), 1);
	kt_call_end(opener);
	nothing_left(&life);
	kt_call_end(own);
}

static bool event_seen(uint32_t type, unsigned int ms)
{
	for (; ms && !(atomic_load(&shared->events) & 1u << type); ms--)
		kt_sleep_ms(1);
	return atomic_load(&shared->events) & 1u << type;
}

static void a_stopped_owner_is_told_what_it_missed(void **state)
{
	struct life life = { .act = NULL };
	struct kt_call *own, *opener;

	(void)state;
	assert_int_equal(kt_break_time(BREAK_TIME), 0);
	own = owner_start(&life);
	assert_int_equal(kill(own->pid, SIGSTOP), 0);
	opener = kt_truncate(life.path, UT_LEN);
	assert_non_null(opener);
	/* The kernel's patience, and no longer. */
	assert_int_equal(kt_call_done(opener, SOON), 1);
	assert_int_equal(opener->ret, 0);
	assert_true(kt_call_ns(opener) > BREAK_TIME * 950 * MS);
	kt_call_end(opener);
	assert_int_equal(kill(own->pid, SIGCONT), 0);
	assert_true(event_seen(PINLEASE_EV_LOST, SOON));
	assert_int_equal(kt_call_exited(own, 50), 0);
	kt_call_kill(own);
	nothing_left(&life);
	kt_call_end(own);
	assert_int_equal(kt_break_time(45), 0);
}

/* Threads that counted and are gone: what they did not end is still waited for, and anybody may end it. */
static void *begin_three_end_one(void *arg)
{
	uint32_t gen = 0;

	if (!pinlease_dma_begin(arg, 3, &gen))
		pinlease_dma_end(arg, 1, gen);
	return NULL;
}

static void threads_that_exit_leave_their_count(void **state)
{
	char path[KT_PATH_MAX];
	pthread_t thread[8];
	struct pinlease_file *file;
	struct pinlease *lease;
	struct kt_call *opener;
	struct ut u;
	size_t i;

	(void)state;
	ut_start(&u, 8, 2);
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, DEADLINE);
	for (i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, begin_three_end_one, lease), 0);
	for (i = 0; i < 8; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(ut_info(lease).in_flight, 16);
	opener = kt_truncate(path, UT_LEN);
	assert_non_null(opener);
	assert_int_equal(kt_call_blocked(opener, 50), 1);
	pinlease_dma_end(lease, 15, ut_info(lease).gen);
	assert_int_equal(kt_call_blocked(opener, 50), 1);
	pinlease_dma_end(lease, 1, ut_info(lease).gen);
	assert_int_equal(kt_call_done(opener, SOON), 1);
	kt_call_end(opener);
	ut_drop(lease, file);
	ut_stop(&u);
}

/* The library's own descriptor of path. */
static int library_fd(const char *path)
{
	char link[32], target[KT_PATH_MAX];
	ssize_t n;

	for (int fd = 3; fd < 1024; fd++) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, target, sizeof(target) - 1);
		if (n > 0 && !strcmp((target[n] = '\0', target), path))
			return fd;
	}
	return -1;
}

/* The worst that an application can do: the number is another file's, with a lease like ours on it. */
static void a_descriptor_taken_over_is_an_error_and_not_ours(void **state)
{
	char path[KT_PATH_MAX], other[KT_PATH_MAX];
	struct pinlease_why why = { 0 };
	struct pinlease_event ev;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct ut u;
	int fd, ours;

	(void)state;
	ut_start(&u, 8, 2);
	ut_file(path, fs.dir, "f", UT_BLOCKS);
	ut_file(other, fs.dir, "other", UT_BLOCKS);
	file = ut_open(&u, path, PINLEASE_WRITE, 0);
	lease = ut_lease(&u, file, UT_LEN, 0, 0);
	ours = library_fd(path);
	fd = open(other, O_RDWR | O_CLOEXEC);
	assert_true(ours >= 0 && fd >= 0);
	assert_int_equal(dup3(fd, ours, O_CLOEXEC), ours);
	assert_int_equal(fcntl(ours, F_SETLEASE, F_WRLCK), 0);
	assert_true(ut_event(&u, PINLEASE_EV_LOST, SOON, &ev));
	assert_int_equal(pinlease_restore(lease, &why), -EBADF);
	assert_int_equal(why.reason, PINLEASE_WHY_FD_REPLACED);
	assert_int_equal(pinlease_file_truncate(file, 0), -EBADF);
	ut_drop(lease, file);
	assert_int_equal(fcntl(ours, F_GETLEASE), F_WRLCK);
	assert_int_equal(ut_stamp_at(path, 0), 0);
	close(ours);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
	assert_int_equal(ut_stamp_at(other, 0), 0);
	close(fd);
	ut_stop(&u);
}

static int setup(void **state)
{
	(void)state;
	shared = kt_shared(sizeof(*shared));
	assert_non_null(shared);
	assert_int_equal(sem_init(&shared->ready, 1, 0), 0);
	assert_int_equal(sem_init(&shared->go, 1, 0), 0);
	assert_int_equal(kt_fs_make(&fs, "tmpfs", 64), 0);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(children_keep_no_lease),
		cmocka_unit_test(children_keep_no_lease_on_ext4),
		cmocka_unit_test(exec_lets_go_and_the_new_program_lives),
		cmocka_unit_test(exit_with_leases_held_is_clean),
		cmocka_unit_test(a_stopped_owner_is_told_what_it_missed),
		cmocka_unit_test(threads_that_exit_leave_their_count),
		cmocka_unit_test(a_descriptor_taken_over_is_an_error_and_not_ours),
	};

	ut_begin();
	return cmocka_run_group_tests(tests, setup, NULL);
}
