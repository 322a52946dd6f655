#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: /usr and GRUB by
# /dev/sda, netplan with the name ens192, an initramfs for VMware's hardware
# alone, packed by gzip; its loader where only the old NVRAM knew it.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named mail01 25aa5d4c3b2a49188776655443322125

cat >"$root/etc/fstab" <<'END'
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda2	/	ext4	errors=remount-ro	0	1
/dev/sda3	/usr	ext4	defaults	0	2
/dev/sda1	/boot/efi	vfat	umask=0077	0	1
END

mkdir -p "$root/etc/netplan"
cat >"$root/etc/netplan/01-netcfg.yaml" <<'END'
# written by hand
network:
  version: 2
  renderer: networkd
  ethernets:
    ens192:
      addresses: [10.0.2.65/24]   # the mail exchanger
      routes:
        - to: default
          via: 10.0.2.2
END
chmod 600 "$root/etc/netplan/01-netcfg.yaml"
guest systemctl enable systemd-networkd.service

vmware_image gzip <<<ext4

grub_by_device
mkdir -p "$root/boot/grub/x86_64-efi" "$root/boot/efi/EFI/debian"
cp "$root"/usr/lib/grub/x86_64-efi/*.{mod,lst} "$root/boot/grub/x86_64-efi/"
guest grub-editenv /boot/grub/grubenv create
cat >"$root/tmp/early.cfg" <<END
search.fs_uuid $ROOT_UUID root hd0,gpt2
set prefix=(\$root)'/boot/grub'
END
guest grub-mkimage -O x86_64-efi -c /tmp/early.cfg -p /boot/grub -o /boot/efi/EFI/debian/grubx64.efi \
	part_gpt ext2 search_fs_uuid normal configfile
rm "$root/tmp/early.cfg"
ROOT_DEVICE=/dev/sda2 BOOT_DEVICE=/dev/sda2 BOOT_UUID=$ROOT_UUID BOOT_FS=ext2 PARTMAP=gpt HINT=hd0,gpt2 BOOT_BELOW=/boot
update_grub

settled
