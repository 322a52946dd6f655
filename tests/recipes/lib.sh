#!/bin/bash
# The part of build.sh that runs as root: makes the guest NAME in the folder
# WORK and leaves WORK/guest.vmdk, or the disks that it delivers in WORK/guest,
# owned by OWNER. Every loop device and mount
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
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C LVM_SUPPRESS_FD_WARNINGS=1

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

# A part of the disk is filled from a folder, which is empty after that: it is
# the mount point there. Sizes and places are in MiB.

# ext4 FOLDER UUID SIZE PLACE
ext4() {
	mke2fs -q -t ext4 -U "$2" -d "$1" "$work/part.raw" "$3M"
	into "$work/part.raw" "$4"
	find "$1" -mindepth 1 -delete
}

# esp FOLDER ID SIZE PLACE; ID is that of FAT, eight hexadecimal digits.
esp() {
	local part=$work/part.raw
	truncate -s "$3M" "$part"
	mformat -i "$part" -F -N "$2" -T $(($3 * 2048)) -h 64 -s 32 ::
	mcopy -s -i "$part" "$1"/* ::/
	into "$part" "$4"
	find "$1" -mindepth 1 -delete
}

# swap UUID SIZE PLACE
swap() {
	truncate -s "$2M" "$work/part.raw"
	mkswap --quiet --uuid "$1" "$work/part.raw"
	into "$work/part.raw" "$3"
}

# xfs FOLDER UUID SIZE OFFSET; the offset is in bytes.
xfs() {
	attach "$disk" "$4" $(($3 * mib))
	mkfs.xfs -q -m "uuid=$2" "$loop"
	mounted "$loop" "$work/mnt"
	cp -a "$1/." "$work/mnt/"
	unmounted "$work/mnt"
	detach "$loop"
	find "$1" -mindepth 1 -delete
}

# boot_sector writes what grub-install does on a disk with an MBR: boot.img in
# the boot sector around the partition table, its test of the BIOS drive number
# cut out (offset 0x66 in GRUB's boot.S), and core.img in the gap behind.
boot_sector() {
	local grub=$tree/boot/grub/i386-pc
	dd if="$grub/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
	printf '\x90\x90' | dd of="$disk" bs=1 seek=$((0x66)) conv=notrunc status=none
	[ "$(stat -c %s "$grub/core.img")" -lt $((mib - sector)) ]
	dd if="$grub/core.img" of="$disk" bs=$sector seek=1 conv=notrunc status=none
}

# volumes GROUP SIZE PLACE NAME:SIZE... makes an LVM group in a partition, and
# sets volume_at[NAME] to where on the disk each volume begins, in bytes. They
# are linear, so no device-mapper is needed to fill them.
declare -A volume_at
volumes() {
	local group=$1 size=$2 place=$3 pv lvm volume pe_start extent first
	shift 3
	attach "$disk" $((place * mib)) $((size * mib))
	pv=$loop
	lvm=(--quiet --driverloaded n --config "devices { use_devicesfile=0 global_filter=[\"a|^$pv\$|\",\"r|.*|\"] external_device_info_source=\"none\" obtain_device_list_from_udev=0 } activation { udev_sync=0 udev_rules=0 } backup { backup=0 archive=0 } global { locking_type=1 }")
	pvcreate "${lvm[@]}" "$pv"
	vgcreate "${lvm[@]}" "$group" "$pv"
	for volume in "$@"; do
		lvcreate "${lvm[@]}" --activate n --zero n --wipesignatures n --name "${volume%:*}" --size "${volume#*:}M" "$group"
		read -r pe_start extent first < <(pvs "${lvm[@]}" --noheadings --nosuffix --units b --segments \
			-o pe_start,vg_extent_size,pvseg_start --select "lv_name=${volume%:*}" "$pv")
		volume_at[${volume%:*}]=$((place * mib + pe_start + first * extent))
	done
	detach "$pv"
}

# mirror DISK UUID NUMBER SIZE PLACE makes a partition of DISK the member NUMBER of
# a RAID 1 of two, in sync, whose data begin 1 MiB behind PLACE. There is no
# driver for arrays where guests are built, so the superblock (version 1.2, 4 KiB
# behind PLACE; struct mdp_superblock_1 in Linux include/uapi/linux/raid/md_p.h)
# is written as it is.
mirror() {
	perl -e '
		my ($uuid, $number, $size) = @ARGV;
		my $sectors = ($size - 1) * 2048;
		my $sb = pack("V4 H32 Z32 Q< V2 Q< V2", 0xa92b4efc, 1, 0, 0, $uuid, "any:0", 1700000000, 1, 0, $sectors, 0, 2);
		$sb .= pack("V2 Q< V4", 0, 0, 0, 0, 0, 0, 0);                                # no bitmap, no reshape
		$sb .= pack("Q<4 V2", 2048, $sectors, 8, 0, $number, 0);
		$sb .= pack("H30 C V2", substr($uuid, 0, 30), $number, 0, 0);                # of the device; flags
		$sb .= pack("Q<3 V2 x32", 1700000000, 18, 0xffffffffffffffff, 0, 128);       # in sync
		$sb .= pack("v128", 0, 1, (0xffff) x 126);                                   # roles
		my $sum = 0;
		$sum += $_ for unpack("V*", $sb);
		substr($sb, 216, 4) = pack("V", ($sum & 0xffffffff) + ($sum >> 32));
		print $sb;
	' "${2//:/}" "$3" "$4" | dd of="$1" bs=4096 seek=$(($5 * 256 + 1)) conv=notrunc status=none
}

# deliver FILE FORMAT [OPTIONS] makes $disk one of the guest's, FILE; format and
# options are qemu-img's.
deliver() {
	mkdir -p "$work/guest"
	qemu-img convert -f raw -O "$2" ${3:+-o "$3"} "$disk" "$work/guest/$1"
}

need mmdebstrap:mmdebstrap sfdisk:fdisk mke2fs:e2fsprogs mkswap:util-linux qemu-img:qemu-utils losetup:mount
# shellcheck source=/dev/null
. "$recipe/assemble.sh"
[ -d "$work/guest" ] || qemu-img convert -f raw -O vmdk -o subformat=monolithicSparse "$disk" "$work/guest.vmdk"
chown -R "$owner" "$work"/guest*
