#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test.sh READ-SERVER READ-CLIENT
# A copy is the file as it was before a writer came, or after, never half of each.
# shellcheck source=examples/common/test-lib.sh
. "$(dirname "$0")/../common/test-lib.sh"

# read_while_written FOLDER
read_while_written() {
	local file=$1/file client
	cp "$work/before" "$file"
	start_server "$server_program" "$file"
	"$client_program" 127.0.0.1 "$port" > "$work/copy" &
	client=$!
	wait_server 'client connected'
	dd if="$work/after" of="$file" bs=1M conv=notrunc status=none || fail "the writer failed"
	wait $client || fail "the client failed"
	cmp -s "$work/before" "$work/copy" || cmp -s "$work/after" "$work/copy" || fail "the copy is neither version"
	"$client_program" 127.0.0.1 "$port" > "$work/copy" || fail "the second client failed"
	cmp "$work/after" "$work/copy" || fail "the second copy is not what the writer wrote"
	broken
	stop_server
	echo "$1: $(grep -c '^break' "$work/server.log") breaks; $(head -1 "$work/server.log")"
}

server_program=$1
client_program=$2
# Large, so that the writer comes in the middle; of a period that no chunk is a multiple of.
yes "the version before" | head -c 32M > "$work/before"
yes "the version after" | head -c 32M > "$work/after"
read_while_written "$work"
make_ext4
read_while_written "$work/ext4"
