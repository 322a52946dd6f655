#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: the root on a
# mirror, swap by /dev/sda2, an initramfs for VMware's hardware alone, packed by
# lz4.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named backup01 23aa5d4c3b2a49188776655443322123

cat >"$root/etc/fstab" <<'END'
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/md0	/	ext4	errors=remount-ro	0	1
/dev/sda2	none	swap	sw	0	0
END
cat >"$root/etc/mdadm/mdadm.conf" <<END
HOMEHOST <ignore>
MAILADDR root
ARRAY /dev/md0 metadata=1.2 UUID=$ARRAY_UUID
END

cat >"$root/etc/network/interfaces" <<'END'
auto lo
iface lo inet loopback

auto ens192
iface ens192 inet static
	address 10.0.2.63/24
	gateway 10.0.2.2
END

echo RESUME=/dev/sda2 >"$root/etc/initramfs-tools/conf.d/resume"
printf '%s\n' raid1 ext4 | vmware_image lz4

grub_by_device
array=mduuid/${ARRAY_UUID//:/}
grub_pc "($array)/boot/grub" ext2 mdraid1x
echo 'grub-pc grub-pc/install_devices multiselect /dev/sda, /dev/sdb' | guest debconf-set-selections
ROOT_DEVICE=/dev/md0 BOOT_DEVICE=/dev/md0 BOOT_UUID=$ROOT_UUID BOOT_FS=ext2 PARTMAP=msdos HINT=$array BOOT_BELOW=/boot
update_grub

# Nothing here mails about the array.
ln -sf /dev/null "$root/etc/systemd/system/mdmonitor.service"
settled
