# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Finds, fetches and unpacks the guest kernels, and makes their initramfs.
# Sourced by scripts/vm after common.sh.
#
# A kernel is asked for by its series (6.1, 6.12, 7.2) and is the newest that
# the Debian archives have of it. It is looked up with a sources list and a
# state folder of its own, so that the machine's packages stay as they are; the
# mirror and its keyring are those that the machine itself uses.
#
# $PL_CACHE/apt/				sources, lists and state of the private look-up
# $PL_CACHE/kernels/<version>/			vmlinuz, modules/<version>/, initramfs-<hash>
# $PL_CACHE/kernels/series-<series>		the version last found for it

PL_RELEASE=bookworm		# 6.1 is its kernel, 6.12 comes with its security updates
PL_NEXT_RELEASE=trixie		# 6.12 is its kernel: for machines without the former
PL_BACKPORTS=trixie-backports	# the newest kernels
PL_LOOK_AGAIN_DAYS=7		# a cached kernel is used for so long before apt is asked again
PL_APT=$PL_CACHE/apt
PL_KERNELS=$PL_CACHE/kernels

# What the initramfs loads to reach the host's files; all else is loaded from there.
PL_EARLY_MODULES="virtio_pci virtio_console virtio_rng 9pnet_virtio 9p"
# These are unpacked once here rather than each time by the slow guest; it can load every other one too.
PL_WANTED_MODULES="$PL_EARLY_MODULES crc32c_generic crc32_generic rdma_rxe ib_uverbs rdma_ucm
	ext4 xfs btrfs overlay loop veth dummy virtio_net nd_pmem nd_e820 dax_pmem device_dax
	dm-mod dm-delay dm-flakey dm-log-writes scsi_debug sd_mod null_blk nfsd nfs nfsv4"

# Rewrites the first entry for SUITE of a one-line sources list.
one_line_entry() {
	awk -v suite="$1" -v suites="$2" -v like="$3" '
		match($0, /^deb[ \t]+(\[[^]]*\][ \t]+)?/) {
			head = substr($0, 1, RLENGTH)
			split(substr($0, RLENGTH + 1), word)
			if (word[2] != suite || word[1] !~ like || $0 !~ / main( |$)/)
				next
			n = split(suites, s)
			for (i = 1; i <= n; i++)
				print head word[1], s[i], "main"
			exit
		}' "${@:4}" /dev/null
}

# The same for deb822, a stanza an entry.
deb822_entry() {
	awk -v RS= -v suite="$1" -v suites="$2" -v like="$3" '
		{
			text = "\n" $0 "\n"
			while (sub(/\n#[^\n]*/, "", text))
				;
			flat = text
			gsub(/\n[ \t]+/, " ", flat)
			if (flat !~ "\nSuites:[^\n]* " suite "[ \n]" || flat !~ /\nComponents:[^\n]* main[ \n]/ ||
			    flat !~ "\nURIs:[^\n]*" like || flat ~ /\nEnabled: *no/)
				next
			n = split(text, line, "\n")
			for (i = 1; i <= n; i++) {
				if (line[i] ~ /^[^ \t]/)
					drop = line[i] ~ /^(Types|Suites|Components|Enabled):/
				if (line[i] != "" && !drop)
					print line[i]
			}
			print "Types: deb\nSuites: " suites "\nComponents: main"
			exit
		}' "${@:4}" /dev/null
}

# private_source SUITE NEW_SUITES: the machine's own entry for SUITE, in either
# of apt's formats, goes to $PL_APT/sources with NEW_SUITES in its place; what
# else it says (mirror, keyring, options) is kept. Debian's own archive is
# preferred by its address, since others have suites of the same names.
private_source() {
	local etc like lists deb822
	etc=$(apt-config shell dir Dir::Etc/d | sed "s/^dir='\(.*\)'$/\1/")
	mapfile -t lists < <(ls "${etc}sources.list" "${etc}sources.list.d/"*.list 2>/dev/null)
	mapfile -t deb822 < <(ls "${etc}sources.list.d/"*.sources 2>/dev/null)
	for like in debian .; do
		deb822_entry "$1" "$2" $like "${deb822[@]}" > "$PL_APT/sources/$1.sources"
		[ ! -s "$PL_APT/sources/$1.sources" ] || return 0
		rm "$PL_APT/sources/$1.sources"
		one_line_entry "$1" "$2" $like "${lists[@]}" > "$PL_APT/sources/$1.list"
		[ ! -s "$PL_APT/sources/$1.list" ] || return 0
		rm "$PL_APT/sources/$1.list"
	done
	return 1
}

private_apt() {
	"$@" -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$PL_APT/sources" \
		-o Dir::State::lists="$PL_APT/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$PL_APT/cache" \
		-o APT::Sandbox::User=root -o APT::Update::Post-Invoke-Success::= -o Acquire::Languages=none
}

# Done once in a run at most, however many kernels it needs.
private_lists() {
	[ -z "${pl_lists_fetched:-}" ] || return 0
	local suites="$PL_RELEASE $PL_BACKPORTS"
	rm -rf "$PL_APT/sources"
	mkdir -p "$PL_APT/sources" "$PL_APT/lists/partial" "$PL_APT/cache/archives/partial"
	private_source $PL_RELEASE-security $PL_RELEASE-security || suites="$suites $PL_NEXT_RELEASE"
	private_source $PL_RELEASE "$suites" || die "the machine's apt sources have no entry for $PL_RELEASE main"
	say "asking apt which kernels there are"
	private_apt apt-get update > "$PL_APT/update.log" 2>&1 || return 1
	pl_lists_fetched=1
}

# kernel_versions SERIES: the versions the archives have, newest first. Where a
# series has left the archives, newer ones stand in for it.
kernel_versions() {
	local all
	all=$(private_apt apt-cache pkgnames linux- | sed -n -E 's/^linux-(image|binary)-([0-9][^a-z]*(\+deb[0-9.]+)?)-amd64(-unsigned)?$/\2/p' |
	      sort -u -V -r)
	grep "^${1//./\\.}[.-]" <<< "$all" && return
	say "no kernel of the series $1 in the archives any more: taking the newest after it"
	awk -v s="$1" '{ split($0, a, "[.]"); split(s, b, "[.]") } a[1] + 0 > b[1] + 0 || (a[1] == b[1] && a[2] + 0 > b[2] + 0)' <<< "$all"
}

# The packages that make up a kernel: either one image, or a binary and its modules.
kernel_packages() {
	local names p
	names=$(private_apt apt-cache pkgnames linux-)
	for p in "linux-image-$1-amd64-unsigned" "linux-binary-$1-amd64 linux-modules-$1-amd64" "linux-image-$1-amd64"; do
		# shellcheck disable=SC2086
		[ "$(grep -cxF "$(printf '%s\n' $p)" <<< "$names")" -ne "$(wc -w <<< "$p")" ] || { echo "$p"; return; }
	done
	return 1
}

# fetch_kernel VERSION: download and unpack to $PL_KERNELS/VERSION.
fetch_kernel() {
	local packages new=$PL_KERNELS/$1.new image modules
	packages=$(kernel_packages "$1") || return 1
	rm -rf "$new"
	mkdir -p "$new/deb"
	say "fetching $packages"
	# shellcheck disable=SC2086
	(cd "$new/deb" && private_apt apt-get download $packages) > "$new/log" 2>&1 || { tail -3 "$new/log" >&2; return 1; }
	say "unpacking"
	for image in "$new"/deb/*.deb; do
		dpkg -x "$image" "$new/tree"
	done
	image=$(find "$new/tree" -name 'vmlinuz*' -type f | head -1)
	modules=$(find "$new/tree" -type d -path '*lib/modules/*' -prune | head -1)
	[ -n "$image" ] && [ -n "$modules" ] || { say "the packages hold no kernel"; return 1; }
	mkdir -p "$new/lib/modules"
	mv "$image" "$new/vmlinuz"
	mv "$modules" "$new/lib/modules/"
	basename "$modules" > "$new/release"	# what uname -r says, which the packages' version need not be
	rm -rf "$new/deb" "$new/tree"
	unpack_modules "$new" "$(cat "$new/release")" || return 1
	rm -rf "${PL_KERNELS:?}/$1"
	mv "$new" "$PL_KERNELS/$1"
}

# module_files FOLDER NAME...: the files of the modules and of all they need,
# needed ones first. modprobe --show-depends leaves out what the running kernel
# has built in, so modules.dep is read itself. A name that is not there is built in.
module_files() {
	local dir=$1
	shift
	awk -v names="$*" '
		{
			file = substr($1, 1, length($1) - 1)
			name = file
			sub(/.*\//, "", name)
			sub(/\.ko.*/, "", name)
			gsub(/-/, "_", name)
			of[name] = file
			needs[file] = substr($0, length($1) + 2)
		}
		function add(file,   i, n, dep) {
			if (file in done)
				return
			done[file] = 1
			n = split(needs[file], dep, " ")
			for (i = n; i >= 1; i--)
				add(dep[i])
			print file
		}
		END {
			n = split(names, wanted)
			for (i = 1; i <= n; i++) {
				gsub(/-/, "_", wanted[i])
				if (wanted[i] in of)
					add(of[wanted[i]])
			}
		}' "$dir/modules.dep"
}

unpack_modules() {
	local packed
	depmod -b "$1" "$2" 2>> "$1/log" || return 1
	# shellcheck disable=SC2086
	packed=$(module_files "$1/lib/modules/$2" $PL_WANTED_MODULES | grep '\.xz$') || return 0
	(cd "$1/lib/modules/$2" && xargs xz -d <<< "$packed") && depmod -b "$1" "$2" 2>> "$1/log"
}

# make_initramfs FOLDER: prints the path of the initramfs of an unpacked kernel,
# made anew when what goes into it has changed.
make_initramfs() {
	local kernel=$1 modules work key out file
	modules=$kernel/lib/modules/$(cat "$kernel/release")
	key=$(cat "$PL_TOP/scripts/lib/guest-early" "${BASH_SOURCE[0]}" /bin/busybox | sha256sum | cut -c1-16)
	out=$kernel/initramfs-$key
	[ -s "$out" ] || {
		say "making the initramfs of $(basename "$kernel")"
		work=$(mktemp -d)
		mkdir -p "$work"/{bin,dev,proc,sys,root,pinlease,see,modules}
		cp /bin/busybox "$work/bin/"
		cp "$PL_TOP/scripts/lib/guest-early" "$work/init"
		chmod +x "$work/init"
		# shellcheck disable=SC2086
		module_files "$modules" $PL_EARLY_MODULES | while read -r file; do
			cp "$modules/$file" "$work/modules/"
			basename "$file" >> "$work/modules/order"
		done
		# Trees of different age may boot side by side: what was made lately stays.
		find "$kernel" -name 'initramfs-*' -mtime +7 -delete
		(cd "$work" && find . | cpio -o -H newc --quiet | gzip -1) > "$out.new" && mv "$out.new" "$out"
		rm -rf "$work"
	}
	echo "$out"
}

# cached_kernel SERIES: its version, if it was looked up recently enough.
cached_kernel() {
	local note=$PL_KERNELS/series-$1
	[ -n "$(find "$note" -mtime "-$2" 2>/dev/null)" ] && [ -s "$PL_KERNELS/$(cat "$note")/release" ] && cat "$note"
}

# need_kernel SERIES: prints the folder of an unpacked kernel with vmlinuz,
# release and lib/modules. Only one script at a time gets one ready.
need_kernel() (
	local series=$1 version
	mkdir -p "$PL_KERNELS"
	exec 9> "$PL_KERNELS/lock"
	flock 9
	cached_kernel "$series" $PL_LOOK_AGAIN_DAYS > /dev/null || {
		if private_lists; then
			for version in $(kernel_versions "$series" | head -3); do
				[ -s "$PL_KERNELS/$version/release" ] || fetch_kernel "$version" || continue
				echo "$version" > "$PL_KERNELS/series-$series"
				break
			done
		else
			say "apt cannot fetch its lists: $(grep -m1 '^[EW]:' "$PL_APT/update.log")"
		fi
	}
	version=$(cached_kernel "$series" 10000) || die "no kernel of the series $series to be had"
	make_initramfs "$PL_KERNELS/$version" > /dev/null
	echo "$PL_KERNELS/$version"
)
