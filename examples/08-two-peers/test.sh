#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test.sh SHARE-SERVER SHARE-CLIENT
# Two peers write one file by grants of the same range; breaks recall both, and both go on.
# shellcheck source=examples/common/test-lib.sh
. "$(dirname "$0")/../common/test-lib.sh"

# said LINE: how often the server has said it.
said() {
	grep -c "^$1\$" "$work/server.log"
}

# wait_said LINE TIMES
wait_said() {
	for ((i = 0; i < 600; i++)); do
		[ "$(said "$1")" -lt "$2" ] || return 0
		sleep 0.05
	done
	fail "the server does not say '$1' $2 times"
}

# share FOLDER: into a file there
share() {
	local file=$1/file opens upper lower
	truncate -s 1M "$file"
	start_server "$server_program" "$file"
	"$client_program" 127.0.0.1 "$port" A > "$work/upper" & upper=$!
	"$client_program" 127.0.0.1 "$port" b > "$work/lower" & lower=$!
	wait_said 'client connected' 2
	for opens in 1 2; do
		sleep 0.3
		: >> "$file"
		wait_said 'lent again' $((2 * opens))
	done
	kill -TERM $upper $lower || fail "somebody did not go on"
	wait $upper || fail "A failed: $(cat "$work/upper")"
	wait $lower || fail "b failed: $(cat "$work/lower")"
	broken
	[ "$(said returned)" = "$(said recalled)" ] && [ "$(said recalled)" = 4 ] || fail "not each returned at each break"
	[ "$(cat "$work/upper" "$work/lower" | grep -c ', 2 recalls, [1-9]')" = 2 ] || fail "not each was recalled and went on"
	stop_server
	perl -e 'local $/; open(F, $ARGV[0]); $_ = <F>; $p = ("A" x 4096 . "b" x 4096) x 128; exit($_ ne $p)' "$file" ||
		fail "$file does not hold what was written"
	echo "$1: $(said break) breaks; $(cat "$work/upper" "$work/lower" | tr '\n' ';')"
}

server_program=$1
client_program=$2
share "$work"
make_ext4
share "$work/ext4"
