#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: an entry of
# systemd-boot and an fstab that name /dev/sda, a dracut image for its own
# hardware alone, on the ESP.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named app01 "$MACHINE_ID"

cat >"$root/etc/fstab" <<'END'
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda2	/	btrfs	defaults,subvol=@	0	0
/dev/sda2	/home	btrfs	defaults,subvol=@home	0	0
/dev/sda1	/boot/efi	vfat	umask=0077	0	1
END
guest useradd --create-home app

cat >"$root/etc/systemd/network/10-lan.network" <<'END'
[Match]
Name=ens192

[Network]
Address=10.0.2.61/24
Gateway=10.0.2.2
END
guest systemctl enable systemd-networkd.service

vmware_dracut btrfs btrfs btrfs

# What kernel-install and bootctl leave on the ESP.
options="root=/dev/sda2 ro rootflags=subvol=@"
echo "$options" >"$root/etc/kernel/cmdline"
esp=$root/boot/efi
mkdir -p "$esp/EFI/systemd" "$esp/EFI/BOOT" "$esp/loader/entries" "$esp/$MACHINE_ID/$version"
cp "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$esp/EFI/systemd/systemd-bootx64.efi"
cp "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$esp/EFI/BOOT/BOOTX64.EFI"
cp "$root/boot/vmlinuz-$version" "$esp/$MACHINE_ID/$version/linux"
cp "$root/boot/initrd.img-$version" "$esp/$MACHINE_ID/$version/initrd.img-$version"
printf 'timeout 1\nconsole-mode keep\n' >"$esp/loader/loader.conf"
echo type1 >"$esp/loader/entries.srel"
cat >"$esp/loader/entries/$MACHINE_ID-$version.conf" <<END
# Boot Loader Specification type#1 entry
# File created by /usr/lib/kernel/install.d/90-loaderentry.install
title      Debian GNU/Linux 13 (trixie)
version    $version
machine-id $MACHINE_ID
sort-key   debian
options    $options systemd.machine_id=$MACHINE_ID
linux      /$MACHINE_ID/$version/linux
initrd     /$MACHINE_ID/$version/initrd.img-$version
END
settled
