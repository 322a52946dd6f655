# Debian 12, BIOS, two disks with an MBR: a mirror with the root (ext4), and swap
# on the first: 1.5 GiB, VDI and raw.
. "$recipe/ids.sh"
bootstrap bookworm
root_mib=1400 swap_mib=$((1536 - 1 - 1400))
first=$disk second=$work/second.raw
for disk in "$first" "$second"; do
	truncate -s 1536M "$disk"
	sfdisk --quiet "$disk" <<-END
		label: dos
		start=1MiB, size=${root_mib}MiB, type=fd, bootable
		type=82
	END
	boot_sector
done
mirror "$first" "$ARRAY_UUID" 0 $root_mib 1
mirror "$second" "$ARRAY_UUID" 1 $root_mib 1
disk=$first
ext4 "$tree" "$ROOT_UUID" $((root_mib - 1)) 2
swap "$SWAP_UUID" $swap_mib $((1 + root_mib))
dd if="$first" of="$second" bs=1M skip=2 seek=2 count=$((root_mib - 1)) conv=notrunc,sparse status=none
deliver sda.vdi vdi
disk=$second
deliver sdb.img raw
