#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: a dracut image for
# its own hardware alone, names by /dev/sdX and by PCI path, a MAC match.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named db01 6a0e5d4c3b2a49188776655443322110

cat >"$root/etc/fstab" <<END
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/mapper/vg0-root	/	xfs	defaults	0	0
/dev/sda2	/boot	ext4	defaults	0	2
UUID=${ESP_ID:0:4}-${ESP_ID:4}	/boot/efi	vfat	umask=0077	0	1
$BYPATH-part4	none	swap	sw	0	0
END
mkdir -p "$root/boot/efi"

cat >"$root/etc/systemd/network/10-lan.network" <<END
[Match]
MACAddress=$MAC

[Network]
Address=10.0.2.60/24
Gateway=10.0.2.2
END
guest systemctl enable systemd-networkd.service

vmware_dracut 'dm lvm usrmount' 'mptspi mptsas dm_mod xfs ext4' 'xfs ext4' --kernel-cmdline 'rd.lvm.lv=vg0/root'

grub_by_device
sed -i "s|^GRUB_CMDLINE_LINUX=.*|GRUB_CMDLINE_LINUX=\"resume=$BYPATH-part4\"|" "$root/etc/default/grub"
mkdir -p "$root/boot/grub/x86_64-efi" "$root/boot/grub/fonts"
cp "$root"/usr/lib/grub/x86_64-efi/*.{mod,lst} "$root/boot/grub/x86_64-efi/"
cp "$root/usr/share/grub/unicode.pf2" "$root/boot/grub/fonts/"
guest grub-editenv /boot/grub/grubenv create

ROOT_DEVICE=/dev/mapper/vg0-root BOOT_DEVICE=/dev/sda2 BOOT_FS=ext2 PARTMAP=gpt HINT=hd0,gpt2 BOOT_BELOW=
update_grub

settled
