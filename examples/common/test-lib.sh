# SPDX-License-Identifier: BSD-3-Clause
# What the tests of the RDMA examples share. Sourced by bash, never run.
set -u

[ -n "$(ls /sys/class/infiniband 2>/dev/null)" ] || { echo "skip: no RDMA device"; exit 77; }

work=$(mktemp -d)
port=$((20000 + RANDOM % 10000))
server=''

fail() {
	echo "FAILED: $*"
	cat "$work/server.log" 2>/dev/null
	exit 1
}

clean_up() {
	[ -z "$server" ] || kill -KILL "$server" 2>/dev/null
	! mountpoint -q "$work/ext4" || umount -l "$work/ext4"
	rm -rf "$work"
}
trap clean_up EXIT

# make_ext4: a folder $work/ext4 that is really ext4.
make_ext4() {
	mkdir "$work/ext4"
	truncate -s 96M "$work/image" && mkfs.ext4 -q -F "$work/image" && mount -o loop "$work/image" "$work/ext4" ||
		fail "no ext4"
	[ "$(stat -f -c %T "$work/ext4")" = ext2/ext3 ] || fail "$work/ext4 is not ext4"
}

# wait_server LINE: until the server has said it.
wait_server() {
	for ((i = 0; i < 600; i++)); do
		! grep -q "^$1" "$work/server.log" || return 0
		kill -0 "$server" 2>/dev/null || fail "the server ended"
		sleep 0.05
	done
	fail "the server does not say '$1'"
}

# start_server PROGRAM FILE: on $port; comes back when it is ready.
start_server() {
	"$1" "$2" $port > "$work/server.log" 2>&1 &
	server=$!
	wait_server ready
}

stop_server() {
	local status
	kill -TERM "$server"
	wait "$server"
	status=$?
	server=''
	[ $status = 0 ] || fail "the server's status is $status"
}

# broken: the server was told to stop and came back, and everybody stopped in time.
broken() {
	grep -q '^break' "$work/server.log" && grep -q '^restored' "$work/server.log" || fail "no break in the middle"
	! grep '^revoked' "$work/server.log" | grep -v ': 0 ' || fail "somebody was cut off"
}
