/* SPDX-License-Identifier: BSD-3-Clause */
/* The seam itself, where it is more than the call: anchor, threads, waiting, /proc. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "sys.h"
#include "unit.h"
#include "util.h"

#define PAGE 4096ull

static void stat_says_what_it_is(void **state)
{
	int fd = unit_memfd(12345);
	struct pl_sys_stat st, by_path;
	char path[64];

	(void)state;
	assert_int_equal(pl_sys_stat(fd, &st), 0);
	assert_true(S_ISREG(st.mode) && st.size == 12345 && st.fs_magic == 0x01021994 && !st.dax);
	assert_true(st.avail > 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	assert_int_equal(pl_sys_stat_path(path, &by_path), 0);
	assert_true(by_path.dev == st.dev && by_path.ino == st.ino && by_path.mode == st.mode);
	close(fd);
	assert_int_equal(pl_sys_stat(fd, &st), -EBADF);
	assert_int_equal(pl_sys_stat_path(path, &st), -ENOENT);
}

/* How many fds of this process there are. */
static int count_each(void *arg, int fd)
{
	(void)fd;
	++*(int *)arg;
	return 0;
}

static int open_fds(void)
{
	int n = 0;

	assert_int_equal(pl_sys_each_number("/proc/self/fd", count_each, &n), 0);
	return n;
}

/* The lease lives while the anchor does, though its fd is closed, and no longer. */
static void the_anchor_holds_the_description(void **state)
{
	int before = open_fds(), fd, other, anchor = -1;
	char path[32];

	(void)state;
	fd = unit_named_file(path, PAGE);
	assert_int_equal(pl_sys_set_lease(fd, F_WRLCK), 0);
	assert_int_equal(pl_sys_anchor_new(fd, &anchor), 0);
	assert_int_equal(fcntl(anchor, F_GETFD), FD_CLOEXEC);
	assert_int_equal(open_fds(), before + 2);
	/* Wiped when the lease goes: until then a break would be a SIGIO that kills. */
	signal(SIGIO, SIG_IGN);
	close(fd);
	assert_int_equal(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), -1);
	assert_int_equal(errno, EWOULDBLOCK);
	pl_sys_close(anchor);
	other = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_true(other >= 0);
	close(other);
	unlink(path);
	assert_int_equal(open_fds(), before);
}

static void no_room_for_an_anchor(void **state)
{
	struct rlimit before, less;
	int fds = open_fds(), anchor = -77, r;

	(void)state;
	assert_int_equal(pl_sys_anchor_new(1 << 20, &anchor), -EBADF);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	less = before;
	less.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &less), 0);
	r = pl_sys_anchor_new(2, &anchor);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	/* valgrind keeps the limit itself, and says it in another way. */
	assert_int_equal(r, getenv("PINLEASE_VALGRIND") ? -EBADF : -EMFILE);
	assert_int_equal(anchor, -77);
	assert_int_equal(open_fds(), fds);
}

static void one_description_or_two(void **state)
{
	int a = unit_memfd(PAGE), b = pl_sys_dup(a), c;
	char path[64];

	(void)state;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", a);
	c = pl_sys_open(path, O_RDONLY);
	assert_true(b >= 0 && c >= 0);
	assert_int_equal(pl_sys_same_description(a, pl_sys_pid(), b), 1);
	assert_int_equal(pl_sys_same_description(a, pl_sys_pid(), a), 1);
	assert_int_equal(pl_sys_same_description(a, pl_sys_pid(), c), 0);
	assert_true(pl_sys_same_description(a, pl_sys_pid(), 1 << 20) < 0);
	assert_int_equal(fcntl(b, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(c, F_GETFD), FD_CLOEXEC);
	close(a);
	close(b);
	close(c);
}

struct wanted {
	uint64_t addr;
	struct pl_sys_mapping m;
	unsigned int count;
	uint64_t last_end;
	bool in_order;
};

static int look_for(void *arg, const struct pl_sys_mapping *m)
{
	struct wanted *w = arg;

	w->in_order = w->in_order && m->start >= w->last_end && m->end > m->start;
	w->last_end = m->end;
	if (w->addr < m->start || w->addr >= m->end)
		return 0;
	w->m = *m;
	w->count++;
	return 0;
}

static void find_mapping(const void *addr, struct wanted *w)
{
	*w = (struct wanted){ .addr = (uintptr_t)addr, .in_order = true };
	assert_int_equal(pl_sys_each_mapping(look_for, w), 0);
	assert_true(w->count == 1 && w->in_order);
}

/* A name as long as names may be, a thousand mappings: reads end everywhere in a line. */
static void mappings_are_read_right(void **state)
{
	char name[250];
	struct pl_sys_stat st;
	struct wanted w;
	uint64_t i;
	char *p;
	int fd;

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	name[7] = '\n';
	fd = memfd_create(name, MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1000 * PAGE), 0);
	assert_int_equal(pl_sys_stat(fd, &st), 0);
	p = mmap(NULL, 1000 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	for (i = 0; i < 1000; i += 2)
		assert_int_equal(mprotect(p + i * PAGE, PAGE, PROT_READ), 0);
	for (i = 0; i < 1000; i += 37) {
		find_mapping(p + i * PAGE, &w);
		assert_true(w.m.shared && w.m.dev == st.dev && w.m.ino == st.ino);
		assert_int_equal(w.m.prot, i % 2 ? PROT_READ | PROT_WRITE : PROT_READ);
		assert_true(w.m.off == i * PAGE && w.m.end - w.m.start == PAGE);
	}
	munmap(p, 1000 * PAGE);
	close(fd);
	p = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	find_mapping(p, &w);
	assert_true(!w.m.shared && !w.m.prot && !w.m.ino);
	munmap(p, PAGE);
}

static int stop_at_once(void *arg, const struct pl_sys_mapping *m)
{
	(void)m;
	return ++*(int *)arg == 2 ? 42 : 0;
}

static void walks_stop_when_told(void **state)
{
	int calls = 0, fds = open_fds();

	(void)state;
	assert_int_equal(pl_sys_each_mapping(stop_at_once, &calls), 42);
	assert_int_equal(calls, 2);
	assert_int_equal(pl_sys_each_number("/no/such/folder", count_each, &calls), -ENOENT);
	assert_int_equal(open_fds(), fds);
}

static void block_signal(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGRTMAX - 2);
	pthread_sigmask(SIG_BLOCK, set, NULL);
}

static void waits_are_relative_and_end(void **state)
{
	uint64_t now = pl_sys_now();
	siginfo_t info;
	sigset_t set;

	(void)state;
	block_signal(&set);
	assert_int_equal(pl_sys_wait_signal(&set, &info, 20 * PL_NS_PER_MS), -EAGAIN);
	assert_true(pl_sys_now() - now >= 20 * PL_NS_PER_MS);
	assert_int_equal(pl_sys_wait_signal(&set, &info, 0), -EAGAIN);
	assert_int_equal(pl_sys_signal_thread(pthread_self(), SIGRTMAX - 2), 0);
	assert_int_equal(pl_sys_wait_signal(&set, &info, PL_NEVER), SIGRTMAX - 2);
}

/* Where nothing that is sent fits any more. */
static void an_alarm_has_its_place(void **state)
{
	struct rlimit before, none;
	siginfo_t info;
	timer_t alarm;
	sigset_t set;

	(void)state;
	block_signal(&set);
	assert_int_equal(pl_sys_alarm_new(SIGRTMAX - 2, &alarm), 0);
	assert_int_equal(getrlimit(RLIMIT_SIGPENDING, &before), 0);
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = before.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &none), 0);
	assert_int_equal(pl_sys_signal_thread(pthread_self(), SIGRTMAX - 2), -EAGAIN);
	pl_sys_alarm_raise(alarm);
	assert_int_equal(pl_sys_wait_signal(&set, &info, PL_NEVER), SIGRTMAX - 2);
	assert_int_equal(info.si_code, SI_TIMER);
	pl_sys_alarm_free(alarm);
	assert_int_equal(pl_sys_alarm_new(SIGRTMAX - 2, &alarm), -EAGAIN);
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &before), 0);
}

static void conditions_are_monotonic(void **state)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	uint64_t now = pl_sys_now();
	pthread_cond_t cond;

	(void)state;
	assert_int_equal(pl_sys_cond_init(&cond), 0);
	pthread_mutex_lock(&mutex);
	assert_int_equal(pl_sys_cond_wait(&cond, &mutex, now), -ETIMEDOUT);
	assert_int_equal(pl_sys_cond_wait(&cond, &mutex, now + 20 * PL_NS_PER_MS), -ETIMEDOUT);
	pthread_mutex_unlock(&mutex);
	assert_true(pl_sys_now() - now >= 20 * PL_NS_PER_MS);
	pthread_cond_destroy(&cond);
}

struct thread_facts {
	_Atomic bool may_end;
	bool all_blocked;
	pid_t tid;
};

static void *look_at_yourself(void *arg)
{
	struct thread_facts *f = arg;
	sigset_t set;
	int i;

	pthread_sigmask(SIG_BLOCK, NULL, &set);
	f->all_blocked = true;
	for (i = 1; i < 32; i++)
		if (i != SIGKILL && i != SIGSTOP && !sigismember(&set, i))
			f->all_blocked = false;
	f->tid = pl_sys_thread_id();
	while (!f->may_end)
		unit_sleep_ms(1);
	return NULL;
}

static void threads_take_no_signals(void **state)
{
	struct thread_facts f = { .all_blocked = false };
	sigset_t before, after;
	char name[16] = "";
	pthread_t thread;
	int i;

	(void)state;
	pthread_sigmask(SIG_BLOCK, NULL, &before);
	assert_int_equal(pl_sys_thread_new(look_at_yourself, &f, "pl-name", &thread), 0);
	assert_int_equal(pthread_getname_np(thread, name, sizeof(name)), 0);
	assert_string_equal(name, "pl-name");
	f.may_end = true;
	pl_sys_thread_join(thread);
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	assert_true(f.all_blocked && f.tid > 0 && f.tid != pl_sys_thread_id());
	for (i = 1; i < SIGRTMAX; i++)
		assert_int_equal(sigismember(&before, i), sigismember(&after, i));
}

static void text_is_cut_and_ended(void **state)
{
	char path[32], buf[8];
	int fd = unit_named_file(path, 0);

	(void)state;
	assert_int_equal(write(fd, "0123456789", 10), 10);
	assert_int_equal(pl_sys_read_text(path, buf, sizeof(buf)), 7);
	assert_string_equal(buf, "0123456");
	assert_int_equal(ftruncate(fd, 3), 0);
	assert_int_equal(pl_sys_read_text(path, buf, sizeof(buf)), 3);
	assert_string_equal(buf, "012");
	unlink(path);
	close(fd);
	assert_int_equal(pl_sys_read_text(path, buf, sizeof(buf)), -ENOENT);
}

static void memlock(void **state)
{
	struct rlimit less;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &less), 0);
	less.rlim_cur = 5 * PAGE;
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &less), 0);
	/* Root's is none: CAP_IPC_LOCK. */
	assert_true(pl_sys_memlock_limit() == (geteuid() ? 5 * PAGE : UINT64_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stat_says_what_it_is),
		cmocka_unit_test(the_anchor_holds_the_description),
		cmocka_unit_test(no_room_for_an_anchor),
		cmocka_unit_test(one_description_or_two),
		cmocka_unit_test(mappings_are_read_right),
		cmocka_unit_test(walks_stop_when_told),
		cmocka_unit_test(waits_are_relative_and_end),
		cmocka_unit_test(an_alarm_has_its_place),
		cmocka_unit_test(conditions_are_monotonic),
		cmocka_unit_test(threads_take_no_signals),
		cmocka_unit_test(text_is_cut_and_ended),
		cmocka_unit_test(memlock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
