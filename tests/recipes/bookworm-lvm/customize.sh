#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: /boot and the boot
# loader by /dev/sda, NetworkManager with a profile for ens192, an initramfs for
# VMware's hardware alone, packed by zstd.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named files01 22aa5d4c3b2a49188776655443322122

cat >"$root/etc/fstab" <<'END'
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/mapper/vg0-root	/	xfs	defaults	0	0
/dev/sda1	/boot	ext4	defaults	0	2
/dev/mapper/vg0-swap	none	swap	sw	0	0
END

cat >"$root/etc/NetworkManager/system-connections/ens192.nmconnection" <<'END'
[connection]
id=ens192
uuid=4d1e9a3c-5f27-4b86-9c1d-2a7b8e6f2201
type=ethernet
interface-name=ens192

[ethernet]

[ipv4]
address1=10.0.2.62/24,10.0.2.2
method=manual

[ipv6]
method=disabled
END
chmod 600 "$root/etc/NetworkManager/system-connections/ens192.nmconnection"

echo RESUME=/dev/mapper/vg0-swap >"$root/etc/initramfs-tools/conf.d/resume"
printf '%s\n' dm_mod xfs | vmware_image zstd

grub_by_device
grub_pc '(,msdos1)/grub' ext2
ROOT_DEVICE=/dev/mapper/vg0-root BOOT_DEVICE=/dev/sda1 BOOT_FS=ext2 PARTMAP=msdos HINT=hd0,msdos1 BOOT_BELOW=
update_grub

settled
