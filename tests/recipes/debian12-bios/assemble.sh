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
boot_sector
ext4 "$tree" "$ROOT_UUID" $root_mib 1
swap "$SWAP_UUID" $((4096 - root_mib - 1)) $((1 + root_mib))
