#!/bin/bash
# The part of build.sh that runs as root: makes the guest NAME in the folder
# WORK and leaves WORK/guest.vmdk, owned by OWNER. Every loop device and mount
# it makes is gone when it ends, however it ends.
#
#   lib.sh NAME WORK OWNER
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$1 work=$2 owner=$3
recipe=$here/$name
tree=$work/tree
disk=$work/disk.raw
sector=512
mib=$((1024 * 1024))
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

loops=() mounts=()
cleanup() {
	local i
	for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount "${mounts[i]}" || true; done
	for ((i = ${#loops[@]} - 1; i >= 0; i--)); do losetup -d "${loops[i]}" 2>/dev/null || true; done
	rm -rf "$tree" "$work"/*.raw
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# need names missing programs with the package that brings each.
need() {
	local pair missing=()
	for pair in "$@"; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}"); done
	[ ${#missing[@]} = 0 ] || { echo "recipes: install ${missing[*]}" >&2; exit 1; }
}

# bootstrap SUITE installs the recipe's packages in $tree and runs customize.sh.
bootstrap() {
	local opts=(--mode=root --variant=minbase --format=directory --quiet) no
	for no in 'man/*' 'doc/*' 'locale/*' 'info/*' 'lintian/*' 'bug/*'; do
		opts+=("--dpkgopt=path-exclude=/usr/share/$no")
	done
	opts+=('--aptopt=APT::Install-Recommends "false"' '--aptopt=Acquire::Check-Valid-Until "false"' '--aptopt=Acquire::Retries "3"')
	opts+=("--include=$(grep -v '^#' "$recipe/packages.txt" | paste -sd,)")
	opts+=("--customize-hook=$recipe/customize.sh")
	# INITRD=No: the kernel's hooks would make an initramfs that is replaced anyway.
	INITRD=No mmdebstrap "${opts[@]}" "$1" "$tree" "deb $H2K_MIRROR $1 main"
}

# attach FILE OFFSET SIZE sets $loop to a loop device of that part of FILE; bytes.
attach() {
	loop=$(losetup --find --show --offset "$2" --sizelimit "$3" "$1")
	loops+=("$loop")
}

detach() {
	losetup -d "$1"
}

# mounted DEVICE POINT mounts until unmounted or the end.
mounted() {
	mkdir -p "$2"
	mount "$1" "$2"
	mounts+=("$2")
}

unmounted() {
	umount "$1"
	unset 'mounts[-1]'
}

# into PART MIB writes the file PART into $disk at MIB, holes left out.
into() {
	dd if="$1" of="$disk" bs=1M seek="$2" conv=notrunc,sparse status=none
	rm -f "$1"
}

need mmdebstrap:mmdebstrap sfdisk:fdisk mke2fs:e2fsprogs mkswap:util-linux qemu-img:qemu-utils losetup:mount
# shellcheck source=/dev/null
. "$recipe/assemble.sh"
qemu-img convert -f raw -O vmdk -o subformat=monolithicSparse "$disk" "$work/guest.vmdk"
chown "$owner" "$work/guest.vmdk"
