# SPDX-License-Identifier: BSD-3-Clause
# What both tests of the log share. Sourced by bash, never run.
set -u
work=$(mktemp -d /dev/shm/pinlease-log-XXXXXX) || { echo "skip: no /dev/shm"; exit 77; }
writer='' server=''
mkfifo "$work/never"

fail() {
	echo "FAILED: $*"
	cat "$work/err" 2> /dev/null
	exit 1
}

clean_up() {
	[ -z "$writer$server" ] || kill -KILL $writer $server 2> /dev/null
	! mountpoint -q "$work/dax" || umount -l "$work/dax"
	rm -rf "$work"
}
trap clean_up EXIT

# lines_of ROUND: line after line, a hundred a second at most, so that no log is full before it is looked at.
lines_of() {
	local n=0
	exec 9<> "$work/never"
	while echo "$1 line $((++n))" 2> /dev/null; do
		read -r -t 0.01 -u 9
	done
}

# wait_lines FILE COUNT [PATTERN]: until so many lines are in it, within 30 s.
wait_lines() {
	for _ in $(seq 600); do
		[ "$(grep -c -- "${3:-}" "$1")" -lt "$2" ] || return 0
		sleep 0.05
	done
	fail "$1 has not come to $2 lines"
}

# log_holds LOG ROUND COUNT: the round's lines are 1, 2, 3 ... at least COUNT of them, at the log's end.
log_holds() {
	grep "^$2 " "$1" > "$work/round"
	[ "$(wc -l < "$work/round")" -ge "$3" ] || fail "$(wc -l < "$work/round") of $3 durable records are there"
	awk -v want="$2 line " '$0 != want NR { exit 1 }' "$work/round" || fail "$2 is not whole"
	tail -n "$(wc -l < "$work/round")" "$1" | cmp -s - "$work/round" || fail "$2 is not at the end"
}

# make_pmem: $dax_file on ext4-dax and $dax_device, both empty; false: no persistent memory here.
make_pmem() {
	[ -b /dev/pmem0 ] && [ "$(id -u)" = 0 ] || return 1
	mkdir "$work/dax"
	mkfs.ext4 -q -F -b 4096 -E nodiscard /dev/pmem0 > "$work/err" 2>&1 &&
		mount -o dax=always /dev/pmem0 "$work/dax" || fail "no ext4-dax"
	[ "$(stat -f -c %T "$work/dax")" = ext2/ext3 ] || fail "$work/dax is not ext4"
	dax_file=$work/dax/log
	truncate -s 4M "$dax_file"
	if [ -b /dev/pmem1 ]; then
		ndctl create-namespace -f -e "$(basename "$(readlink /sys/block/pmem1/device)")" -m devdax \
			> "$work/err" 2>&1 || fail "no device-dax"
		udevadm settle 2> /dev/null
	fi
	dax_device=$(ls /dev/dax* 2> /dev/null | head -1)
	[ -c "$dax_device" ] || fail "no device-dax"
}
