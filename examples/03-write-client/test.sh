#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test.sh WRITE-SERVER WRITE-CLIENT
# The client's data is in the server's file, though others opened it meanwhile.
# shellcheck source=examples/common/test-lib.sh
. "$(dirname "$0")/../common/test-lib.sh"

# write_through FOLDER: one transfer into a file there.
write_through() {
	local file=$1/file opens=0 client
	truncate -s 4M "$file"
	start_server "$server_program" "$file"
	"$client_program" 127.0.0.1 "$port" < "$work/data" &
	client=$!
	wait_server 'client connected'
	while [ $opens -lt 5 ] && : >> "$file"; do
		opens=$((opens + 1))
		kill -0 $client 2>/dev/null || break
		sleep 0.2
	done
	wait $client || fail "the client failed"
	cmp "$work/data" "$file" || fail "$file: an opener sees other data than was written"
	wait_server restored
	broken
	stop_server
	cmp "$work/data" "$file" || fail "$file does not hold what was written"
	echo "$1: $opens opens, $(grep -c '^break' "$work/server.log") breaks; $(head -1 "$work/server.log")"
}

server_program=$1
client_program=$2
head -c 4M /dev/urandom > "$work/data"
write_through "$work"
make_ext4
write_through "$work/ext4"
