/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The owner is killed with a truncate blocked on its lease and a peer writing: do
 * writes that were posted after the truncate returned still succeed? They do when the
 * lease dies before the registration. The rounds are few: the kill tests of the
 * library make many.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rdma_scene.h"
#include "rounds.h"

#define BYSTANDERS 400

/* What owner and peer tell each other. */
struct meeting {
	struct kt_ep owner, peer;
	uint64_t addr;
	uint32_t rkey;
};

struct owner_arg {
	char path[KT_PATH_MAX];
	struct meeting *meeting;
	bool device_first, anchored;
};

/*
 * Files of no interest, opened between the device and the leased one. A dying process
 * drops them in between, too, which gives the peer time to write and see which went first.
 */
static int open_bystanders(void)
{
	int ends[2], i;

	for (i = 0; i < BYSTANDERS; i += 2)
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
			return -errno;
	return 0;
}

/* The sending end is closed, the receiving one left open for the process to die with. */
static int put_in_flight(int fd)
{
	int ends[2], ret;

	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends))
		return -errno;
	ret = kt_send_fd(ends[0], fd);
	close(ends[0]);
	return ret;
}

static int own_open(const struct owner_arg *a)
{
	int fd = open(a->path, O_RDWR | O_CLOEXEC), ret;

	ret = fd < 0 ? -errno : kt_lease_take(fd, F_WRLCK, SCENE_SIG);
	if (!ret && a->anchored)
		ret = put_in_flight(fd);
	return ret ? ret : fd;
}

/* No cmocka in here: this runs in a process of its own. */
static int own(const void *arg)
{
	const struct owner_arg *a = arg;
	struct meeting *m = a->meeting;
	struct kt_rdma device;
	struct kt_qp qp;
	struct ibv_mr *mr;
	void *map;
	int fd = a->device_first ? 0 : own_open(a), ret = fd < 0 ? fd : kt_rdma_open(&device);

	if (!ret)
		ret = open_bystanders();
	if (!ret && a->device_first)
		fd = own_open(a);
	if (ret || fd < 0)
		return ret ? ret : fd;
	map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	mr = map == MAP_FAILED ? NULL : ibv_reg_mr(device.pd, map, SCENE_SIZE, KT_ACCESS_WRITE);
	if (!mr)
		return -errno;
	ret = kt_qp_make(&device, &qp, 16);
	if (!ret)
		ret = kt_qp_connect(&device, &qp, &m->peer);
	m->owner = qp.ep;
	m->addr = (uintptr_t)map;
	m->rkey = mr->rkey;
	return ret;
}

/* The peer writes one page after the other until one fails. */
struct writer {
	struct kt_qp qp;
	struct meeting *meeting;
	char *buf;
	struct ibv_mr *mr;
	unsigned int acked;
	uint64_t last_posted_ns; /* of the last write that succeeded */
};

static void *write_on(void *arg)
{
	struct writer *w = arg;
	uint64_t posted;

	do {
		posted = kt_now();
		if (kt_do(&w->qp, IBV_WR_RDMA_WRITE, w->buf, w->mr->lkey, PAGE, w->meeting->addr,
			  w->meeting->rkey))
			return NULL;
		w->last_posted_ns = posted;
	} while (__atomic_add_fetch(&w->acked, 1, __ATOMIC_RELEASE));
	return NULL;
}

static void writer_make(struct writer *w, struct meeting *m)
{
	memset(w, 0, sizeof(*w));
	w->meeting = m;
	w->buf = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	w->mr = ibv_reg_mr(rdma.pd, w->buf, PAGE, IBV_ACCESS_LOCAL_WRITE);
	assert_non_null(w->mr);
	assert_int_equal(kt_qp_make(&rdma, &w->qp, 16), 0);
	m->peer = w->qp.ep;
}

static void writer_drop(struct writer *w)
{
	kt_qp_drop(&w->qp);
	ibv_dereg_mr(w->mr);
	munmap(w->buf, PAGE);
}

static struct kt_call *owner_start(struct owner_arg *a, struct writer *w)
{
	struct kt_call *owner;

	scene_file(TMPFS, a->path);
	owner = kt_call_start(own, a, sizeof(*a));
	assert_non_null(owner);
	assert_int_equal(kt_call_done(owner, KT_LONG), 1);
	assert_int_equal(owner->ret, 0);
	assert_int_equal(kt_qp_connect(&rdma, &w->qp, &a->meeting->owner), 0);
	return owner;
}

/* By how much the last successful write was posted after the truncate returned, in ns; 0: it was not. */
static uint64_t kill_once(struct owner_arg *a)
{
	struct kt_call *owner, *breaker;
	struct writer w;
	pthread_t thread;
	uint64_t late;

	writer_make(&w, a->meeting);
	owner = owner_start(a, &w);
	assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
	breaker = kt_truncate(a->path, 0);
	assert_int_equal(kt_call_blocked(breaker, SCENE_MS), 1);
	while (__atomic_load_n(&w.acked, __ATOMIC_ACQUIRE) < 10)
		kt_sleep_ms(1);
	assert_int_equal(kt_call_blocked(breaker, 0), 1);
	kt_call_kill(owner);
	assert_int_equal(kt_call_done(breaker, SCENE_LONG), 1);
	assert_int_equal(breaker->ret, 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	late = w.last_posted_ns > breaker->end_ns ? w.last_posted_ns - breaker->end_ns : 0;
	kt_call_end(breaker);
	kt_call_end(owner);
	writer_drop(&w);
	unlink(a->path);
	return late;
}

static void without_an_anchor_a_lease_dies_before_an_older_device(void **state)
{
	struct owner_arg a = { .meeting = kt_shared(sizeof(struct meeting)), .device_first = true };
	unsigned int round = 0, most = pl_rounds(PL_R_kernel_kill_control);
	uint64_t late = 0;

	(void)state;
	assert_non_null(a.meeting);
	while (!late && round++ < most)
		late = kill_once(&a);
	print_message("a write posted %.2f ms after truncate returned succeeded: round %u\n",
		      (double)late / 1e6, round);
	assert_true(late);
}

static void with_an_anchor_no_write_succeeds_after_truncate_returned(void **state)
{
	struct owner_arg a = { .meeting = kt_shared(sizeof(struct meeting)), .anchored = true };
	unsigned int rounds = pl_rounds(PL_R_kernel_kill_rounds);

	(void)state;
	assert_non_null(a.meeting);
	for (unsigned int round = 0; round < rounds; round++) {
		a.device_first = round % 2;
		assert_int_equal(kill_once(&a), 0);
	}
}

/* The peer learns of each death by its retries. */
static int setup(void **state)
{
	int ret = rdma_setup(state);

	rdma.patient = false;
	return ret;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_an_anchor_a_lease_dies_before_an_older_device),
		cmocka_unit_test(with_an_anchor_no_write_succeeds_after_truncate_returned),
	};

	kt_init();
	return cmocka_run_group_tests(tests, setup, rdma_teardown);
}
