# Debian 13, UEFI with GRUB, GPT: ESP, root and /usr (ext4) apart: 1.5 GiB.
. "$recipe/ids.sh"
need mformat:mtools
bootstrap trixie
esp_mib=64 usr_mib=800 root_mib=640
truncate -s 1536M "$disk"
sfdisk --quiet "$disk" <<END
label: gpt
label-id: $DISK_GUID
start=1MiB, size=${esp_mib}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
size=${root_mib}MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
size=${usr_mib}MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
END
esp "$tree/boot/efi" "$ESP_ID" $esp_mib 1
ext4 "$tree/usr" "$USR_UUID" $usr_mib $((1 + esp_mib + root_mib))
ext4 "$tree" "$ROOT_UUID" $root_mib $((1 + esp_mib))
deliver sda.qcow2 qcow2
