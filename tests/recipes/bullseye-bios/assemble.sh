# Debian 11, BIOS, MBR, ext4 on sda1, swap on sda5 in an extended partition:
# 1.5 GiB, VHD.
. "$recipe/ids.sh"
bootstrap bullseye
truncate -s 1536M "$disk"
sfdisk --quiet "$disk" <<END
label: dos
label-id: 0x$DISK_ID
start=1MiB, size=1407MiB, type=83, bootable
start=1408MiB, size=128MiB, type=5
start=1409MiB, size=127MiB, type=82
END
boot_sector
ext4 "$tree" "$ROOT_UUID" 1407 1
swap "$SWAP_UUID" 127 1409
deliver sda.vhd vpc force_size=on
