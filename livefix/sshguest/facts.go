package sshguest

import (
	"errors"
	"io/fs"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
)

// machineScript prints what the running kernel knows of the machine, in one
// round trip and with nothing that busybox lacks. What lies on the block devices
// is told by blkid(8) reading them, or by udev's database where blkid is old.
const machineScript = `echo "@firmware"; if [ -d /sys/firmware/efi ]; then echo uefi; else echo bios; fi
set -- /sys/class/block/*
[ -e "$1" ] || set -- /sys/block/* /sys/block/*/*[0-9]
for b do
	n=${b##*/}
	case $n in loop*|ram*|zram*|sr*|fd*|nbd*) continue;; esac
	[ -r "$b/dev" ] || continue
	echo "@block $n"
	for k in dev size partition start queue/logical_block_size dm/name dm/uuid md/level; do
		[ -r "$b/$k" ] && { v=; read -r v <"$b/$k"; echo "$k=$v"; }
	done
	echo "path=$(readlink -f "$b")"
	d=/dev/$(echo "$n" | tr '!' /)
	blkid -p -o udev "$d" 2>/dev/null | grep '^ID_'
	read -r v <"$b/dev"
	sed -n 's/^E:ID_/ID_/p' "/run/udev/data/b$v" 2>/dev/null
	if ! [ -e "$b/partition" ] && dd if="$d" bs=512 count=1 2>/dev/null | tr -cd 'A-Z' | grep -q GRUB; then echo "bootcode=grub"; fi
done
echo "@blkid"; blkid -c /dev/null 2>/dev/null || blkid 2>/dev/null
for c in /sys/class/net/*; do
	[ -e "$c/device" ] || continue
	echo "@card ${c##*/}"
	for k in address bonding_slave/perm_hwaddr; do
		[ -r "$c/$k" ] && { read -r v <"$c/$k"; echo "$k=$v"; }
	done
done
echo "@mountinfo"; cat /proc/self/mountinfo 2>/dev/null || { echo "@mounts"; cat /proc/mounts; }
true`

// Facts finds out what the guest is.
func (g *Guest) Facts() (*guest.Facts, error) {
	out, code, err := g.shell.run(machineScript)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, api.Errorf(api.CodeSourceRead, "ask for the machine of", g.root.who, "the script ended with %d", code)
	}
	given := parseMachine(out)
	if err := g.completeMounts(given); err != nil {
		return nil, err
	}
	given.TargetBus = "virtio"
	return inspect.Inspect(g.fs, *given), nil
}

// completeMounts adds what fstab calls each mount, and what it has free.
func (g *Guest) completeMounts(facts *guest.Facts) error {
	data, err := inspect.ReadFile(g.fs, "etc/fstab")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		facts.Warnings = append(facts.Warnings, err.Error())
	}
	entries := inspect.Fstab(data)
	for i := range facts.Mounts {
		m := &facts.Mounts[i]
		for _, e := range entries {
			if e.Point == m.Point {
				m.Spec = e.Spec
			}
		}
		st, err := g.sftp.StatVFS(m.Point)
		if err != nil {
			// Old servers do not tell; the write itself will.
			m.Free, m.Inodes = 1<<62, -1
			continue
		}
		m.Free, m.Inodes = int64(st.Bfree*st.Frsize), int64(st.Ffree)
		if st.Files == 0 { // btrfs, vfat
			m.Inodes = -1
		}
	}
	return nil
}

// ReadOnly reports whether a mount is read-only now.
func ReadOnly(m guest.Mount) bool {
	for o := range strings.SplitSeq(m.Opts, ",") {
		if o == "ro" {
			return true
		}
	}
	return false
}
