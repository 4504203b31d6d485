#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test.sh URING-RECEIVE: a reader and a truncate come while it waits for input; nothing is missing in the end.
. "$(dirname "$0")/../common/wait.sh"
[ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" = 0 ] || { echo "skip: io_uring is disabled"; exit 77; }
head -c 1048576 /dev/urandom > "$dir/in"
truncate -s 1M "$dir/f"
mkfifo "$dir/pipe"
timeout 60 "$1" "$dir/f" < "$dir/pipe" > "$dir/out" 2>&1 &
pid=$!
exec 3> "$dir/pipe"
head -c 500001 "$dir/in" >&3
until_seen '^in place'
for i in 1 2; do
	sleep 0.2
	if [ $i = 1 ]; then timeout 20 cat "$dir/f" > /dev/null || exit 1; else cut "$dir/f" 1048576; fi
	until_seen '^break: 1 read cancelled' $i
	until_seen '^restored at 500001 of 1048576' $i
done
tail -c +500002 "$dir/in" >&3
exec 3>&-
wait "$pid" || { cat "$dir/out"; exit 1; }
pid=''
cat "$dir/out"
cmp "$dir/in" "$dir/f"
