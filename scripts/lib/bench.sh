# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# What scripts/bench and scripts/bench-profile share. Sourced after common.sh.

# shellcheck disable=SC2034 # for those who source this
PL_BENCH_KERNEL=7.2	# of the guest that has an RDMA device

# Sets bench to the program, built as users get the library.
build_bench() {
	local build=$PL_TOP/build/bench
	say "building"
	cmake -S "$PL_TOP" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >&2
	cmake --build "$build" --target pinlease-bench break-counts >&2
	bench=$build/tests/bench/pinlease-bench
}
