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
shim=$tree/usr/lib/shim vendor=$tree/boot/efi/EFI/debian
mkdir -p "$vendor"
cp "$shim/shimx64.efi.signed" "$vendor/shimx64.efi"
cp "$shim/mmx64.efi.signed" "$vendor/mmx64.efi"
cp "$shim/fbx64.efi.signed" "$vendor/fbx64.efi"
cp "$shim/BOOTX64.CSV" "$vendor/BOOTX64.CSV"
cp "$tree/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$vendor/grubx64.efi"
cat >"$vendor/grub.cfg" <<END
search.fs_uuid $BOOT_UUID root hd0,gpt2
set prefix=(\$root)'/grub'
configfile \$prefix/grub.cfg
END
esp "$tree/boot/efi" "$ESP_ID" $esp_mib 1
ext4 "$tree/boot" "$BOOT_UUID" $boot_mib $((1 + esp_mib))
volumes vg0 $pv_mib $((1 + esp_mib + boot_mib)) root:4096
xfs "$tree" "$ROOT_UUID" 4096 "${volume_at[root]}"
swap "$SWAP_UUID" $swap_mib $((1 + esp_mib + boot_mib + pv_mib))
