# SPDX-License-Identifier: BSD-3-Clause
# For the tests of the examples: sourced. A folder of a file system that has leases, and waiting.
dir=$(mktemp -d /dev/shm/pinlease-example-XXXXXX) || { echo "skip: no /dev/shm"; exit 77; }
pid=''
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; rm -rf "$dir"' EXIT

# until_seen PATTERN [TIMES]: in $dir/out, within 20 s
until_seen() {
	for _ in $(seq 400); do
		[ "$(grep -c -- "$1" "$dir/out")" -ge "${2:-1}" ] && return 0
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	echo "not seen: $1"
	cat "$dir/out"
	exit 1
}

# cut FILE SIZE: truncate(2). The command truncate opens with O_NONBLOCK, and says "temporarily unavailable".
cut() {
	timeout 20 perl -e 'truncate($ARGV[0], $ARGV[1]) or die "truncate: $!\n"' "$1" "$2" || exit 1
}

# stop: SIGTERM, and its exit status
stop() {
	kill -TERM "$pid"
	wait "$pid"
	status=$?
	pid=''
	cat "$dir/out"
	return $status
}
