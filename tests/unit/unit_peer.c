/* SPDX-License-Identifier: BSD-3-Clause */
/* A peer with no owner: no ctx, no lease, messages made by hand. */
#include <pinlease/peers.h>

#include "unit.h"
#include "wire.h"

static unsigned char buf[PINLEASE_MESSAGE_MAX];

static size_t make(uint32_t type, uint32_t gen, uint32_t access)
{
	const struct pl_wire w = { .type = type, .gen = gen, .lease = 3, .grant = 4, .addr = 0x10000,
				   .len = 8192, .rkey = 100 + gen, .access = access, .align = 64,
				   .left_ms = 5 };
	int n = pl_wire_encode(&w, buf, sizeof(buf));

	assert_true(n > 0);
	return (size_t)n;
}

static int message(struct pinlease_peer *peer, uint32_t type, uint32_t gen)
{
	return pinlease_peer_message(peer, buf, make(type, gen, PINLEASE_WRITE));
}

static struct pinlease_peer *attach(uint32_t access)
{
	struct pinlease_peer *peer = NULL;

	assert_int_equal(pinlease_peer_attach(buf, make(PL_WIRE_GRANT, 1, access), &peer), 0);
	assert_non_null(peer);
	return peer;
}

static int begin(struct pinlease_peer *peer, uint32_t access, uint64_t off, uint64_t len)
{
	struct pinlease_peer_key key = { .size = sizeof(key) };
	int r = pinlease_peer_begin(peer, access, off, len, &key);

	if (r)
		return r;
	assert_int_equal(key.addr, 0x10000 + off);
	assert_int_equal(key.rkey, 100 + key.gen);
	assert_int_equal(key.align, 64);
	return (int)key.gen;
}

static void keeps_to_its_grant(void **state)
{
	struct pinlease_peer *peer = attach(PINLEASE_READ);

	(void)state;
	assert_int_equal(begin(peer, PINLEASE_WRITE, 0, 1), -EACCES);
	assert_int_equal(begin(peer, PINLEASE_READ, 0, 8193), -ERANGE);
	assert_int_equal(begin(peer, PINLEASE_READ, 8193, 1), -ERANGE);
	assert_int_equal(begin(peer, PINLEASE_READ, 1, UINT64_MAX), -ERANGE);
	assert_int_equal(begin(peer, PINLEASE_READ, 0, 0), -EINVAL);
	assert_int_equal(begin(peer, 3, 0, 1), -EINVAL);
	assert_int_equal(begin(peer, PINLEASE_READ, 8191, 1), 1);
	assert_int_equal(pinlease_peer_detach(peer), -EBUSY);
	assert_int_equal(pinlease_peer_end(peer, 1, 1), 0);
	assert_int_equal(pinlease_peer_detach(peer), 0);
}

static void answers_when_drained(void **state)
{
	struct pinlease_peer *peer = attach(PINLEASE_WRITE);
	struct pl_wire w;
	int n;

	(void)state;
	assert_int_equal(begin(peer, PINLEASE_WRITE, 16, 16), 1);
	assert_int_equal(begin(peer, PINLEASE_READ, 4096, 16), 1);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), 0);
	assert_int_equal(message(peer, PL_WIRE_RECALL, 1), 1);
	assert_int_equal(begin(peer, PINLEASE_READ, 0, 1), -EAGAIN);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), -EAGAIN);
	assert_int_equal(pinlease_peer_end(peer, 1, 1), 0);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), -EAGAIN);
	assert_int_equal(pinlease_peer_end(peer, 1, 1), 1);
	assert_int_equal(pinlease_peer_answer(peer, buf, 55), -ENOSPC);
	n = pinlease_peer_answer(peer, buf, sizeof(buf));
	assert_int_equal(n, 56);
	assert_int_equal(pl_wire_decode(buf, (size_t)n, &w), 0);
	assert_int_equal(w.type, PL_WIRE_RETURNED);
	assert_int_equal(w.count, 1);
	assert_int_equal(w.range[0].off, 16);
	assert_int_equal(w.range[0].len, 16);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), 0);
	/* Asked again, it says the same again. */
	assert_int_equal(message(peer, PL_WIRE_RECALL, 1), 1);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), 56);
	/* The next generation: other keys, nothing written. */
	assert_int_equal(message(peer, PL_WIRE_RESTORED, 2), 0);
	assert_int_equal(begin(peer, PINLEASE_READ, 0, 1), 2);
	assert_int_equal(pinlease_peer_end(peer, 2, 1), 0);
	assert_int_equal(message(peer, PL_WIRE_RECALL, 2), 1);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), 40);
	assert_int_equal(pinlease_peer_detach(peer), 0);
}

/* A flushed completion is no proof that the data will not land yet. */
static void a_failure_is_not_returned(void **state)
{
	struct pinlease_peer *peer = attach(PINLEASE_WRITE);

	(void)state;
	assert_int_equal(begin(peer, PINLEASE_WRITE, 0, 16), 1);
	assert_int_equal(pinlease_peer_end(peer, 1, 0), 0);
	assert_int_equal(message(peer, PL_WIRE_RECALL, 1), 1);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), -EIO);
	assert_int_equal(message(peer, PL_WIRE_RESTORED, 2), 0);
	assert_int_equal(message(peer, PL_WIRE_RECALL, 2), 1);
	assert_int_equal(pinlease_peer_answer(peer, buf, sizeof(buf)), 40);
	assert_int_equal(pinlease_peer_detach(peer), 0);
}

static void late_and_foreign_messages(void **state)
{
	struct pinlease_peer *peer = attach(PINLEASE_WRITE), *none = NULL;
	size_t n;

	(void)state;
	assert_int_equal(begin(peer, PINLEASE_WRITE, 0, 16), 1);
	assert_int_equal(message(peer, PL_WIRE_RECALL, 2), -EPROTO);
	assert_int_equal(message(peer, PL_WIRE_RETURNED, 1), -EPROTO);
	assert_int_equal(message(peer, PL_WIRE_RESTORED, 1), -ESTALE);
	assert_int_equal(message(peer, PL_WIRE_RESTORED, 3), 0);
	assert_int_equal(message(peer, PL_WIRE_RECALL, 2), -ESTALE);
	/* An end of an older generation is not this one's. */
	assert_int_equal(begin(peer, PINLEASE_WRITE, 0, 16), 3);
	assert_int_equal(pinlease_peer_end(peer, 1, 0), 0);
	assert_int_equal(pinlease_peer_detach(peer), -EBUSY);
	assert_int_equal(pinlease_peer_end(peer, 3, 1), 0);
	n = make(PL_WIRE_RECALL, 3, 0);
	buf[24]++;
	assert_int_equal(pinlease_peer_message(peer, buf, n), -EPROTO);
	assert_int_equal(pinlease_peer_attach(buf, n, &none), -EPROTO);
	assert_null(none);
	assert_int_equal(message(peer, PL_WIRE_GONE, 3), 0);
	assert_int_equal(begin(peer, PINLEASE_READ, 0, 1), -ESTALE);
	assert_int_equal(message(peer, PL_WIRE_RESTORED, 4), -ESTALE);
	assert_int_equal(pinlease_peer_detach(peer), 0);
}

static void a_child_has_no_part_in_it(void **state)
{
	struct pinlease_peer *peer = attach(PINLEASE_WRITE);
	pid_t pid;

	(void)state;
	assert_int_equal(begin(peer, PINLEASE_WRITE, 0, 16), 1);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		bool ok = begin(peer, PINLEASE_WRITE, 0, 1) == -ECHILD;

		ok = ok && pinlease_peer_end(peer, 1, 1) == -ECHILD;
		ok = ok && message(peer, PL_WIRE_RECALL, 1) == -ECHILD;
		ok = ok && pinlease_peer_answer(peer, buf, sizeof(buf)) == -ECHILD;
		_exit(!(ok && pinlease_peer_detach(peer) == 0));
	}
	assert_int_equal(unit_wait_child(pid), 0);
	assert_int_equal(pinlease_peer_end(peer, 1, 1), 0);
	assert_int_equal(pinlease_peer_detach(peer), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keeps_to_its_grant),	     cmocka_unit_test(answers_when_drained),
		cmocka_unit_test(a_failure_is_not_returned), cmocka_unit_test(late_and_foreign_messages),
		cmocka_unit_test(a_child_has_no_part_in_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
