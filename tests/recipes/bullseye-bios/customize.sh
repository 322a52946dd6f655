#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware, upgraded from older
# releases: names by /dev/sda everywhere, eth0 by a persistent rule and
# net.ifnames=0, an initramfs for its own hardware alone, packed by gzip.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named erp01 27aa5d4c3b2a49188776655443322127

cat >"$root/etc/fstab" <<'END'
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda1	/	ext4	errors=remount-ro	0	1
/dev/sda5	none	swap	sw	0	0
/dev/sr0	/media/cdrom0	udf,iso9660	user,noauto	0	0
END
cat >"$root/etc/udev/rules.d/70-persistent-net.rules" <<END
# PCI device 0x15ad:0x07b0 (vmxnet3)
SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="$MAC", ATTR{dev_id}=="0x0", ATTR{type}=="1", KERNEL=="eth*", NAME="eth0"
END
cat >"$root/etc/network/interfaces" <<'END'
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
	address 10.0.2.67
	netmask 255.255.255.0
	gateway 10.0.2.2
END

echo RESUME=/dev/sda5 >"$root/etc/initramfs-tools/conf.d/resume"
vmware_image gzip <<<ext4

grub_by_device
sed -i 's|^GRUB_CMDLINE_LINUX=.*|GRUB_CMDLINE_LINUX="net.ifnames=0 resume=/dev/sda5"|' "$root/etc/default/grub"
grub_pc '(,msdos1)/boot/grub' ext2
ROOT_DEVICE=/dev/sda1 BOOT_DEVICE=/dev/sda1 BOOT_UUID=$ROOT_UUID BOOT_FS=ext2 PARTMAP=msdos HINT=hd0,msdos1 BOOT_BELOW=/boot
update_grub
settled
