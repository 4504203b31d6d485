/* SPDX-License-Identifier: BSD-3-Clause */
/* The simulation itself: that it follows the measured rules, and that its judge does judge. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "sys.h"
#include "verbs.h"
#include "world.h"

#define SIGNO 60

static int take(const char *path, int flags, int type)
{
	int fd = pl_sys_open(path, flags);

	assert_true(fd >= 0);
	assert_int_equal(pl_sys_set_signal(fd, SIGNO), 0);
	assert_int_equal(pl_sys_set_owner(fd, pl_sys_thread_id()), 0);
	assert_int_equal(pl_sys_set_lease(fd, type), 0);
	return fd;
}

/* 1: a signal for fd; 0: none. */
static int signalled(int fd)
{
	siginfo_t info;
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGNO);
	r = pl_sys_wait_signal(&set, &info, 0);
	if (r == -EAGAIN)
		return 0;
	assert_int_equal(r, SIGNO);
	assert_int_equal(info.si_fd, fd);
	return 1;
}

/* One line of the table in docs: who breaks what, and what F_GETLEASE says meanwhile. */
static void breaks(int flags, int type, int open_flags, int target)
{
	const char *path = sim_file("f", SIM_PAGE);
	int fd = take(path, flags, type);
	struct sim_opener *o = sim_open(path, open_flags | O_NONBLOCK);

	assert_int_equal(sim_opener_ret(o), target == type ? 0 : -EWOULDBLOCK);
	assert_int_equal(pl_sys_get_lease(fd), target);
	assert_int_equal(signalled(fd), target != type);
	sim_opener_end(o);
	if (target != type) {
		/* Nothing but F_UNLCK clears it, and the next one sends no signal. */
		o = sim_open(path, open_flags);
		assert_false(sim_opener_done(o));
		assert_int_equal(signalled(fd), 0);
		assert_int_equal(pl_sys_set_lease(fd, F_UNLCK), 0);
		assert_int_equal(sim_opener_ret(o), 0);
		assert_int_equal(sim_opener_ns(o), 0);
		sim_opener_end(o);
	}
	pl_sys_close(fd);
}

static void test_what_breaks_what(struct world *w)
{
	(void)w;
	breaks(O_RDWR, F_WRLCK, O_RDONLY, F_RDLCK);
	breaks(O_RDWR, F_WRLCK, O_RDONLY | O_TRUNC, F_RDLCK);
	breaks(O_RDWR, F_WRLCK, O_RDWR, F_UNLCK);
	breaks(O_RDWR, F_WRLCK, O_WRONLY | O_TRUNC, F_UNLCK);
	breaks(O_RDONLY, F_RDLCK, O_RDONLY, F_RDLCK);
	breaks(O_RDONLY, F_RDLCK, O_WRONLY, F_UNLCK);
}

static void test_who_may_take(struct world *w)
{
	const char *path = sim_file("f", SIM_PAGE);
	struct sim_opener *reader = sim_open(path, O_RDONLY);
	int fd = pl_sys_open(path, O_RDWR), ro;

	(void)w;
	pl_sys_set_signal(fd, SIGNO);
	pl_sys_set_owner(fd, pl_sys_thread_id());
	assert_int_equal(pl_sys_set_lease(fd, F_WRLCK), -EAGAIN);
	assert_int_equal(pl_sys_set_lease(fd, F_RDLCK), -EAGAIN);
	sim_opener_end(reader);
	ro = pl_sys_open(path, O_RDONLY);
	assert_int_equal(pl_sys_set_lease(fd, F_WRLCK), -EAGAIN);
	assert_int_equal(pl_sys_set_lease(ro, F_RDLCK), -EAGAIN);
	pl_sys_close(ro);
	assert_int_equal(pl_sys_set_lease(fd, F_WRLCK), 0);
	assert_int_equal(pl_sys_set_lease(fd, F_RDLCK), -EAGAIN);
	pl_sys_close(fd);
}

/* Unlocking wipes F_SETSIG and F_SETOWN_EX; a retake without them is what the judge is for. */
static void test_unlock_wipes(struct world *w)
{
	const char *path = sim_file("f", SIM_PAGE);
	int fd = take(path, O_RDWR, F_WRLCK);

	(void)w;
	assert_int_equal(pl_sys_set_lease(fd, F_UNLCK), 0);
	sim_expect("I2");
	assert_int_equal(pl_sys_set_lease(fd, F_WRLCK), 0);
	assert_int_equal(sim_violations(), 1);
	pl_sys_close(fd);
}

static void test_expiry_of_a_writer(struct world *w)
{
	const char *path = sim_file("f", SIM_PAGE);
	int fd = take(path, O_RDWR, F_WRLCK);
	struct sim_opener *o = sim_truncate(path, 0);

	(void)w;
	sim_sleep(SIM_BREAK_TIME_S * SIM_S - 1);
	assert_false(sim_opener_done(o));
	sim_sleep(1);
	assert_true(sim_opener_expired(o));
	assert_int_equal(sim_file_size(path), 0);
	assert_int_equal(pl_sys_get_lease(fd), F_UNLCK);
	assert_int_equal(pl_sys_set_lease(fd, F_UNLCK), -EAGAIN);
	assert_int_equal(signalled(fd), 1);
	assert_int_equal(signalled(fd), 0);
	sim_opener_end(o);
	pl_sys_close(fd);
}

static void test_expiry_of_a_reader(struct world *w)
{
	const char *path = sim_file("f", SIM_PAGE);
	int fd = take(path, O_RDWR, F_WRLCK);
	struct sim_opener *o = sim_open(path, O_RDONLY), *writer;

	(void)w;
	sim_sleep(SIM_BREAK_TIME_S * SIM_S);
	assert_true(sim_opener_expired(o));
	assert_int_equal(pl_sys_get_lease(fd), F_RDLCK);
	/* A writer behind it is a second signal. */
	assert_int_equal(signalled(fd), 1);
	writer = sim_open(path, O_RDWR);
	assert_int_equal(signalled(fd), 1);
	assert_int_equal(pl_sys_set_lease(fd, F_UNLCK), 0);
	sim_opener_end(o);
	sim_opener_end(writer);
	pl_sys_close(fd);
}

/* A lease lives as long as any reference to its description: descriptor, mapping, anchor. */
static void test_who_holds_a_lease(struct world *w)
{
	const char *path = sim_file("f", SIM_PAGE);
	int fd = take(path, O_RDWR, F_WRLCK), anchor;
	struct sim_opener *o;
	void *addr;

	(void)w;
	assert_int_equal(pl_sys_map(NULL, SIM_PAGE, PROT_READ, fd, 0, &addr), 0);
	assert_int_equal(pl_sys_anchor_new(fd, &anchor), 0);
	o = sim_truncate(path, 0);
	pl_sys_close(fd);
	pl_sys_close(anchor);
	assert_false(sim_opener_done(o));
	pl_sys_unmap(addr, SIM_PAGE);
	assert_true(sim_opener_done(o));
	sim_opener_end(o);
}

static void test_signals_overflow(struct world *w)
{
	const char *path[3] = { sim_file("a", 1), sim_file("b", 1), sim_file("c", 1) };
	struct sim_opener *o[3];
	int fd[3], i;

	(void)w;
	sim_signal_room(2);
	for (i = 0; i < 3; i++)
		fd[i] = take(path[i], O_RDWR, F_WRLCK);
	/* This thread is a test's, which does not block SIGIO. */
	sim_expect("seam");
	for (i = 0; i < 3; i++)
		o[i] = sim_truncate(path[i], 0);
	assert_int_equal(sim_violations(), 1);
	assert_int_equal(sim_signals_lost(), 1);
	assert_int_equal(signalled(fd[0]), 1);
	assert_int_equal(signalled(fd[1]), 1);
	assert_int_equal(signalled(fd[2]), 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(pl_sys_get_lease(fd[i]), F_UNLCK);
		pl_sys_close(fd[i]);
		sim_opener_end(o[i]);
	}
}

/* A mapping of the file with a region over it, on a descriptor with a lease. */
struct reach {
	const char *path;
	int fd;
	void *addr;
	struct ibv_mr *mr;
};

static void reach_up(struct reach *r)
{
	r->path = sim_file("f", 4 * SIM_PAGE);
	r->fd = take(r->path, O_RDWR, F_WRLCK);
	assert_int_equal(pl_sys_map(NULL, 4 * SIM_PAGE, PROT_READ | PROT_WRITE, r->fd, 0, &r->addr), 0);
	assert_int_equal(pl_verbs_reg_mr(sim_device(SIM_ODP_NONE), r->addr, 4 * SIM_PAGE, 0,
					 IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE, &r->mr),
			 0);
}

static void reach_down(struct reach *r)
{
	if (r->mr)
		pl_verbs_dereg_mr(r->mr);
	pl_sys_unmap(r->addr, 4 * SIM_PAGE);
	pl_sys_close(r->fd);
}

static void test_judge_sees_a_region_at_let_go(struct world *w)
{
	struct reach r;

	(void)w;
	reach_up(&r);
	sim_expect("I1");
	assert_int_equal(pl_sys_set_lease(r.fd, F_UNLCK), 0);
	assert_int_equal(sim_violations(), 1);
	reach_down(&r);
}

static void test_judge_sees_dma_after_let_go(struct world *w)
{
	struct sim_dma dma;
	struct reach r;

	(void)w;
	reach_up(&r);
	sim_expect("I1");
	sim_dma_write(&dma, r.mr->rkey, 0, 100, 7, SIM_MS);
	pl_sys_set_lease(r.fd, F_UNLCK);
	assert_int_equal(sim_violations(), 1);
	assert_int_equal(sim_dma_wait(&dma), SIM_DMA_LANDED);
	assert_int_equal(sim_violations(), 2);
	reach_down(&r);
}

static void test_judge_sees_writes_after_let_go(struct world *w)
{
	struct reach r;

	(void)w;
	reach_up(&r);
	pl_verbs_dereg_mr(r.mr);
	r.mr = NULL;
	assert_int_equal(pl_sys_pwrite(r.fd, "x", 1, 0), 1);
	pl_sys_set_lease(r.fd, F_UNLCK);
	sim_expect("I1");
	pl_sys_pwrite(r.fd, "x", 1, 0);
	pl_sys_allocate(r.fd, 0, 0, SIM_PAGE);
	pl_sys_advise(r.addr, SIM_PAGE, MADV_POPULATE_WRITE);
	/* The pwrite as it begins, and as it ends. */
	assert_int_equal(sim_violations(), 4);
	reach_down(&r);
}

static void test_judge_sees_registrations_without_guard(struct world *w)
{
	struct ibv_mr *mr;
	struct reach r;

	(void)w;
	reach_up(&r);
	pl_verbs_dereg_mr(r.mr);
	r.mr = NULL;
	pl_sys_set_lease(r.fd, F_UNLCK);
	sim_expect("I1");
	assert_int_equal(pl_verbs_reg_mr(sim_device(SIM_ODP_NONE), r.addr, SIM_PAGE, 0, 0, &mr), 0);
	assert_int_equal(sim_violations(), 1);
	pl_verbs_dereg_mr(mr);
	reach_down(&r);
}

static void test_judge_sees_memory_taken_away(struct world *w)
{
	struct reach r;

	(void)w;
	reach_up(&r);
	sim_expect("I1");
	pl_sys_truncate(r.fd, 3 * SIM_PAGE);
	assert_int_equal(sim_violations(), 1);
	pl_sys_unmap((char *)r.addr + SIM_PAGE, SIM_PAGE);
	assert_int_equal(sim_violations(), 2);
	pl_verbs_dereg_mr(r.mr);
	pl_sys_unmap(r.addr, SIM_PAGE);
	pl_sys_unmap((char *)r.addr + 2 * SIM_PAGE, 2 * SIM_PAGE);
	pl_sys_close(r.fd);
}

static void test_judge_sees_an_answer_too_many(struct world *w)
{
	const char *path = sim_file("f", SIM_PAGE);
	int fd = take(path, O_RDWR, F_WRLCK);

	(void)w;
	sim_expect("I2");
	assert_int_equal(pl_sys_set_lease(fd, F_UNLCK), 0);
	assert_int_equal(pl_sys_set_lease(fd, F_UNLCK), -EAGAIN);
	assert_int_equal(sim_violations(), 1);
	pl_sys_close(fd);
}

/* The whole library over a provider that answers 0 and fences nothing: the judge must not let that pass. */
static void test_judge_sees_a_fence_that_is_none(struct world *w)
{
	struct pinlease_view view;
	struct sim_opener *o;
	struct sim_dma dma;

	world_open(w, PINLEASE_WRITE);
	view = world_view(world_lease(w, 0, WORLD_SIZE, NULL));
	sim_dereg_lies(true);
	sim_expect("I1");
	sim_dma_write(&dma, view.rkey, view.iova, 100, 7, SIM_S);
	o = sim_truncate(w->path, WORLD_SIZE / 2);
	assert_true(sim_opener_wait(o, SIM_S / 2));
	assert_int_equal(sim_violations(), 1);
	assert_int_equal(sim_dma_wait(&dma), SIM_DMA_LANDED);
	sim_opener_end(o);
	sim_dereg_lies(false);
	pl_verbs_dereg_mr(view.mr);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(test_what_breaks_what),
		world_test(test_who_may_take),
		world_test(test_unlock_wipes),
		world_test(test_expiry_of_a_writer),
		world_test(test_expiry_of_a_reader),
		world_test(test_who_holds_a_lease),
		world_test(test_signals_overflow),
		world_test(test_judge_sees_a_region_at_let_go),
		world_test(test_judge_sees_dma_after_let_go),
		world_test(test_judge_sees_writes_after_let_go),
		world_test(test_judge_sees_registrations_without_guard),
		world_test(test_judge_sees_memory_taken_away),
		world_test(test_judge_sees_an_answer_too_many),
		world_test(test_judge_sees_a_fence_that_is_none),
	};

	return cmocka_run_group_tests(tests, world_group, NULL);
}
