/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How often things are done in the tests: the one place where counts live.
 * PL_ROUNDS(name, ci, full): scripts/test runs the ci counts, scripts/test --long
 * the full ones (PINLEASE_TIER=long in the environment).
 */
PL_ROUNDS(truncate_rounds, 20, 200)	/* rdma: break rounds under load, per kernel */
PL_ROUNDS(unguarded_rounds, 20, 20)	/* rdma: rounds in which the control must lose */
PL_ROUNDS(kill_rounds, 20, 100)		/* rdma, uring: owners killed under load, per kernel */
PL_ROUNDS(kill_control_rounds, 20, 100)	/* rdma: controls of the kill rounds */
PL_ROUNDS(mass_files, 2000, 2000)	/* uring, unit: files broken at once */
