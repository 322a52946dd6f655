# Debian 13, UEFI, GPT: ESP, /boot (ext4), LVM with the root (XFS), swap: 5 GiB.
. "$recipe/ids.sh"
need pvcreate:lvm2 mkfs.xfs:xfsprogs mformat:mtools mcopy:mtools
bootstrap trixie
esp_mib=64 boot_mib=448 swap_mib=256
pv_mib=$((5 * 1024 - 2 - esp_mib - boot_mib - swap_mib))
truncate -s 5G "$disk"
sfdisk --quiet "$disk" <<END
label: gpt
label-id: $DISK_GUID
start=1MiB, size=${esp_mib}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
size=${boot_mib}MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
size=${pv_mib}MiB, type=E6D6D379-F507-44C2-A23C-238F2A3DF928
size=${swap_mib}MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F
END

# The ESP as grub-install leaves it, without the fallback path EFI/BOOT.
esp=$work/esp.raw
truncate -s ${esp_mib}M "$esp"
mformat -i "$esp" -F -N "$ESP_ID" -T $((esp_mib * 2048)) -h 64 -s 32 ::
cat >"$work/grub.cfg" <<END
search.fs_uuid $BOOT_UUID root hd0,gpt2
set prefix=(\$root)'/grub'
configfile \$prefix/grub.cfg
END
mmd -i "$esp" ::/EFI ::/EFI/debian
shim=$tree/usr/lib/shim
mcopy -i "$esp" "$shim/shimx64.efi.signed" ::/EFI/debian/shimx64.efi
mcopy -i "$esp" "$shim/mmx64.efi.signed" ::/EFI/debian/mmx64.efi
mcopy -i "$esp" "$shim/fbx64.efi.signed" ::/EFI/debian/fbx64.efi
mcopy -i "$esp" "$shim/BOOTX64.CSV" ::/EFI/debian/BOOTX64.CSV
mcopy -i "$esp" "$tree/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::/EFI/debian/grubx64.efi
mcopy -i "$esp" "$work/grub.cfg" ::/EFI/debian/grub.cfg
into "$esp" 1

mke2fs -q -t ext4 -U "$BOOT_UUID" -d "$tree/boot" "$work/boot.raw" ${boot_mib}M
into "$work/boot.raw" $((1 + esp_mib))
find "$tree/boot" -mindepth 1 -delete

# One linear volume, so it lies at a place that can be computed: no
# device-mapper is needed to fill it.
pv_at=$((1 + esp_mib + boot_mib))
attach "$disk" $((pv_at * mib)) $((pv_mib * mib))
pv=$loop
lvm=(--quiet --driverloaded n --config "devices { use_devicesfile=0 global_filter=[\"a|^$pv\$|\",\"r|.*|\"] external_device_info_source=\"none\" obtain_device_list_from_udev=0 } activation { udev_sync=0 udev_rules=0 } backup { backup=0 archive=0 } global { locking_type=1 }")
pvcreate "${lvm[@]}" "$pv"
vgcreate "${lvm[@]}" vg0 "$pv"
lvcreate "${lvm[@]}" --activate n --zero n --wipesignatures n --name root --size 4G vg0
read -r pe_start extent first < <(pvs "${lvm[@]}" --noheadings --nosuffix --units b --segments \
	-o pe_start,vg_extent_size,pvseg_start --select 'lv_name=root' "$pv")
detach "$pv"
attach "$disk" $((pv_at * mib + pe_start + first * extent)) $((4096 * mib))
mkfs.xfs -q -m "uuid=$ROOT_UUID" "$loop"
mounted "$loop" "$work/mnt"
cp -a "$tree/." "$work/mnt/"
unmounted "$work/mnt"
detach "$loop"

truncate -s ${swap_mib}M "$work/swap.raw"
mkswap --quiet --uuid "$SWAP_UUID" "$work/swap.raw"
into "$work/swap.raw" $((pv_at + pv_mib))
