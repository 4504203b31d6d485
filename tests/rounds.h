/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How often things are done in the tests: the one place where counts live.
 * PL_ROUNDS(name, ci, full): scripts/test runs the ci counts, scripts/test --long
 * the full ones (PINLEASE_TIER=long in the environment).
 */
PL_ROUNDS(truncate_rounds, 6, 50)	/* rdma: breaks under load, per file system and way of restoring */
PL_ROUNDS(unguarded_rounds, 20, 20)	/* rdma: rounds in which the control must lose */
PL_ROUNDS(rdma_kill_rounds, 10, 100)	/* rdma: owners killed under load, per kernel, order and child */
PL_ROUNDS(rdma_kill_spawned, 3, 30)	/* rdma: the same, per way of making a child that is not fork alone */
PL_ROUNDS(kill_rounds, 20, 100)		/* uring: owners killed under load */
PL_ROUNDS(kill_control_rounds, 20, 100)	/* rdma: controls of the kill rounds */
PL_ROUNDS(kill_control_late, 1, 11)	/* rdma: of those, how many must see late writes at least */
PL_ROUNDS(peer_kills, 4, 100)		/* rdma: peers killed while they write, per file system */
PL_ROUNDS(flakey_rounds, 2, 20)		/* rdma: syncs that a disk fails for a while */
PL_ROUNDS(nonblock_rounds, 20, 200)	/* rdma: openers that retry with O_NONBLOCK */
PL_ROUNDS(slow_disk_rounds, 1, 10)	/* rdma: breaks of idle leases alone, and beside a slow one */
PL_ROUNDS(powercut_points, 25, 100)	/* rdma, uring: power cuts, syncs of a lease, per file system */
PL_ROUNDS(ladder_breaks, 50, 500)	/* peers: breaks under load over one connection */
PL_ROUNDS(ladder_breaks_tcp, 10, 500)	/* peers: the same, with messages over TCP, on ext4 */
PL_ROUNDS(ladder_measured, 1, 250)	/* peers: the last of them, whose throughput is measured */
PL_ROUNDS(ladder_later, 1, 10)	/* peers: breaks after one that a peer held up, per peer */
PL_ROUNDS(random_kills, 100, 1000)	/* uring: owners killed at any moment */
PL_ROUNDS(signal_rounds, 20, 200)	/* uring: breaks beside signals of the application */
PL_ROUNDS(change_gaps, 20, 200)	/* uring: punches beside the traffic of another lease */
PL_ROUNDS(hazard_scrubs, 3, 30)	/* rdma: scrubs after syncs beside traffic */
PL_ROUNDS(hazard_odp_ops, 150, 600)	/* rdma: writes and reads, in each place, bare and with the library */
PL_ROUNDS(powercut_dax_points, 10, 100)	/* rdma: the same on persistent memory */
PL_ROUNDS(mass_files, 2000, 2000)	/* uring, unit: files broken at once */
PL_ROUNDS(heap_steps, 20000, 1000000)	/* unit: pushes and removes against the model */
PL_ROUNDS(range_steps, 5000, 200000)	/* unit: inserts, removes and queries against the model */
PL_ROUNDS(preload_threads, 20, 1000)	/* unit: registrations of each of 32 threads, beside openers */
PL_ROUNDS(preload_steps, 20000, 1000000) /* unit: mappings made, moved and removed against the model */
PL_ROUNDS(account_races, 200000, 5000000) /* unit: breaks against one thread on another core */
PL_ROUNDS(account_breaks, 2000, 100000)	/* unit: breaks against four threads that begin and end */
PL_ROUNDS(registry_objects, 20000, 1000000) /* unit: objects replaced under threads that look them up */
PL_ROUNDS(staged_marks, 200000, 10000000) /* unit: pages marked beside a thread that takes them */
PL_ROUNDS(fault_errnos, 1, 7)		/* sim: of each call through the seams */
PL_ROUNDS(sim_storms, 100, 3000)		/* sim: three seconds of everything at once */
PL_ROUNDS(sim_seconds, 60, 3600)	/* sim: of seeds, one after the other */
PL_ROUNDS(planted_seeds, 20000, 100000)	/* sim: at most, till a planted bug is noticed */
PL_ROUNDS(sim_seconds_asan, 15, 600)	/* sim: the same under AddressSanitizer */
PL_ROUNDS(kernel_fence_rounds, 20, 200)	/* kernel: deregistrations under load */
PL_ROUNDS(kernel_fence_control, 400, 400)	/* kernel: at most, till QP -> ERR is late: 1 in 25 */
PL_ROUNDS(kernel_kill_rounds, 8, 40)	/* kernel: anchored owners killed under RDMA load */
PL_ROUNDS(kernel_kill_control, 60, 60)	/* kernel: at most, till a write is late without an anchor */
PL_ROUNDS(kernel_death_rounds, 12, 80)	/* kernel: anchored owners killed, no RDMA */
PL_ROUNDS(kernel_death_control, 20, 20) /* kernel: at most, till a lease dies before an older fd */
PL_ROUNDS(account_line_rounds, 20, 200)	/* unit: 64 threads over 1,000 accounts */
PL_ROUNDS(soak_seconds, 60, 1800)	/* stress: of the soak with io_uring (sanitized: a tenth), and ... */
PL_ROUNDS(soak_rdma_seconds, 60, 1200)	/* stress: ... with RDMA in a guest */
PL_ROUNDS(fuzz_seconds, 30, 1800)	/* fuzz: each fuzzer */
