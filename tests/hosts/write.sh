#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# write.sh SERVER CLIENT [BREAKS]
# write-server here and write-client on the other host, undisturbed or with breaks in the middle. The
# connection is one by rdma_cm at path MTU 1024; it is kept, and the file is what the client sent.
[ "${PINLEASE_HOST:-}" = 1 ] || { echo "skip: needs two hosts (scripts/test --kernel 7.2x2)"; exit 77; }
# shellcheck source=examples/common/test-lib.sh
. "$(dirname "$0")/../../examples/common/test-lib.sh"
# shellcheck source=scripts/lib/far.sh
. "$(dirname "$0")/../../scripts/lib/far.sh"

MANY=2048	# packets of 1 KiB: twice what the client has in flight, so some of it is acknowledged

packets() { read -r packets < /sys/class/infiniband/rxe0/ports/1/hw_counters/rcvd_pkts; }

# goes_on: the client writes MANY more packets, over the connection it has.
goes_on() {
	local from
	packets
	from=$packets
	for ((i = 0; i < 1200; i++)); do
		packets
		[ "$packets" -lt $((from + MANY)) ] || return 0
		! far_ended client || fail "the client ended: $(cat "${far_job[client]}.out")"
		far_nap 0.05
	done
	fail "the client does not write"
}

# said LINE TIMES: the server has, within a minute.
said() {
	for ((i = 0; i < 1200; i++)); do
		[ "$(grep -c "^$1" "$work/server.log")" -lt "$2" ] || return 0
		far_nap 0.05
	done
	fail "the server does not say '$1' $2 times"
}

# open_it: by its path, as anybody may. Sets open_ms.
open_it() {
	local began=${EPOCHREALTIME/./}
	: >> "$file" || fail "the opener"
	open_ms=$(((${EPOCHREALTIME/./} - began) / 1000))
}

breaks=${3:-0}
SIZE_MIB=$((4 + 8 * breaks))
slowest=0
make_ext4
file=$work/ext4/file
head -c ${SIZE_MIB}M /dev/urandom > "$PINLEASE_OUT/data"
truncate -s ${SIZE_MIB}M "$file"
ibv_devinfo -d rxe0 | grep -q 'active_mtu:.*1024 ' || fail "the path MTU is not 1024"
start_server "$1" "$file"
far_start client "ibv_devinfo -d rxe0 | grep -q 'active_mtu:.*1024 ' || exit 3
exec timeout 90 '$2' \$PINLEASE_PEER $port < \$PINLEASE_OUT/data"
wait_server 'client connected'
rdma resource show cm_id | grep -q 'state CONNECT ' || fail "no connection by rdma_cm"
for ((n = 1; n <= breaks; n++)); do
	goes_on
	open_it
	[ "$open_ms" -le $slowest ] || slowest=$open_ms
	said break $n
	said restored $n
done
far_wait client 120 || fail "the client: $? $(cat "${far_job[client]}.out")"
grep -q "^$((SIZE_MIB << 20)) bytes written and durable" "${far_job[client]}.out" ||
	fail "the client: $(cat "${far_job[client]}.out")"
[ "$(grep -c '^break' "$work/server.log")" = "$breaks" ] || fail "not $breaks breaks"
[ "$(grep -c '^client connected' "$work/server.log")" = 1 ] || fail "not one connection"
[ "$breaks" = 0 ] || broken
said 'client gone' 1
# With the lease still held: this is a break, too.
cmp "$PINLEASE_OUT/data" "$file" || fail "an opener sees other data than was written"
stop_server
cmp "$PINLEASE_OUT/data" "$file" || fail "the file does not hold what was written"
echo "$breaks breaks, 1 connection, $SIZE_MIB MiB; the opener waited for $slowest ms at most;" \
	"$(head -1 "$work/server.log")"
