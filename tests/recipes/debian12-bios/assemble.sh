# Debian 12, BIOS, MBR, ext4 on sda1, swap on sda2: 4 GiB.
. "$recipe/ids.sh"
bootstrap bookworm
truncate -s 4G "$disk"
root_mib=3584
sfdisk --quiet "$disk" <<END
label: dos
label-id: 0x$DISK_ID
start=1MiB, size=${root_mib}MiB, type=83, bootable
start=$((1 + root_mib))MiB, type=82
END

# As grub-install does: boot.img in the boot sector around the partition table,
# its test of the BIOS drive number cut out (offset 0x66 in GRUB's boot.S),
# and core.img in the gap behind.
grub=$tree/boot/grub/i386-pc
dd if="$grub/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
printf '\x90\x90' | dd of="$disk" bs=1 seek=$((0x66)) conv=notrunc status=none
[ "$(stat -c %s "$grub/core.img")" -lt $((mib - sector)) ]
dd if="$grub/core.img" of="$disk" bs=$sector seek=1 conv=notrunc status=none

mke2fs -q -t ext4 -U "$ROOT_UUID" -d "$tree" "$work/root.raw" ${root_mib}M
into "$work/root.raw" 1
truncate -s $((4096 - root_mib - 1))M "$work/swap.raw"
mkswap --quiet --uuid "$SWAP_UUID" "$work/swap.raw"
into "$work/swap.raw" $((1 + root_mib))
