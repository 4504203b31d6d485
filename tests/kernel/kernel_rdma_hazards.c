/* SPDX-License-Identifier: BSD-3-Clause */
/* What goes wrong with a registration and no lease: the reasons for the library, and for the modes it
 * chooses. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rdma_scene.h"

#define ODP   (KT_ACCESS_WRITE | IBV_ACCESS_ON_DEMAND)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* Writes are acknowledged and in the file ... */
static void writes_arrive(struct wire *w, const struct target *t)
{
	assert_int_equal(wire_write(w, t, 0, SCENE_SIZE, 'A'), 0);
	assert_true(file_holds(t->path, 0, SCENE_SIZE, 'A', 0));
}

/* ... acknowledged, and not in the file, and nothing says so. */
static void writes_are_lost(struct wire *w, const struct target *t)
{
	assert_int_equal(wire_write(w, t, 0, SCENE_SIZE, 'B'), 0);
	assert_int_equal(kt_qp_state(&w->pair.peer), IBV_QPS_RTS);
	assert_int_equal(kt_qp_state(&w->pair.owner), IBV_QPS_RTS);
	assert_false(file_holds(t->path, 0, PAGE, 'B', 0));
	assert_false(file_holds(t->path, SCENE_SIZE - PAGE, PAGE, 'B', 0));
}

static void truncate_and_extend(const struct target *t)
{
	assert_int_equal(kt_truncate_now(t->path, 0, SCENE_LONG), 0);
	assert_int_equal(kt_truncate_now(t->path, SCENE_SIZE, SCENE_LONG), 0);
}

static void punch(const struct target *t)
{
	assert_int_equal(fallocate(t->fd, PUNCH, 0, SCENE_SIZE), 0);
}

static void hazard(enum scene_fs which, void (*change)(const struct target *))
{
	struct target t;
	struct wire w;

	target_wire_make(&t, &w, which, KT_ACCESS_WRITE);
	writes_arrive(&w, &t);
	change(&t);
	writes_are_lost(&w, &t);
	target_wire_drop(&t, &w);
}

static void truncate_under_a_tmpfs_pin_loses_writes_silently(void **state)
{
	(void)state;
	hazard(TMPFS, truncate_and_extend);
	hazard(TMPFS, punch);
}

static void before_6_5_the_same_on_ext4_xfs_btrfs(void **state)
{
	(void)state;
	if (generation() != LONGTERM_WRITE) {
		kt_note("this kernel refuses the pin");
		return;
	}
	for (enum scene_fs which = EXT4; which <= BTRFS; which++) {
		hazard(which, truncate_and_extend);
		hazard(which, punch);
	}
}

/* The page is clean after the first fsync, and a device's write through a pin does not make it dirty again.
 */
static void before_6_5_fsync_under_a_write_pin_forgets_the_second_write(void **state)
{
	(void)state;
	if (generation() != LONGTERM_WRITE) {
		kt_note("this kernel refuses the pin");
		return;
	}
	for (enum scene_fs which = EXT4; which <= BTRFS; which++) {
		struct target t;
		struct wire w;

		target_wire_make(&t, &w, which, KT_ACCESS_WRITE);
		assert_int_equal(wire_write(&w, &t, 0, PAGE, 'A'), 0);
		assert_int_equal(fsync(t.fd), 0);
		assert_true(file_holds(t.path, 0, PAGE, 'A', O_DIRECT));
		assert_int_equal(wire_write(&w, &t, 0, PAGE, 'B'), 0);
		assert_int_equal(fsync(t.fd), 0);
		assert_true(file_holds(t.path, 0, PAGE, 'A', O_DIRECT));
		/* What does help, with the DMA at rest. */
		assert_int_equal(wire_write(&w, &t, 0, PAGE, 'C'), 0);
		assert_int_equal(madvise(t.map, PAGE, MADV_POPULATE_WRITE), 0);
		assert_int_equal(fsync(t.fd), 0);
		assert_true(file_holds(t.path, 0, PAGE, 'C', O_DIRECT));
		target_wire_drop(&t, &w);
	}
}

static void with_odp_fsync_alone_makes_the_second_write_durable(void **state)
{
	(void)state;
	if (generation() != WITH_ODP) {
		kt_note("no ODP");
		return;
	}
	for (enum scene_fs which = EXT4; which <= BTRFS; which++) {
		struct target t;
		struct wire w;

		target_wire_make(&t, &w, which, ODP);
		for (int byte = 'A'; byte <= 'C'; byte++) {
			assert_int_equal(wire_write(&w, &t, 0, PAGE, byte), 0);
			assert_int_equal(fsync(t.fd), 0);
			assert_true(file_holds(t.path, 0, PAGE, byte, O_DIRECT));
		}
		target_wire_drop(&t, &w);
	}
}

/* The responder gets there after it has told the requester. */
static int state_soon(struct kt_qp *q, int want)
{
	for (int ms = 0; ms < SCENE_LONG && kt_qp_state(q) != want; ms++)
		kt_sleep_ms(1);
	return kt_qp_state(q);
}

static void with_odp_a_truncate_cuts_the_connection(void **state)
{
	(void)state;
	if (generation() != WITH_ODP) {
		kt_note("no ODP");
		return;
	}
	for_each_fs(which)
	{
		struct target t;
		struct wire w;

		target_wire_make(&t, &w, which, ODP);
		writes_arrive(&w, &t);
		assert_int_equal(kt_truncate_now(t.path, 0, SCENE_LONG), 0);
		assert_int_equal(wire_write(&w, &t, 0, PAGE, 'B'), -(1000 + IBV_WC_REM_ACCESS_ERR));
		assert_int_equal(state_soon(&w.pair.peer, IBV_QPS_ERR), IBV_QPS_ERR);
		assert_int_equal(state_soon(&w.pair.owner, IBV_QPS_ERR), IBV_QPS_ERR);
		target_wire_drop(&t, &w);
	}
}

static void with_odp_a_punched_hole_is_silently_filled_again(void **state)
{
	(void)state;
	if (generation() != WITH_ODP) {
		kt_note("no ODP");
		return;
	}
	for_each_fs(which)
	{
		struct target t;
		struct wire w;

		target_wire_make(&t, &w, which, ODP);
		writes_arrive(&w, &t);
		punch(&t);
		assert_true(file_holds(t.path, 0, PAGE, 0, 0));
		assert_int_equal(wire_write(&w, &t, 0, PAGE, 'B'), 0);
		assert_true(file_holds(t.path, 0, PAGE, 'B', 0));
		target_wire_drop(&t, &w);
	}
}

/* What a peer reads through the registration after the file was changed in three ways. */
static void direct_write(const struct target *t, int byte)
{
	int fd = open(t->path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	void *block = aligned_alloc(PAGE, PAGE);

	assert_true(fd >= 0);
	memset(block, byte, PAGE);
	assert_int_equal(pwrite(fd, block, PAGE, 0), PAGE);
	free(block);
	close(fd);
	assert_true(file_holds(t->path, 0, PAGE, byte, 0));
}

static void a_read_pin_sees_write_and_stores_but_no_o_direct_write(void **state)
{
	char page[PAGE];

	(void)state;
	for (enum scene_fs which = EXT4; which <= XFS; which++) {
		struct target t;
		struct wire w;

		target_wire_make(&t, &w, which, KT_ACCESS_READ);
		memset(page, 'W', sizeof(page));
		assert_int_equal(pwrite(t.fd, page, PAGE, 0), PAGE);
		assert_int_equal(wire_read(&w, &t, 0, PAGE), 0);
		assert_true(all_bytes(w.buf, PAGE, 'W'));
		memset(t.map, 'S', PAGE);
		assert_int_equal(wire_read(&w, &t, 0, PAGE), 0);
		assert_true(all_bytes(w.buf, PAGE, 'S'));
		direct_write(&t, 'D');
		assert_int_equal(wire_read(&w, &t, 0, PAGE), 0);
		assert_true(all_bytes(w.buf, PAGE, 'S'));
		target_wire_drop(&t, &w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(truncate_under_a_tmpfs_pin_loses_writes_silently),
		cmocka_unit_test(before_6_5_the_same_on_ext4_xfs_btrfs),
		cmocka_unit_test(before_6_5_fsync_under_a_write_pin_forgets_the_second_write),
		cmocka_unit_test(with_odp_fsync_alone_makes_the_second_write_durable),
		cmocka_unit_test(with_odp_a_truncate_cuts_the_connection),
		cmocka_unit_test(with_odp_a_punched_hole_is_silently_filled_again),
		cmocka_unit_test(a_read_pin_sees_write_and_stores_but_no_o_direct_write),
	};

	kt_init();
	return cmocka_run_group_tests(tests, rdma_setup, rdma_teardown);
}
