#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# test.sh HOLD-EVENTS: a reader, a truncate and an own conflicting open meet it.
. "$(dirname "$0")/../common/wait.sh"
head -c 8192 /dev/zero > "$dir/f"
timeout 60 "$1" "$dir/f" > "$dir/out" 2>&1 &
pid=$!
until_seen '^holding'
timeout 20 cat "$dir/f" > /dev/null || exit 1
until_seen '^BREAK of generation 1: an open for reading'
until_seen '^RESTORED as generation 2: 8192 bytes'
cut "$dir/f" 4096
until_seen '^BREAK of generation 2: an open for writing'
until_seen '^REVOKED' 2
until_seen '^RESTORED as generation 3: 4096 bytes'
stop
