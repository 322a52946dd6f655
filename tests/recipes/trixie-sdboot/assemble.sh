# Debian 13, UEFI with systemd-boot, GPT: ESP, btrfs with the subvolumes @ and
# @home: 2 GiB, in files of VMware's split kind.
. "$recipe/ids.sh"
need mkfs.btrfs:btrfs-progs mformat:mtools
bootstrap trixie
esp_mib=256
truncate -s 2G "$disk"
sfdisk --quiet "$disk" <<END
label: gpt
label-id: $DISK_GUID
start=1MiB, size=${esp_mib}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
END
esp "$tree/boot/efi" "$ESP_ID" $esp_mib 1

attach "$disk" $(((1 + esp_mib) * mib)) $(((2048 - esp_mib - 2) * mib))
mkfs.btrfs -q -U "$ROOT_UUID" "$loop"
mounted "$loop" "$work/mnt"
btrfs -q subvolume create "$work/mnt/@"
btrfs -q subvolume create "$work/mnt/@home"
cp -aT "$tree/home" "$work/mnt/@home"
find "$tree/home" -mindepth 1 -delete
cp -a "$tree/." "$work/mnt/@/"
unmounted "$work/mnt"
detach "$loop"
deliver sda.vmdk vmdk subformat=twoGbMaxExtentSparse
