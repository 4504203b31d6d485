# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# What every script here shares: messages, the tree, the cache folder and the
# installing of Debian packages. Sourced by bash, never run.

PL_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)

# Progress goes to stderr, so that stdout stays what the command is asked for.
say() { printf '%s: %s\n' "${PL_NAME:-pinlease}" "$*" >&2; }
die() { say "$*"; exit "${PL_DIE_STATUS:-1}"; }

# The comment at a script's head, up to the first line that is none, is its help.
help_of() { awk 'NR > 2 && !/^#/ { exit } NR > 2 { sub(/^# ?/, ""); print }' "$1"; }

# Kernels and initramfs files are kept here, outside the tree; it may be deleted at will.
# shellcheck disable=SC2034 # for those who source this
PL_CACHE=${PINLEASE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/pinlease}

seconds_since() { echo $(($(date +%s) - $1)); }

packages_of() {
	local group
	for group; do
		sed -n "s/^$group: //p" "$PL_TOP/scripts/packages"
	done | tr ' ' '\n' | sort -u
}

missing_packages() {
	local wanted have
	wanted=$(packages_of "$@")
	# shellcheck disable=SC2086 # one word a package
	have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $wanted 2>/dev/null |
	       sed -n 's/ installed$//p' | sort -u)
	comm -23 <(echo "$wanted") <(echo "$have")
}

# A machine installs one thing at a time, and another program may be at it: wait.
apt_get() {
	DEBIAN_FRONTEND=noninteractive \
		apt-get -y -q -o DPkg::Lock::Timeout=600 -o APT::Install-Recommends=false "$@" </dev/null
}

# apt's own words are shown as progress: they say what is fetched and how much.
apt_progress() { sed -u -n '/^Get:\|^Setting up\|^E:\|^Err:\|newly installed/s/^/  /p' >&2; }

# need_packages GROUP...: install what is missing of the groups in scripts/packages.
# The package lists are fetched only when apt cannot do without.
need_packages() {
	local missing
	missing=$(missing_packages "$@")
	[ -n "$missing" ] || return 0
	[ "$(id -u)" = 0 ] || die "missing packages, and not root: $(echo "$missing" | tr '\n' ' ')"
	say "installing $(echo "$missing" | wc -l) packages: $(echo "$missing" | tr '\n' ' ')"
	# shellcheck disable=SC2086
	apt_install $missing && return
	say "fetching the package lists"
	apt_get update 2>&1 | apt_progress
	# shellcheck disable=SC2086
	apt_install $missing || die "apt-get install failed"
}

apt_install() (
	set -o pipefail
	apt_get install "$@" 2>&1 | apt_progress
)
