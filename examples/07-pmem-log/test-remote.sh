#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test-remote.sh LOG-SERVER LOG-WRITER PMEM-LOG
# What the server acknowledged to a peer is in the log when the server was killed, and a new
# server goes on behind it; a break in the middle costs nothing.
# shellcheck source=examples/07-pmem-log/log-lib.sh
. "$(dirname "$0")/log-lib.sh"
server_program=$1 writer_program=$2 program=$3
[ -n "$(ls /sys/class/infiniband 2> /dev/null)" ] || { echo "skip: no RDMA device"; exit 77; }

wait_server() {
	wait_lines "$work/server" 1 "^$1" || fail "the server does not say '$1': $(cat "$work/server")"
}

# remote FILE
remote() {
	local file=$1 round said
	"$program" make "$file" || fail "cannot be made"
	for round in 1 2; do
		port=$((20000 + RANDOM % 10000))
		: > "$work/out"
		"$server_program" "$file" $port > "$work/server" 2>&1 &
		server=$!
		wait_server ready
		lines_of "round $round" |
			"$writer_program" 127.0.0.1 $port > "$work/out" 2> "$work/err" &
		writer=$!
		wait_lines "$work/out" 10
		"$program" read "$file" > /dev/null || fail "cannot be read beside the server"
		wait_lines "$work/out" $(($(wc -l < "$work/out") + 10))
		[ -c "$file" ] || wait_server restored
		kill -KILL $server
		wait $server $writer 2> /dev/null
		said=$(grep -c '^durable' "$work/out")
		[ "$said" -ge 20 ] || fail "only $said records were durable"
		"$program" read "$file" > "$work/log" || fail "cannot be read"
		log_holds "$work/log" "round $round" "$said"
	done
	[ "$(grep -c '^round 1 ' "$work/log")" -ge 20 ] || fail "the first server's records are gone"
	echo "$file: $(wc -l < "$work/log") records, 2 kills; $(head -1 "$work/server")"
}

if make_pmem; then
	remote "$dax_file"
	remote "$dax_device"
else
	truncate -s 4M "$work/file"
	remote "$work/file"
fi
