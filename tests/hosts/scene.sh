#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# scene.sh SCENE FILESYSTEM PROGRAMS
# An owner here, peers on the other host (hosts.h), and something that happens to them. Whatever it is, the
# opener goes on within the deadline and a second, and finds in the file what was acknowledged.
[ "${PINLEASE_HOST:-}" = 1 ] || { echo "skip: needs two hosts (scripts/test --kernel 7.2x2)"; exit 77; }
# shellcheck source=examples/common/test-lib.sh
. "$(dirname "$0")/../../examples/common/test-lib.sh"
# shellcheck source=scripts/lib/far.sh
. "$(dirname "$0")/../../scripts/lib/far.sh"

DEADLINE=4000	# ms
programs=$3
log=$work/server.log

die_telling() {
	for peer in peer0 peer1; do echo "--- $peer"; cat "${far_job[$peer]:-none}.out"; done 2>/dev/null
	cat "$work/open.log" 2>/dev/null
	fail "$@"
}

# count FILE LINE: sets times. No process is started for it, which takes long in a guest.
count() {
	local line
	times=0
	[ -e "$1" ] || return 0
	while read -r line; do
		[ "${line#"$2"}" = "$line" ] || times=$((times + 1))
	done < "$1"
}

# seen FILE LINE: within a minute, which only a hang takes
seen() {
	local began=$SECONDS
	while count "$1" "$2"; [ $times = 0 ]; do
		[ $((SECONDS - began)) -lt 60 ] || die_telling "${1##*/} does not say '$2'"
		far_nap 0.05
	done
}

# never FILE LINE
never() { count "$1" "$2"; [ $times = 0 ] || die_telling "${1##*/} says '$2'"; }

start_owner() {
	dir=$work
	[ "$1" = tmpfs ] || { make_ext4; dir=$work/ext4; }
	file=$dir/file
	head -c 512K /dev/zero > "$file" && sync "$file" || fail "no file"
	"$programs/hosts_owner" "$file" $DEADLINE > "$log" 2>&1 &
	server=$!
	seen "$log" ready
}

# start_peer HALF: it writes when this returns: each slot has been acknowledged, and a sync was answered. One
# by one, since the first half that is free is taken.
start_peer() {
	far_start "peer$1" "rm -f /tmp/books$1; exec '$programs/hosts_peer' /tmp/books$1"
	seen "${far_job[peer$1]}.out" connected
	seen "$log" "connected $1"
	seen "${far_job[peer$1]}.out" durable
	never "${far_job[peer$1]}.out" over
}

# signal_peer SIGNAL HALF
signal_peer() { far_do "kill -$1 $(< "${far_job[peer$2]}.pid")" || die_telling "kill -$1 of peer $2"; }

# stop_peer HALF: with all that may be in flight in flight, and none of it looked at.
stop_peer() {
	signal_peer USR1 "$1"
	seen "${far_job[peer$1]}.out" stopped
}

# open_file: somebody opens it, and keeps it open until close_file, so that nothing is restored meanwhile.
open_file() {
	rm -f "$work/fifo" "$work/open.log" && mkfifo "$work/fifo"
	"$programs/hosts_judge" open "$file" "$work/copy" "$work/fifo" > "$work/open.log" 2>&1 &
	opener=$!
}

# opened LEAST MOST: it is in, and waited for so many ms.
opened() {
	seen "$work/open.log" copied
	read -r _ _ ms < "$work/open.log"
	[ "$ms" -ge "$1" ] && [ "$ms" -le "$2" ] || die_telling "the opener waited for $ms ms, not for $1 to $2"
}

close_file() {
	: > "$work/fifo"
	wait "$opener" || die_telling "the opener"
}

# held IMAGE HALF:WHAT...: what the books of that peer say is in the file.
held() {
	local image=$1 one
	shift
	far_do "cp /tmp/books? \$PINLEASE_OUT/" || die_telling "no books"
	for one; do
		"$programs/hosts_judge" "${one%:*}" "$PINLEASE_OUT/books${one%:*}" "$image" "${one#*:}" ||
			die_telling "half ${one%:*} is wrong"
	done
}

# leave HALF...: each ends as it was told to, over the connection that it had from the start. Then, with no lease
# on it, the file has what their books say.
leave() {
	local half pids=''
	for half; do pids+=" $(< "${far_job[peer$half]}.pid")"; done
	far_do "kill -TERM $pids" || die_telling "kill -TERM"
	for half; do
		far_wait "peer$half" 30 || die_telling "peer $half ended with $?"
		count "$log" "connected $half"
		[ "$times" = 1 ] || die_telling "peer $half had more than one connection"
	done
	stop_server
	held "$file" "${@/%/:acked}"
}

# A peer that hangs holds up one break, until the deadline, and no later one; the other one keeps all it has.
scene_hang() {
	start_peer 0
	start_peer 1
	stop_peer 0
	open_file
	opened $((DEADLINE - 500)) $((DEADLINE + 1000))
	waited=$ms
	seen "$log" 'revoked 1'
	held "$work/copy" 0:acked 1:returned
	close_file
	seen "${far_job[peer1]}.out" restored
	open_file
	opened 0 $((DEADLINE - 500))
	seen "$log" 'revoked 0'
	close_file
	# It completes what had completed long ago, answers a recall that is over, and is given a key again.
	signal_peer CONT 0
	seen "${far_job[peer0]}.out" returned
	seen "${far_job[peer0]}.out" restored
	never "$log" gone
	leave 0 1
	echo "the opener waited for $waited ms of $DEADLINE, then for $ms"
}

# Killed in the middle of the recall: from then on it is not waited for.
scene_kill() {
	start_peer 0
	start_peer 1
	stop_peer 0
	open_file
	seen "$log" break
	seen "${far_job[peer1]}.out" returned
	never "$work/open.log" opened
	signal_peer KILL 0
	seen "$log" 'gone 0'
	opened 0 $((DEADLINE - 1))
	waited=$ms
	held "$work/copy" 0:acked 1:returned
	close_file
	seen "${far_job[peer1]}.out" restored
	open_file
	opened 0 $((DEADLINE / 2))
	close_file
	never "$log" 'gone 1'
	leave 1
	echo "the opener waited for $waited ms of $DEADLINE, then for $ms"
}

# The owner's link is down for a second in mid-recall: the answer is sent again until it arrives.
scene_link_owner() {
	start_peer 0
	stop_peer 0
	open_file
	seen "$log" break
	ip link set "$netdev" down || fail "ip link"
	signal_peer CONT 0
	seen "${far_job[peer0]}.out" returned
	far_nap 0.5
	never "$work/open.log" opened
	ip link set "$netdev" up || fail "ip link"
	opened 0 $((DEADLINE - 1))
	waited=$ms
	seen "$log" 'revoked 0'
	held "$work/copy" 0:returned
	close_file
	seen "${far_job[peer0]}.out" restored
	never "$log" gone
	leave 0
	echo "the opener waited for $waited ms of $DEADLINE"
}

# The peer's link is down from mid-recall on: what it answers finds no route, and soft-RoCE ends the connection at
# once. The owner hears nothing of that, and fences.
scene_link_peer() {
	start_peer 0
	stop_peer 0
	open_file
	seen "$log" break
	far_do "ip link set $netdev down; kill -CONT $(< "${far_job[peer0]}.pid")" || fail "ip link"
	opened $((DEADLINE - 500)) $((DEADLINE + 1000))
	waited=$ms
	seen "$log" 'revoked 1'
	held "$work/copy" 0:acked
	far_wait peer0 30
	status=$?
	[ $status = 1 ] || die_telling "the peer ended with $status"
	seen "${far_job[peer0]}.out" over
	# So does a datagram that finds none, of rdma_cm here, and QP 1 comes back with a new device only.
	far_do "rdma resource show qp | grep 'type GSI state ERR'" || die_telling "QP 1 of host 2 is no longer lost"
	bring_up far
	far_do "rdma resource show qp | grep 'type GSI state RTS'" || die_telling "QP 1 of host 2 does not come back"
	close_file
	seen "$log" restored
	held "$work/copy" 0:acked
	# The owner has nothing to say to a peer that owes it an answer, so nothing tells it that this one has gone.
	open_file
	opened 0 $((DEADLINE - 500))
	seen "$log" 'revoked 0'
	close_file
	stop_server
	echo "the opener waited for $waited ms of $DEADLINE, then for $ms; the peer: $(tail -1 "${far_job[peer0]}.out")"
}

# The owner is killed in mid-recall: the opener goes on at once, what the peer was told is durable is there, and
# the peer sees the end of the connection.
scene_owner() {
	start_peer 0
	stop_peer 0
	open_file
	seen "$log" break
	never "$work/open.log" opened
	kill -KILL "$server"
	wait "$server" 2>/dev/null
	server=''
	opened 0 $((DEADLINE - 1))
	held "$work/copy" 0:durable
	signal_peer CONT 0
	far_wait peer0 30
	status=$?
	[ $status = 1 ] || die_telling "the peer ended with $status"
	seen "${far_job[peer0]}.out" over
	close_file
	# Nothing has come since.
	cmp "$file" "$work/copy" || die_telling "the file has changed"
	echo "the opener waited for $ms ms of $DEADLINE; the peer: $(tail -1 "${far_job[peer0]}.out")"
}

# bring_up [far]: the link, and a device: a new one for one whose QP 1 has been lost, or that is gone. Nothing may
# be open on it. Removing one waits for what rdma_cm has not said goodbye to, which once took a minute.
bring_up() {
	local script="ip link set $netdev up
		! rdma resource show qp | grep -q 'type GSI state ERR' || rdma link delete rxe0
		for ((i = 0; i < 100; i++)); do
			! rdma link show rxe0/1 > /dev/null 2>&1 || break
			rdma link add rxe0 type rxe netdev $netdev || sleep 0.2
		done
		rdma link show rxe0/1"
	if [ "${1:-here}" = far ]; then far_do "$script" 150; else eval "$script"; fi || fail "no link or no device"
}

# The next test finds its link, however this one ended.
leave_links() {
	status=$?
	clean_up
	[ $status = 0 ] || far_do "kill -KILL $(cat "${far_job[peer0]}.pid")"
	bring_up
	bring_up far
	exit $status
}

netdev=$(rdma link show rxe0/1 | sed -n 's/.* netdev \([^ ]*\).*/\1/p')
[ -n "$netdev" ] || fail "no rxe0"
[ "${1#link}" = "$1" ] || trap leave_links EXIT
# Where the answer, or a death, is to let the opener on before the deadline, it is far away: on a busy machine all
# of that takes seconds.
case $1 in kill | owner | link_owner) DEADLINE=20000 ;; esac
start_owner "$2"
"scene_$1"
