# Debian 12, BIOS with extlinux, MBR, ext4 on sda1: 1 GiB, compressed VMDK.
. "$recipe/ids.sh"
need extlinux:extlinux
bootstrap bookworm
truncate -s 1G "$disk"
sfdisk --quiet "$disk" <<END
label: dos
label-id: 0x$DISK_ID
start=1MiB, type=83, bootable
END
dd if="$tree/usr/lib/EXTLINUX/mbr.bin" of="$disk" bs=440 count=1 conv=notrunc status=none
# SYSLINUX 6 knows no ext4 with 64-bit block numbers
# (https://wiki.syslinux.org/wiki/index.php?title=Filesystem).
attach "$disk" $mib $((1023 * mib))
mke2fs -q -t ext4 -O ^64bit,^metadata_csum -U "$ROOT_UUID" -d "$tree" "$loop"
mounted "$loop" "$work/mnt"
extlinux --install "$work/mnt/boot/extlinux" 2>/dev/null
unmounted "$work/mnt"
detach "$loop"
deliver sda.vmdk vmdk subformat=streamOptimized
