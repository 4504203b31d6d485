#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test.sh EPOLL-LOOP: openers come while an operation is in flight; none is cut off.
. "$(dirname "$0")/../common/wait.sh"
head -c 8192 /dev/zero > "$dir/f"
timeout 60 "$1" "$dir/f" > "$dir/out" 2>&1 &
pid=$!
until_seen '^running'
for i in 1 2 3; do
	sleep 0.1
	timeout 20 cat "$dir/f" > "$dir/copy" || exit 1
	until_seen '^restored: 8192' $i
done
cmp -s "$dir/copy" <(head -c 8192 /dev/zero) && { echo "nothing was written"; exit 1; }
cut "$dir/f" 4096
until_seen '^restored: 4096'
until_seen '^revoked, 0 cut off' 4
stop
