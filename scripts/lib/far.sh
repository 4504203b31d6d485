# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# For what runs on host 1 of scripts/lib/pair: runs scripts on host 2. Sourced by bash, never run.
# A script there has our working directory and PINLEASE_PEER, our address.
#
# Each has files of its own: a name that one guest has removed the other one still believes in.
declare -A far_job
far_count=0
exec {far_idle}<> <(:)

# far_nap SECONDS: no process is started for it, which takes long in a guest.
far_nap() { read -r -t "$1" -u "$far_idle"; }

# far_start NAME SCRIPT: begins it. From then on ${far_job[NAME]}.out is what it says, and .pid its process.
far_start() {
	local job
	far_count=$((far_count + 1))
	job=$PINLEASE_OUT/far/$1-$$-$far_count
	far_job[$1]=$job
	printf '%s\n' "$2" > "$job.part" && mv "$job.part" "$job.run"
}

# far_ended NAME
far_ended() { [ -e "${far_job[$1]}.status" ]; }

# far_wait NAME SECONDS: for its end. Its exit status, or 124 if that does not come.
far_wait() {
	local began=$SECONDS status
	while ! far_ended "$1"; do
		[ $((SECONDS - began)) -lt "$2" ] || return 124
		far_nap 0.02
	done
	read -r status < "${far_job[$1]}.status"
	return "$status"
}

# far_do SCRIPT [SECONDS]: all of it, of a minute or SECONDS at most.
far_do() {
	far_start now "$1"
	far_wait now "${2:-60}"
}
