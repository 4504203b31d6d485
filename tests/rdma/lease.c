/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lease FS: what each call does on a real device and file system (FS_dax: on
 * persistent memory, without a page cache), without load. The
 * peer is the other queue pair of a loopback pair, so that a write is done, or refused,
 * when peer_write returns.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <pinlease.h>

#include "kt.h"
#include "kt_rdma.h"
#include "rt.h"

#define PAGE	 4096u
#define PAGES	 16u
#define FULL	 (PAGES * (uint64_t)PAGE)
#define SHORT_MS 50u
#define LONG_MS	 KT_LONG

static const char *fs_type;
static struct kt_fs fs;
static struct kt_rdma dev;
static struct pinlease_ctx *ctx;

struct bench {
	char path[KT_PATH_MAX];
	int fd;			/* shares the leased description: reading through it breaks nothing */
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
	struct kt_pair pair;
	struct ibv_mr *mr;
	uint8_t buf[2 * PAGE];
};

static bool tmpfs(void)
{
	return !strcmp(fs_type, "tmpfs");
}

static void look(struct bench *b)
{
	b->view = (struct pinlease_view){ .size = sizeof(b->view) };
	assert_int_equal(pinlease_view_get(b->lease, 0, &b->view), 0);
}

static void lease_take(struct bench *b, uint32_t flags, uint32_t mode)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = dev.pd, .mode = mode, .flags = flags,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ };
	struct pinlease_why why = { 0 };
	int r = pinlease_acquire(b->file, 0, FULL, &lo, &why, &b->lease);

	if (r)
		fail_msg("acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	look(b);
}

static void bench_open(struct bench *b, const char *name)
{
	int r;

	assert_int_equal(kt_file(b->path, fs.dir, name, FULL), 0);
	b->fd = open(b->path, O_RDWR | O_CLOEXEC);
	assert_true(b->fd >= 0);
	r = pinlease_file_attach(ctx, b->fd, NULL, NULL, &b->file);
	assert_int_equal(r, 0);
	assert_int_equal(fcntl(b->fd, F_GETLEASE), F_WRLCK);
	b->lease = NULL;
	assert_int_equal(kt_pair_make(&dev, &b->pair, 8), 0);
	b->mr = ibv_reg_mr(dev.pd, b->buf, sizeof(b->buf), IBV_ACCESS_LOCAL_WRITE);
	assert_non_null(b->mr);
}

static void bench_close(struct bench *b)
{
	assert_int_equal(pinlease_release(b->lease), 0);
	assert_int_equal(pinlease_file_close(b->file), 0);
	assert_int_equal(fcntl(b->fd, F_GETLEASE), F_UNLCK);
	close(b->fd);
	kt_pair_drop(&b->pair);
	assert_int_equal(ibv_dereg_mr(b->mr), 0);
}

/* n bytes of value at off of the lease, through the keys of view. */
static int peer_write(struct bench *b, const struct pinlease_view *view, uint64_t off, uint32_t n, int value)
{
	memset(b->buf, value, n);
	return kt_do(&b->pair.peer, IBV_WR_RDMA_WRITE, b->buf, b->mr->lkey, n, view->iova + off, view->rkey);
}

static void assert_file(struct bench *b, uint64_t off, uint32_t n, int value)
{
	uint8_t have[2 * PAGE], want[2 * PAGE];

	assert_in_range(n, 1, sizeof(have));
	memset(want, value, n);
	assert_int_equal(pread(b->fd, have, n, (off_t)off), n);
	assert_memory_equal(have, want, n);
}

/* The next event, which must be of this type. */
static struct pinlease_event expect(uint32_t type)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(ctx), .events = POLLIN };
	struct pinlease_event ev = { .size = sizeof(ev) };

	if (pinlease_ctx_next_event(ctx, &ev) != 1) {
		assert_int_equal(poll(&pfd, 1, LONG_MS), 1);
		assert_int_equal(pinlease_ctx_next_event(ctx, &ev), 1);
	}
	assert_int_equal(ev.type, type);
	return ev;
}

static void expect_none(void)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	assert_int_equal(pinlease_ctx_next_event(ctx, &ev), 0);
}

static void finish(struct kt_call *call)
{
	assert_true(kt_call_done(call, LONG_MS));
	assert_int_equal(call->ret, 0);
	kt_call_end(call);
}

static void test_write_sync_read(void **state)
{
	struct bench b;

	(void)state;
	bench_open(&b, "write");
	lease_take(&b, 0, PINLEASE_MODE_AUTO);
	assert_int_equal(b.view.mode, tmpfs() ? PINLEASE_MODE_PINNED : PINLEASE_MODE_STAGED);
	assert_int_equal(peer_write(&b, &b.view, 3 * PAGE + 17, PAGE + 100, 0x51), 0);
	assert_int_equal(pinlease_sync(b.lease, 0, 0, 0), 0);
	assert_file(&b, 3 * PAGE + 17, PAGE + 100, 0x51);
	assert_file(&b, 3 * PAGE, 17, 'k');
	assert_file(&b, 4 * PAGE + 117, PAGE, 'k');
	assert_int_equal(kt_do(&b.pair.peer, IBV_WR_RDMA_READ, b.buf, b.mr->lkey, 2 * PAGE,
			       b.view.iova + 3 * PAGE, b.view.rkey),
			 0);
	assert_int_equal(b.buf[16], 'k');
	assert_int_equal(b.buf[17], 0x51);
	bench_close(&b);
}

/* A write that was only acknowledged, never synced, is in the file after the break, and after a release. */
static void test_break_keeps_writes(void **state)
{
	struct bench b;

	(void)state;
	bench_open(&b, "keeps");
	lease_take(&b, 0, PINLEASE_MODE_AUTO);
	assert_int_equal(peer_write(&b, &b.view, PAGE, PAGE, 0x52), 0);
	assert_int_equal(kt_truncate_now(b.path, FULL, LONG_MS), 0);
	assert_file(&b, PAGE, PAGE, 0x52);
	expect(PINLEASE_EV_BREAK);
	expect(PINLEASE_EV_REVOKED);
	expect(PINLEASE_EV_RESTORED);
	look(&b);
	assert_int_equal(peer_write(&b, &b.view, 5 * PAGE, PAGE, 0x53), 0);
	bench_close(&b);
	b.fd = open(b.path, O_RDONLY | O_CLOEXEC);
	assert_file(&b, 5 * PAGE, PAGE, 0x53);
	assert_file(&b, PAGE, PAGE, 0x52);
	close(b.fd);
}

/* A peer that was told to stop keeps its connection over break and restore. */
static void test_ack_keeps_connection(void **state)
{
	struct pinlease_event ev;
	struct kt_call *opener;
	uint32_t gen;
	struct bench b;

	(void)state;
	bench_open(&b, "ack");
	lease_take(&b, PINLEASE_L_ACK, PINLEASE_MODE_AUTO);
	gen = b.view.gen;
	assert_int_equal(peer_write(&b, &b.view, 0, PAGE, 0x54), 0);
	opener = kt_truncate(b.path, FULL);
	ev = expect(PINLEASE_EV_BREAK);
	assert_int_equal(ev.gen, gen);
	assert_int_equal(ev.cause, PINLEASE_BY_WRITER);
	assert_true(kt_call_blocked(opener, SHORT_MS));
	assert_int_equal(pinlease_view_get(b.lease, 0, &b.view), -EAGAIN);
	assert_int_equal(pinlease_dma_begin(b.lease, 1, &gen), -EAGAIN);
	assert_int_equal(pinlease_sync(b.lease, 0, 0, 0), -EAGAIN);
	/* Told to stop, not stopped by force: what was under way still lands. */
	assert_int_equal(peer_write(&b, &b.view, PAGE, PAGE, 0x55), 0);
	assert_int_equal(pinlease_ack(b.lease, ev.gen), 0);
	finish(opener);
	expect(PINLEASE_EV_REVOKED);
	ev = expect(PINLEASE_EV_RESTORED);
	look(&b);
	assert_int_equal(b.view.gen, ev.gen);
	assert_int_equal(b.view.gen, gen + 1);
	assert_int_equal(kt_qp_state(&b.pair.peer), IBV_QPS_RTS);
	assert_int_equal(peer_write(&b, &b.view, 2 * PAGE, PAGE, 0x56), 0);
	assert_int_equal(pinlease_sync(b.lease, 0, 0, 0), 0);
	assert_file(&b, 0, PAGE, 0x54);
	assert_file(&b, PAGE, PAGE, 0x55);
	assert_file(&b, 2 * PAGE, PAGE, 0x56);
	assert_int_equal(pinlease_ack(b.lease, gen), 0);
	expect_none();
	bench_close(&b);
}

/* The old keys are dead once the lease is revoked, whoever uses them. */
static void test_stale_key(void **state)
{
	struct pinlease_view old;
	struct bench b;

	(void)state;
	bench_open(&b, "stale");
	lease_take(&b, PINLEASE_L_MANUAL, PINLEASE_MODE_AUTO);
	old = b.view;
	assert_int_equal(peer_write(&b, &old, 0, PAGE, 0x57), 0);
	assert_int_equal(kt_truncate_now(b.path, FULL, LONG_MS), 0);
	assert_int_equal(peer_write(&b, &old, PAGE, PAGE, 0x58), -(1000 + IBV_WC_REM_ACCESS_ERR));
	assert_file(&b, PAGE, PAGE, 'k');
	assert_file(&b, 0, PAGE, 0x57);
	expect(PINLEASE_EV_BREAK);
	expect(PINLEASE_EV_REVOKED);
	bench_close(&b);
}

/* Every registration has its own key, works, and is fenced and restored with the others. */
static void test_mr_add(void **state)
{
	struct pinlease_view view = { .size = sizeof(view) }, old;
	struct ibv_pd *first = dev.pd, *second;
	struct pinlease_event ev;
	struct kt_call *opener;
	struct kt_pair pair;
	uint32_t index = 99;
	struct ibv_mr *mr;
	struct bench b;

	(void)state;
	bench_open(&b, "mr_add");
	lease_take(&b, PINLEASE_L_ACK, PINLEASE_MODE_AUTO);
	second = ibv_alloc_pd(dev.ctx);
	assert_non_null(second);
	assert_int_equal(pinlease_mr_add(b.lease, second, IBV_ACCESS_REMOTE_WRITE, &index), 0);
	assert_int_equal(index, 1);
	assert_int_equal(pinlease_view_get(b.lease, 1, &view), 0);
	assert_int_equal(pinlease_view_get(b.lease, 2, &view), -ERANGE);
	assert_ptr_equal(view.addr, b.view.addr);
	assert_int_not_equal(view.rkey, b.view.rkey);

	/* A queue pair of the second PD may use the second key only. */
	dev.pd = second;
	assert_int_equal(kt_pair_make(&dev, &pair, 4), 0);
	dev.pd = first;
	mr = ibv_reg_mr(second, b.buf, sizeof(b.buf), IBV_ACCESS_LOCAL_WRITE);
	assert_non_null(mr);
	memset(b.buf, 0x59, PAGE);
	assert_int_equal(kt_do(&pair.peer, IBV_WR_RDMA_WRITE, b.buf, mr->lkey, PAGE, view.iova + PAGE,
			       view.rkey),
			 0);
	old = view;
	assert_int_equal(peer_write(&b, &b.view, 0, PAGE, 0x5a), 0);
	opener = kt_truncate(b.path, FULL);
	ev = expect(PINLEASE_EV_BREAK);
	assert_int_equal(pinlease_ack(b.lease, ev.gen), 0);
	finish(opener);
	expect(PINLEASE_EV_REVOKED);
	expect(PINLEASE_EV_RESTORED);
	assert_file(&b, PAGE, PAGE, 0x59);
	assert_file(&b, 0, PAGE, 0x5a);
	look(&b);
	assert_int_equal(pinlease_view_get(b.lease, 1, &view), 0);
	memset(b.buf, 0x5b, PAGE);
	assert_int_equal(kt_do(&pair.peer, IBV_WR_RDMA_WRITE, b.buf, mr->lkey, PAGE, view.iova + 2 * PAGE,
			       view.rkey),
			 0);
	assert_int_equal(peer_write(&b, &b.view, 3 * PAGE, PAGE, 0x5c), 0);
	assert_true(old.rkey != view.rkey || old.gen != view.gen);
	assert_int_equal(pinlease_sync(b.lease, 0, 0, 0), 0);
	assert_file(&b, 2 * PAGE, PAGE, 0x5b);
	assert_file(&b, 3 * PAGE, PAGE, 0x5c);
	bench_close(&b);
	kt_pair_drop(&pair);
	assert_int_equal(ibv_dereg_mr(mr), 0);
	assert_int_equal(ibv_dealloc_pd(second), 0);
}

/* L_MANUAL: back by pinlease_restore only, and not while somebody has the file open. */
static void test_restore_by_hand(void **state)
{
	struct pinlease_why why = { 0 };
	struct kt_call *opener;
	uint32_t gen;
	struct bench b;

	(void)state;
	bench_open(&b, "manual");
	lease_take(&b, PINLEASE_L_MANUAL, PINLEASE_MODE_AUTO);
	gen = b.view.gen;
	opener = kt_open(b.path, O_RDWR);
	assert_true(kt_call_done(opener, LONG_MS));
	assert_true(opener->ret >= 0);
	expect(PINLEASE_EV_BREAK);
	expect(PINLEASE_EV_REVOKED);
	assert_int_equal(pinlease_restore(b.lease, &why), -EAGAIN);
	assert_int_equal(why.stage, PINLEASE_AT_GUARD);
	kt_call_end(opener);
	kt_sleep_ms(SHORT_MS);
	expect_none();
	assert_int_equal(fcntl(b.fd, F_GETLEASE), F_UNLCK);
	assert_int_equal(pinlease_restore(b.lease, &why), 0);
	look(&b);
	assert_int_equal(b.view.gen, gen + 1);
	assert_int_equal(peer_write(&b, &b.view, 0, PAGE, 0x5d), 0);
	assert_int_equal(pinlease_restore(b.lease, &why), 0);
	bench_close(&b);
}

/* A range that the file no longer has comes back shorter, then not at all, then whole. */
static void test_restore_shorter(void **state)
{
	struct pinlease_why why = { 0 };
	struct pinlease_event ev;
	struct bench b;

	(void)state;
	bench_open(&b, "shorter");
	lease_take(&b, 0, PINLEASE_MODE_AUTO);
	assert_int_equal(kt_truncate_now(b.path, FULL / 2, LONG_MS), 0);
	expect(PINLEASE_EV_BREAK);
	expect(PINLEASE_EV_REVOKED);
	ev = expect(PINLEASE_EV_RESTORED);
	assert_int_equal(ev.len, FULL / 2);
	look(&b);
	assert_int_equal(b.view.len, FULL / 2);
	assert_int_equal(peer_write(&b, &b.view, FULL / 2 - PAGE, PAGE, 0x5e), 0);
	assert_int_equal(kt_truncate_now(b.path, 0, LONG_MS), 0);
	expect(PINLEASE_EV_BREAK);
	expect(PINLEASE_EV_REVOKED);
	ev = expect(PINLEASE_EV_RESTORE_FAILED);
	assert_int_equal(ev.err, -ENODATA);
	assert_int_equal(pinlease_restore(b.lease, &why), -ENODATA);
	assert_int_equal(why.reason, PINLEASE_WHY_SHRUNK);
	assert_int_equal(kt_truncate_now(b.path, FULL, LONG_MS), 0);
	assert_int_equal(pinlease_restore(b.lease, &why), 0);
	look(&b);
	assert_int_equal(b.view.len, FULL);
	assert_int_equal(peer_write(&b, &b.view, FULL - PAGE, PAGE, 0x5f), 0);
	assert_int_equal(pinlease_sync(b.lease, 0, 0, 0), 0);
	assert_file(&b, FULL - PAGE, PAGE, 0x5f);
	while (pinlease_ctx_next_event(ctx, &ev) == 1)
		assert_in_range(ev.type, PINLEASE_EV_BREAK, PINLEASE_EV_RESTORE_FAILED);
	bench_close(&b);
}

/* An operation of the owner's own account holds the opener up until it has ended. */
static void test_drain(void **state)
{
	struct kt_call *opener;
	uint32_t gen;
	struct bench b;

	(void)state;
	bench_open(&b, "drain");
	lease_take(&b, 0, PINLEASE_MODE_AUTO);
	assert_int_equal(pinlease_dma_begin(b.lease, 2, &gen), 0);
	opener = kt_truncate(b.path, FULL);
	expect(PINLEASE_EV_BREAK);
	assert_int_equal(peer_write(&b, &b.view, 0, PAGE, 0x60), 0);
	pinlease_dma_end(b.lease, 1, gen);
	assert_true(kt_call_blocked(opener, SHORT_MS));
	pinlease_dma_end(b.lease, 1, gen);
	finish(opener);
	assert_int_equal(expect(PINLEASE_EV_REVOKED).in_flight, 0);
	expect(PINLEASE_EV_RESTORED);
	assert_file(&b, 0, PAGE, 0x60);
	bench_close(&b);
}

/* The application's own mapping: its address in every mode, and it shows the file again afterwards. */
static void test_own_mapping(void **state)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = dev.pd, .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct bench b;
	uint8_t *map;

	(void)state;
	bench_open(&b, "mapping");
	map = mmap(NULL, FULL, PROT_READ | PROT_WRITE, MAP_SHARED, b.fd, 0);
	assert_true(map != MAP_FAILED);
	lo.addr = map;
	assert_int_equal(pinlease_acquire(b.file, 0, FULL, &lo, NULL, &b.lease), 0);
	look(&b);
	assert_ptr_equal(b.view.addr, map);
	assert_int_equal(peer_write(&b, &b.view, 7 * PAGE, PAGE, 0x61), 0);
	assert_int_equal(map[7 * PAGE], 0x61);
	assert_int_equal(pinlease_release(b.lease), 0);
	assert_int_equal(map[7 * PAGE], 0x61);
	map[7 * PAGE] = 0x62;
	assert_file(&b, 7 * PAGE, 1, 0x62);
	munmap(map, FULL);
	lease_take(&b, 0, PINLEASE_MODE_AUTO);
	bench_close(&b);
}

/* A change of our own breaks what it touches, and nothing else. */
static void test_own_change(void **state)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = dev.pd, .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_view view = { .size = sizeof(view) };
	struct pinlease_event ev;
	struct pinlease *low;
	struct bench b;

	(void)state;
	bench_open(&b, "own_change");
	assert_int_equal(pinlease_acquire(b.file, 0, FULL / 2, &lo, NULL, &low), 0);
	assert_int_equal(pinlease_acquire(b.file, FULL / 2, FULL / 2, &lo, NULL, &b.lease), 0);
	look(&b);
	assert_int_equal(pinlease_view_get(low, 0, &view), 0);
	assert_int_equal(peer_write(&b, &b.view, 0, PAGE, 0x63), 0);
	assert_int_equal(pinlease_file_allocate(b.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						FULL / 2 + PAGE, PAGE),
			 0);
	ev = expect(PINLEASE_EV_BREAK);
	assert_ptr_equal(ev.lease, b.lease);
	assert_int_equal(ev.cause, PINLEASE_BY_OWNER);
	expect(PINLEASE_EV_REVOKED);
	expect(PINLEASE_EV_RESTORED);
	assert_file(&b, FULL / 2, PAGE, 0x63);
	assert_file(&b, FULL / 2 + PAGE, PAGE, 0);
	/* The other one was never touched: same keys, same generation, still writing. */
	assert_int_equal(peer_write(&b, &view, PAGE, PAGE, 0x64), 0);
	expect_none();
	assert_int_equal(pinlease_release(low), 0);
	assert_file(&b, PAGE, PAGE, 0x64);
	bench_close(&b);
}

static int group_setup(void **state)
{
	int r = kt_fs_make(&fs, fs_type, 64);

	if (r == -ENODEV && strstr(fs_type, "dax"))
		kt_skip("no /dev/pmem0");
	if (r || kt_rdma_open(&dev))
		return -1;
	(void)state;
	return pinlease_ctx_new(NULL, &ctx);
}

static int group_teardown(void **state)
{
	int r = pinlease_ctx_free(ctx);

	(void)state;
	kt_rdma_close(&dev);
	return r;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_sync_read),	  cmocka_unit_test(test_break_keeps_writes),
		cmocka_unit_test(test_ack_keeps_connection), cmocka_unit_test(test_stale_key),
		cmocka_unit_test(test_mr_add),		  cmocka_unit_test(test_restore_by_hand),
		cmocka_unit_test(test_restore_shorter),	  cmocka_unit_test(test_drain),
		cmocka_unit_test(test_own_mapping),	  cmocka_unit_test(test_own_change),
	};

	rt_assert(argc == 2, "usage: lease FILESYSTEM");
	fs_type = argv[1];
	kt_init();
	rt_require();
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
