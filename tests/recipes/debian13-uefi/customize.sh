#!/bin/bash
# Makes the minimal tree $1 the guest as it stood on VMware: a dracut image for
# its own hardware alone, names by /dev/sdX and by PCI path, a MAC match.
set -euo pipefail
root=$1
. "${BASH_SOURCE[0]%/*}/ids.sh"
guest() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C "$@"; }

echo db01 >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdb01\n' >"$root/etc/hosts"
echo 6a0e5d4c3b2a49188776655443322110 >"$root/etc/machine-id"
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
echo 'root:hyper2kvm' | guest chpasswd

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

# dracut --hostonly would look at the machine that builds; these are the drivers
# and the command line it finds on the guest's own.
echo 'hostonly="yes"' >"$root/etc/dracut.conf.d/10-hostonly.conf"
version=$(cd "$root/lib/modules" && echo *)
guest dracut --force --quiet --no-hostonly --no-hostonly-cmdline --no-early-microcode \
	--modules 'systemd systemd-initrd dracut-systemd kernel-modules rootfs-block udev-rules dm lvm fs-lib base shutdown usrmount' \
	--drivers 'vmw_pvscsi mptspi mptsas ahci sd_mod sr_mod dm_mod xfs ext4 vmxnet3' \
	--filesystems 'xfs ext4' \
	--kernel-cmdline 'rd.lvm.lv=vg0/root' \
	"/boot/initrd.img-$version" "$version"
! guest lsinitrd "/boot/initrd.img-$version" | grep -E 'virtio_(blk|scsi|pci)[^ ]*\.ko'

sed -i -e 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=1/' \
	-e "s|^GRUB_CMDLINE_LINUX=.*|GRUB_CMDLINE_LINUX=\"resume=$BYPATH-part4\"|" "$root/etc/default/grub"
mkdir -p "$root/boot/grub/x86_64-efi" "$root/boot/grub/fonts"
cp "$root"/usr/lib/grub/x86_64-efi/*.{mod,lst} "$root/boot/grub/x86_64-efi/"
cp "$root/usr/share/grub/unicode.pf2" "$root/boot/grub/fonts/"
guest grub-editenv /boot/grub/grubenv create

# grub-mkconfig asks grub-probe about the machine; this is what the guest's
# own machine answers.
cat >"$root/tmp/grub-probe" <<END
#!/bin/sh
boot=no
case "\$*" in */boot*|*/usr/share*) boot=yes ;; esac
case "\$*" in
*--target=device*) [ \$boot = yes ] && echo /dev/sda2 || echo /dev/mapper/vg0-root ;;
*--target=disk*) echo /dev/sda ;;
*--target=fs_uuid*) case "\$*" in */dev/sda2*|*/boot*) echo $BOOT_UUID ;; *) echo $ROOT_UUID ;; esac ;;
*--target=partuuid*) ;;
*--target=fs_label*) ;;
*--target=fs*) echo ext2 ;;
*--target=partmap*) echo gpt ;;
*--target=abstraction*) ;;
*--target=compatibility_hint*) echo hd0,gpt2 ;;
*--target=hints_string*) echo "--hint-bios=hd0,gpt2 --hint-efi=hd0,gpt2 --hint-baremetal=ahci0,gpt2 " ;;
*--target=drive*) echo "(hd0,gpt2)" ;;
esac
END
# /boot is a file system of its own there; here it is a folder of the tree.
cat >"$root/tmp/grub-mkrelpath" <<'END'
#!/bin/sh
for path; do :; done
case $path in /boot|/boot/*) path=${path#/boot} ;; esac
echo "$path"
END
for tool in probe mkrelpath; do
	chmod 755 "$root/tmp/grub-$tool"
	real=$(guest which "grub-$tool")
	mv "$root$real" "$root$real.real"
	mv "$root/tmp/grub-$tool" "$root$real"
done
guest update-grub
for tool in probe mkrelpath; do
	real=$(guest which "grub-$tool")
	mv "$root$real.real" "$root$real"
done
grep -Pq '^\tlinux\t/vmlinuz-\S+ root=/dev/mapper/vg0-root ro ' "$root/boot/grub/grub.cfg"

# What a minute of waiting for a boot would otherwise be spent on.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/locale/*

# The guest has run before: nothing of what systemd does once after /usr has
# changed (ConditionNeedsUpdate=) is left to do.
touch "$root/usr"
touch "$root/etc/.updated" "$root/var/.updated"
