# Debian 12, BIOS, MBR: /boot (ext4), LVM with the root (XFS) and swap: 2 GiB.
. "$recipe/ids.sh"
need pvcreate:lvm2 mkfs.xfs:xfsprogs
bootstrap bookworm
boot_mib=192
pv_mib=$((2048 - 1 - boot_mib))
truncate -s 2G "$disk"
sfdisk --quiet "$disk" <<END
label: dos
label-id: 0x$DISK_ID
start=1MiB, size=${boot_mib}MiB, type=83, bootable
start=$((1 + boot_mib))MiB, type=8e
END
boot_sector
ext4 "$tree/boot" "$BOOT_UUID" $boot_mib 1
volumes vg0 $pv_mib $((1 + boot_mib)) root:1600 swap:128
xfs "$tree" "$ROOT_UUID" 1600 "${volume_at[root]}"
attach "$disk" "${volume_at[swap]}" $((128 * mib))
mkswap --quiet --uuid "$SWAP_UUID" "$loop"
detach "$loop"
deliver sda.vhdx vhdx block_size=1M
