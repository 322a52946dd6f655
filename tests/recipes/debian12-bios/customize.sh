#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: names by /dev/sdX
# everywhere, an initramfs with VMware's drivers alone.
set -euo pipefail
root=$1
. "${BASH_SOURCE[0]%/*}/ids.sh"
guest() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C "$@"; }

echo web01 >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tweb01\n' >"$root/etc/hosts"
echo 4f1c6f2e0d3a4b5c8e7f9a0b1c2d3e4f >"$root/etc/machine-id"
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
echo 'root:hyper2kvm' | guest chpasswd

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
version=$(cd "$root/lib/modules" && echo *)
guest update-initramfs -c -k "$version"

sed -i -e 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=1/' \
	-e 's/^#GRUB_DISABLE_LINUX_UUID=.*/GRUB_DISABLE_LINUX_UUID=true/' "$root/etc/default/grub"
grep -q '^GRUB_DISABLE_LINUX_UUID=true' "$root/etc/default/grub"
echo 'grub-pc grub-pc/install_devices multiselect /dev/sda' | guest debconf-set-selections
mkdir -p "$root/boot/grub/i386-pc" "$root/boot/grub/fonts"
printf '(hd0)\t/dev/sda\n' >"$root/boot/grub/device.map"
cp "$root"/usr/lib/grub/i386-pc/*.{mod,lst,o,img} "$root/boot/grub/i386-pc/"
cp "$root/usr/share/grub/unicode.pf2" "$root/boot/grub/fonts/"
guest grub-mkimage -O i386-pc -p '(,msdos1)/boot/grub' -o /boot/grub/i386-pc/core.img biosdisk part_msdos ext2
guest grub-editenv /boot/grub/grubenv create

# grub-mkconfig asks grub-probe about the machine; this is what the guest's
# own machine answers.
cat >"$root/tmp/grub-probe" <<END
#!/bin/sh
case "\$*" in
*--target=device*) echo /dev/sda1 ;;
*--target=disk*) echo /dev/sda ;;
*--target=fs_uuid*) echo $ROOT_UUID ;;
*--target=partuuid*) echo $DISK_ID-01 ;;
*--target=fs_label*) ;;
*--target=fs*) echo ext2 ;;
*--target=partmap*) echo msdos ;;
*--target=abstraction*) ;;
*--target=compatibility_hint*) echo hd0,msdos1 ;;
*--target=hints_string*) echo "--hint-bios=hd0,msdos1 --hint-efi=hd0,msdos1 --hint-baremetal=ahci0,msdos1 " ;;
*--target=drive*) echo "(hd0,msdos1)" ;;
esac
END
chmod 755 "$root/tmp/grub-probe"
mv "$root/usr/sbin/grub-probe" "$root/usr/sbin/grub-probe.real"
mv "$root/tmp/grub-probe" "$root/usr/sbin/grub-probe"
guest update-grub
mv "$root/usr/sbin/grub-probe.real" "$root/usr/sbin/grub-probe"
grep -q 'root=/dev/sda1 ro' "$root/boot/grub/grub.cfg"

# What a minute of waiting for a boot would otherwise be spent on.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/locale/*

# Data that is neither zeroes nor compressible, and some that is.
mkdir -p "$root/srv/data"
head -c 200M /dev/urandom >"$root/srv/data/archive.bin"
yes 'one line of a log that says little' | head -c 60M >"$root/srv/data/app.log" || true

# The guest has run before: nothing of what systemd does once after /usr has
# changed (ConditionNeedsUpdate=) is left to do.
touch "$root/usr"
touch "$root/etc/.updated" "$root/var/.updated"
