#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: extlinux that names
# /dev/sda1, an initramfs for VMware's hardware alone, packed by xz, and nothing
# left of the program that made it.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/ids.sh"
. "${BASH_SOURCE[0]%/*}/../guest.sh"

named kiosk01 24aa5d4c3b2a49188776655443322124

printf '/dev/sda1\t/\text4\terrors=remount-ro\t0\t1\n' >"$root/etc/fstab"
cat >"$root/etc/network/interfaces" <<'END'
auto lo
iface lo inet loopback

allow-hotplug ens192
iface ens192 inet static
	address 10.0.2.64
	netmask 255.255.255.0
	gateway 10.0.2.2
END

echo ext4 | vmware_image xz
mkdir -p "$root/boot/extlinux"
cat >"$root/boot/extlinux/extlinux.conf" <<END
default linux
timeout 10
prompt 0

label linux
	menu label Debian GNU/Linux, kernel $version
	linux /boot/vmlinuz-$version
	initrd /boot/initrd.img-$version
	append root=/dev/sda1 ro quiet
END
guest dpkg --purge --force-depends initramfs-tools initramfs-tools-core >/dev/null
[ -f "$root/boot/initrd.img-$version" ]
settled
