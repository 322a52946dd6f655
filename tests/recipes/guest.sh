# What the customize.sh of every guest does alike; the tree is $1.
root=$1

# guest runs a program of the guest.
guest() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C "$@"; }

# named HOST MACHINE_ID
named() {
	echo "$1" >"$root/etc/hostname"
	printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n' "$1" >"$root/etc/hosts"
	echo "$2" >"$root/etc/machine-id"
	rm -f "$root/etc/resolv.conf"
	echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
	echo 'root:hyper2kvm' | guest chpasswd
	version=$(cd "$root/lib/modules" && echo *)
}

# vmware_image COMPRESSION makes the image of initramfs-tools that MODULES=dep
# makes on VMware, where it would look at the machine: here it is a list. More
# modules are read from standard input.
vmware_image() {
	local conf=$root/etc/initramfs-tools
	cp "$conf/modules" "$root/tmp/modules"
	printf '%s\n' vmw_pvscsi mptspi ata_piix sd_mod sr_mod vmxnet3 >>"$conf/modules"
	cat >>"$conf/modules"
	sed -i "s/^COMPRESS=.*/COMPRESS=$1/" "$conf/initramfs.conf"
	echo MODULES=list >"$conf/conf.d/driver-policy"
	guest update-initramfs -c -k "$version"
	echo MODULES=dep >"$conf/conf.d/driver-policy"
	mv "$root/tmp/modules" "$conf/modules"
}

# vmware_dracut MODULES DRIVERS FILESYSTEMS [OPTION...] makes the image that
# dracut --hostonly makes on VMware, where it would look at the machine: here
# each list is given, beside what every image gets.
vmware_dracut() {
	local modules="systemd systemd-initrd dracut-systemd kernel-modules rootfs-block udev-rules fs-lib base shutdown $1"
	local drivers="vmw_pvscsi ahci sd_mod sr_mod vmxnet3 $2" filesystems=$3
	shift 3
	echo 'hostonly="yes"' >"$root/etc/dracut.conf.d/10-hostonly.conf"
	guest dracut --force --quiet --no-hostonly --no-hostonly-cmdline --no-early-microcode \
		--modules "$modules" --drivers "$drivers" --filesystems "$filesystems" "$@" "/boot/initrd.img-$version" "$version"
	! guest lsinitrd "/boot/initrd.img-$version" | grep -E 'virtio_(blk|scsi)[^ ]*\.ko'
}

# grub_by_device has GRUB's configuration name the root by its device, and its
# menu wait no longer than a test has to.
grub_by_device() {
	sed -i -e 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=1/' \
		-e 's/^#*GRUB_DISABLE_LINUX_UUID=.*/GRUB_DISABLE_LINUX_UUID=true/' "$root/etc/default/grub"
	grep -q '^GRUB_DISABLE_LINUX_UUID=true' "$root/etc/default/grub"
}

# grub_pc PREFIX MODULE... fills /boot/grub for BIOS; PREFIX is where the loader
# finds it.
grub_pc() {
	local prefix=$1
	shift
	echo 'grub-pc grub-pc/install_devices multiselect /dev/sda' | guest debconf-set-selections
	mkdir -p "$root/boot/grub/i386-pc" "$root/boot/grub/fonts"
	printf '(hd0)\t/dev/sda\n' >"$root/boot/grub/device.map"
	cp "$root"/usr/lib/grub/i386-pc/*.{mod,lst,o,img} "$root/boot/grub/i386-pc/"
	cp "$root/usr/share/grub/unicode.pf2" "$root/boot/grub/fonts/"
	guest grub-mkimage -O i386-pc -p "$prefix" -o /boot/grub/i386-pc/core.img biosdisk part_msdos "$@"
	guest grub-editenv /boot/grub/grubenv create
}

# update_grub makes grub.cfg. grub-mkconfig asks grub-probe about the machine;
# what the guest's own machine answers is in the variables
#   ROOT_DEVICE ROOT_UUID BOOT_DEVICE BOOT_UUID   of / and of what /boot lies on
#   BOOT_FS PARTMAP HINT                          of the latter: ext2 msdos hd0,msdos1
#   BOOT_BELOW                                    the path of /boot on it: "" or /boot
update_grub() {
	local tool real
	cat >"$root/tmp/grub-probe" <<-END
		#!/bin/sh
		boot=no
		case "\$*" in */boot*|*/usr/share*|*$BOOT_DEVICE*) boot=yes ;; esac
		case "\$*" in
		*--target=device*) [ \$boot = yes ] && echo $BOOT_DEVICE || echo $ROOT_DEVICE ;;
		*--target=disk*) echo /dev/sda ;;
		*--target=fs_uuid*) [ \$boot = yes ] && echo $BOOT_UUID || echo $ROOT_UUID ;;
		*--target=partuuid*|*--target=fs_label*|*--target=abstraction*) ;;
		*--target=fs*) echo $BOOT_FS ;;
		*--target=partmap*) echo $PARTMAP ;;
		*--target=compatibility_hint*) echo $HINT ;;
		*--target=hints_string*) echo "--hint-bios=$HINT --hint-efi=$HINT " ;;
		*--target=drive*) echo "($HINT)" ;;
		esac
	END
	# Another file system of its own there is a folder of the tree here.
	cat >"$root/tmp/grub-mkrelpath" <<-END
		#!/bin/sh
		for path; do :; done
		case \$path in /boot|/boot/*) path=$BOOT_BELOW\${path#/boot} ;; esac
		echo "\$path"
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
	grep -Pq "^\tlinux\t$BOOT_BELOW/vmlinuz-\S+ root=$ROOT_DEVICE ro" "$root/boot/grub/grub.cfg"
}

# settled is what comes last: the guest has run before, and a boot is not to
# spend its minute on timers.
settled() {
	local unit
	for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
	rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/locale/*
	# Nothing of what systemd does once after /usr has changed
	# (ConditionNeedsUpdate=) is left to do.
	touch "$root/usr"
	touch "$root/etc/.updated" "$root/var/.updated"
}
