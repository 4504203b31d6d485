#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test-local.sh PMEM-LOG
# What was said to be durable is in the log when the writer was killed, in order and whole, and
# a new writer goes on behind it; also while others open the file. On ext4-dax and
# a device-dax where there is persistent memory, else on tmpfs.
# shellcheck source=examples/07-pmem-log/log-lib.sh
. "$(dirname "$0")/log-lib.sh"
program=$1

# kill_and_read FILE
kill_and_read() {
	local file=$1 round lines=0 said
	"$program" make "$file" || fail "cannot be made"
	for round in 1 2; do
		: > "$work/out"
		lines_of "round $round" |
			"$program" append "$file" > "$work/out" 2> "$work/err" &
		writer=$!
		wait_lines "$work/out" 10
		[ "$round" != 2 ] || "$program" read "$file" > /dev/null || fail "cannot be read beside the writer"
		wait_lines "$work/out" $(($(wc -l < "$work/out") + 10))
		kill -KILL $writer
		wait $writer 2> /dev/null
		said=$(grep -c '^durable' "$work/out")
		[ "$said" -ge 20 ] || fail "only $said records were durable"
		"$program" read "$file" > "$work/log" || fail "cannot be read"
		log_holds "$work/log" "round $round" "$said"
		[ "$(wc -l < "$work/log")" -ge $((lines + said)) ] || fail "an earlier round is gone"
		lines=$(wc -l < "$work/log")
	done
	echo "$file: $lines records, 2 kills"
}

if make_pmem; then
	kill_and_read "$dax_file"
	kill_and_read "$dax_device"
else
	truncate -s 4M "$work/file"
	kill_and_read "$work/file"
fi
