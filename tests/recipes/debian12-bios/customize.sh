#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: names by /dev/sdX
# everywhere, an initramfs with VMware's drivers alone.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named web01 4f1c6f2e0d3a4b5c8e7f9a0b1c2d3e4f

# Those who may log in over the network: one whom sudo asks for a password, one
# whom it does not. Keys are put in by the tests.
for user in admin deploy; do
	guest useradd --create-home --shell /bin/bash --groups sudo "$user"
	echo "$user:hyper2kvm" | guest chpasswd
done
echo 'deploy ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/deploy"
chmod 440 "$root/etc/sudoers.d/deploy"

cat >"$root/etc/fstab" <<'END'
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda1	/	ext4	errors=remount-ro	0	1
/dev/sda2	none	swap	sw	0	0
# the database lives on the second disk
/dev/sdb1	/data	ext4	defaults	0	2
/dev/sr0	/media/cdrom0	udf,iso9660	user,noauto	0	0
END
mkdir -p "$root/data" "$root/media/cdrom0"

mkdir -p "$root/etc/network/interfaces.d"
cat >"$root/etc/network/interfaces" <<'END'
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
auto ens192
iface ens192 inet static
	address 10.0.2.50/24
	gateway 10.0.2.2
END

# VMware's controllers, and the disk and file system drivers above them.
echo MODULES=list >"$root/etc/initramfs-tools/conf.d/driver-policy"
echo RESUME=/dev/sda2 >"$root/etc/initramfs-tools/conf.d/resume"
cat >>"$root/etc/initramfs-tools/modules" <<'END'
mptspi
vmw_pvscsi
ata_piix
sd_mod
sr_mod
ext4
vmxnet3
END
guest update-initramfs -c -k "$version"

grub_by_device
grub_pc '(,msdos1)/boot/grub' ext2
ROOT_DEVICE=/dev/sda1 BOOT_DEVICE=/dev/sda1 BOOT_UUID=$ROOT_UUID BOOT_FS=ext2 PARTMAP=msdos HINT=hd0,msdos1 BOOT_BELOW=/boot
update_grub

# Data that is neither zeroes nor compressible, and some that is.
mkdir -p "$root/srv/data"
head -c 200M /dev/urandom >"$root/srv/data/archive.bin"
yes 'one line of a log that says little' | head -c 60M >"$root/srv/data/app.log" || true

settled
