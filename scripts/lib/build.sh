# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Configuring and building the tree by its CMake presets. Sourced after common.sh.

# Shows what a compiler says, and of ninja's own lines one in ten.
build_progress() { sed -u -e '/^\[[0-9]*[1-9]\/[0-9]*\]/d' -e 's/^/  /' >&2; }

# configure_tree PRESET [-DNAME=VALUE...]
configure_tree() {
	local log
	if ! log=$(cd "$PL_TOP" && cmake --preset "$@" 2>&1); then
		echo "$log" >&2
		die "cmake --preset $1 failed"
	fi
}

# build_tree PRESET [TARGET]: nothing is compiled that is up to date.
build_tree() (
	set -o pipefail
	began=$(date +%s)
	cd "$PL_TOP" || exit 1
	cmake --build --preset "$1" ${2:+--target "$2"} -- -j "$(nproc)" 2>&1 | build_progress ||
		die "the build of preset $1 failed"
	say "built $1 in $(seconds_since "$began") s"
)

build_preset() { (configure_tree "$1") && build_tree "$1"; }
