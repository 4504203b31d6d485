/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The carrier over a queue pair, against another side that is no carrier: sends what is no message, too
 * much, too little, takes nothing, goes away. Each ends the carrier, and with it the wait for the grant.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ladder_peer.h"

#define PAGE	   4096u
#define FULL	   (4u * PAGE)
#define TIMEOUT_MS 300u

enum { RECEIVED = 1, SENT }; /* wr_id of raw */

static struct kt_fs fs;
static struct kt_rdma dev;
static struct pinlease_ctx *ctx;

struct scene {
	char path[KT_PATH_MAX];
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_grant *grant;
	struct pinlease_carry *carry;
	struct kt_qp owner, raw;
	struct ibv_mr *mr;
	bool polls;	    /* the application does, for what is sent */
	char buf[2 * PAGE]; /* what raw sends, what it receives */
};

static int take(struct scene *s)
{
	static unsigned char buf[PINLEASE_CARRY_MAX];
	uint64_t until = kt_now() + LADDER_LONG_NS;
	uint32_t kind;
	int r;

	while (!(r = pinlease_carry_recv(s->carry, buf, sizeof(buf), &kind)))
		assert_true(kt_now() < until);
	return r;
}

static uint64_t in_flight(struct scene *s)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	assert_int_equal(pinlease_lease_info(s->lease, &info), 0);
	return info.in_flight;
}

static void raw_receives(struct scene *s)
{
	struct ibv_sge sge = { .addr = (uintptr_t)s->buf + PAGE, .length = PAGE, .lkey = s->mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = RECEIVED, .sg_list = &sge, .num_sge = 1 }, *bad;

	assert_int_equal(ibv_post_recv(s->raw.qp, &wr, &bad), 0);
}

static void scene_open(struct scene *s, bool receives)
{
	/* Where nothing is to time out, nothing does though the machine may stand still for a moment. */
	const struct pinlease_carry_opts opts = { .size = sizeof(opts),
						  .timeout_ms = receives && !s->polls ? 0 : TIMEOUT_MS };
	struct pinlease_opts o = { .size = sizeof(o), .pd = dev.pd, .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	static unsigned int files;
	char name[16];

	snprintf(name, sizeof(name), "file%u", files++);
	assert_int_equal(kt_file(s->path, fs.dir, name, FULL), 0);
	assert_int_equal(pinlease_file_open(ctx, s->path, NULL, NULL, &s->file), 0);
	assert_int_equal(pinlease_acquire(s->file, 0, FULL, &o, NULL, &s->lease), 0);
	assert_int_equal(pinlease_grant_new(s->lease, NULL, &s->grant), 0);
	s->mr = ibv_reg_mr(dev.pd, s->buf, sizeof(s->buf), IBV_ACCESS_LOCAL_WRITE);
	assert_non_null(s->mr);
	assert_int_equal(pinlease_carry_verbs(dev.pd, &opts, &s->carry), 0);
	assert_int_equal(pinlease_carry_send(s->carry, "x", 1), -ENOTCONN);
	assert_int_equal(ladder_qp(&dev, s->carry, s->polls, &s->owner), 0);
	assert_int_equal(kt_qp_make(&dev, &s->raw, 4), 0);
	assert_int_equal(kt_qp_connect(&dev, &s->owner, &s->raw.ep), 0);
	assert_int_equal(kt_qp_connect(&dev, &s->raw, &s->owner.ep), 0);
	if (receives)
		raw_receives(s);
	assert_int_equal(pinlease_carry_start(s->carry, s->owner.qp), 0);
	assert_int_equal(pinlease_carry_start(s->carry, s->owner.qp), -EINVAL);
	assert_int_equal(pinlease_carry_add_grant(s->carry, s->grant), 0);
	assert_int_equal(in_flight(s), 1);
}

static void scene_close(struct scene *s)
{
	assert_int_equal(pinlease_carry_free(s->carry), -EBUSY);
	kt_qp_drop(&s->owner);
	kt_qp_drop(&s->raw);
	assert_int_equal(pinlease_carry_free(s->carry), 0);
	assert_int_equal(ibv_dereg_mr(s->mr), 0);
	assert_int_equal(pinlease_grant_free(s->grant), 0);
	assert_int_equal(pinlease_release(s->lease), 0);
	assert_int_equal(pinlease_file_close(s->file), 0);
}

/* How it ended: what was received meanwhile is in the same queue. */
static enum ibv_wc_status raw_send(struct scene *s, const void *bytes, uint32_t len)
{
	struct ibv_wc wc;

	memcpy(s->buf, bytes, len);
	assert_int_equal(kt_post(&s->raw, IBV_WR_SEND, SENT, s->buf, s->mr->lkey, len, 0, 0), 0);
	do
		assert_int_equal(kt_poll(&s->raw, KT_LONG, &wc), 1);
	while (wc.wr_id != SENT);
	return wc.status;
}

static void test_no_message(void **state)
{
	static const char *const frame[] = { "GET / HTTP/1.1\r\n", "PLCY\4\0\0\0", "P" };
	struct scene s = { 0 };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(frame) / sizeof(frame[0]); i++) {
		scene_open(&s, true);
		raw_send(&s, frame[i], (uint32_t)strlen(frame[i]));
		assert_int_equal(take(&s), -EPROTO);
		assert_int_equal(in_flight(&s), 0);
		assert_int_equal(pinlease_carry_tell(s.carry), -EPROTO);
		scene_close(&s);
	}
}

/* The head says another length than the SEND has; more than any receive has room for. */
static void test_wrong_length(void **state)
{
	struct scene s = { 0 };
	char big[PAGE] = "PLCY\1\0\377\3";

	(void)state;
	scene_open(&s, true);
	raw_send(&s, "PLCY\1\0\5\0xx", 10);
	assert_int_equal(take(&s), -EPROTO);
	scene_close(&s);
	scene_open(&s, true);
	/* Of soft-RoCE; elsewhere it may be IBV_WC_REM_INV_REQ_ERR. */
	assert_int_equal(raw_send(&s, big, sizeof(big)), IBV_WC_REM_OP_ERR);
	assert_int_equal(take(&s), -EPROTO);
	assert_int_equal(in_flight(&s), 0);
	scene_close(&s);
}

/* A whole frame whose message is nobody's changes nothing, and one of the application's comes through. */
static void test_nobodys_message(void **state)
{
	struct scene s = { 0 };

	(void)state;
	scene_open(&s, true);
	assert_int_equal(raw_send(&s, "PLCY\3\0\4\0PNLS", 12), IBV_WC_SUCCESS);
	assert_int_equal(raw_send(&s, "PLCY\1\0\2\0hi", 10), IBV_WC_SUCCESS);
	assert_int_equal(take(&s), 2);
	assert_int_equal(in_flight(&s), 1);
	scene_close(&s);
}

static void test_takes_nothing(void **state)
{
	struct scene s = { 0 };

	(void)state;
	scene_open(&s, false);
	assert_int_equal(take(&s), -ETIMEDOUT);
	assert_int_equal(in_flight(&s), 0);
	scene_close(&s);
}

/* The application was stopped for longer than a SEND may take, and has yet to look at its completion. */
static void test_completion_not_polled(void **state)
{
	struct scene s = { .polls = true };
	struct ibv_wc wc;

	(void)state;
	scene_open(&s, true);
	kt_sleep_ms(2 * TIMEOUT_MS);
	assert_int_equal(pinlease_carry_tell(s.carry), 0);
	assert_int_equal(kt_poll(&s.owner, KT_LONG, &wc), 1);
	assert_int_equal(wc.status, IBV_WC_SUCCESS);
	assert_int_equal(pinlease_carry_sent(s.carry, &wc), 1);
	assert_int_equal(pinlease_carry_timeout(s.carry), -1);
	kt_sleep_ms(TIMEOUT_MS);
	assert_int_equal(pinlease_carry_tell(s.carry), 0);
	assert_int_equal(in_flight(&s), 1);
	scene_close(&s);
}

/* Nobody notices till something is sent. */
static void test_goes_away(void **state)
{
	struct scene s = { 0 };
	int r;

	(void)state;
	scene_open(&s, true);
	kt_sleep_ms(20);
	kt_qp_drop(&s.raw);
	assert_int_equal(in_flight(&s), 1);
	r = pinlease_carry_send(s.carry, "x", 1);
	assert_true(!r || r == -ECONNRESET);
	r = take(&s);
	assert_true(r == -ECONNRESET || r == -ETIMEDOUT);
	assert_int_equal(in_flight(&s), 0);
	scene_close(&s);
}

static int group_setup(void **state)
{
	(void)state;
	if (kt_fs_make(&fs, "tmpfs", 16) || kt_rdma_open(&dev))
		return -1;
	return pinlease_ctx_new(NULL, &ctx);
}

static int group_teardown(void **state)
{
	int r = pinlease_ctx_free(ctx);

	(void)state;
	kt_rdma_close(&dev);
	kt_fs_drop(&fs);
	return r;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_message),	cmocka_unit_test(test_wrong_length),
		cmocka_unit_test(test_nobodys_message), cmocka_unit_test(test_takes_nothing),
		cmocka_unit_test(test_completion_not_polled), cmocka_unit_test(test_goes_away),
	};

	kt_init();
	rt_require();
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
