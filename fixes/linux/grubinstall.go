package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/debconf"
	"hyper2kvm/fixes/linux/table"
)

// deviceMap removes GRUB 2's device.map when it names disks in a way that does
// not hold: grub-install probes the disks without one, and a stale one makes it
// write to the wrong disk or none. GRUB legacy's, which its shell takes disks
// from, gets the names that they have on KVM.
func deviceMap(p *planner) {
	for _, dir := range []string{"boot/grub", "boot/grub2"} {
		name := dir + "/device.map"
		data, ok := p.read(name)
		if !ok {
			continue
		}
		stale := slices.ContainsFunc(table.Parse(data).Rows(), func(r *table.Row) bool {
			return guest.Unstable(r.Field(1))
		})
		switch {
		case !stale:
		case !p.exists(dir + "/grub.cfg"):
			legacyDeviceMap(p, name, data)
		default:
			p.changes = append(p.changes, fixes.Remove{Name: name})
		}
	}
}

// legacyDeviceMap renames the disks in GRUB legacy's device.map: "(hd0) /dev/sda".
func legacyDeviceMap(p *planner, name string, data []byte) {
	file := table.Parse(data)
	used := map[string]bool{}
	for _, r := range file.Rows() {
		old := r.Field(1)
		if !guest.Unstable(old) {
			continue
		}
		if disk := newDisk(p, old); disk != "" && !used[disk] {
			r.Set(1, disk)
			used[disk] = true
			continue
		}
		p.note("%s: %s cannot be told apart on KVM; left", name, old)
	}
	p.write(name, data, file.Bytes())
}

const debconfFile = "var/cache/debconf/config.dat"

// debconfDevices points Debian's grub-pc to the disk under its new name. Its
// maintainer script fails an upgrade when a remembered disk does not exist, or
// asks; it takes a kernel name, which is what Debian's installer remembers on a
// virtio disk. Where the bus is not known it remembers none, and that this is
// meant: the upgrade then leaves the boot code, which works, alone.
func debconfDevices(p *planner) {
	data, ok := p.read(debconfFile)
	if !ok {
		return
	}
	db := debconf.Parse(data)
	const question = "grub-pc/install_devices"
	value, ok := db.Get(question)
	if !ok || value == "" {
		return
	}
	now, changed := newDisks(p, value)
	if !changed {
		return
	}
	db.Set(question, now)
	if now == "" {
		db.Set("grub-pc/install_devices_empty", "true")
	}
	if _, asked := db.Get("grub-pc/install_devices_disks_changed"); asked {
		db.Set("grub-pc/install_devices_disks_changed", now)
	}
	p.note("grub-pc installs its boot code on %q instead of %q from now on", now, value)
	p.write(debconfFile, data, db.Bytes())
}

// newDisks renames a list of whole disks, or partitions, as grub-pc keeps it.
func newDisks(p *planner, value string) (string, bool) {
	var out []string
	changed := false
	for _, old := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' }) {
		name := old
		if guest.Unstable(old) {
			name = newDisk(p, old)
		}
		changed = changed || name != old
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return strings.Join(out, ", "), changed
}

// newDisk is the kernel name that a disk gets on the target's bus; "" where it
// cannot be told.
func newDisk(p *planner, old string) string {
	prefix := map[string]string{"virtio": "/dev/vd", "scsi": "/dev/sd", "sata": "/dev/sd"}[p.facts.TargetBus]
	disk := diskOf(p.facts, old)
	if prefix == "" || disk < 0 || disk >= 26 {
		return ""
	}
	return prefix + string(rune('a'+disk))
}

// diskOf is the index of the disk that a name of a whole disk meant: by its
// letter, else the one that carries boot code, else the only one; -1 where that
// does not decide.
func diskOf(f *guest.Facts, name string) int {
	if s, ok := f.Resolve(name); ok && s.Disk >= 0 && s.Partition == 0 {
		return s.Disk
	}
	for _, p := range []string{"sd", "hd", "vd", "xvd"} {
		letter, ok := strings.CutPrefix(name, "/dev/"+p)
		if ok && len(letter) == 1 && letter[0] >= 'a' && letter[0] <= 'z' {
			return known(f, int(letter[0]-'a'))
		}
	}
	if strings.Contains(name, "-part") {
		return -1
	}
	if len(f.Disks) == 1 {
		return f.Disks[0].Index
	}
	at := -1
	for _, d := range f.Disks {
		if d.BootCode != "grub" {
			continue
		}
		if at >= 0 {
			return -1
		}
		at = d.Index
	}
	return at
}

func known(f *guest.Facts, index int) int {
	if slices.ContainsFunc(f.Disks, func(d guest.Disk) bool { return d.Index == index }) {
		return index
	}
	return -1
}

// installDevice edits where SUSE's perl-bootloader installs GRUB.
func installDevice(p *planner, d devices) {
	const name = "etc/default/grub_installdevice"
	data, ok := p.read(name)
	if !ok {
		return
	}
	file := table.Parse(data)
	for _, r := range file.Rows() {
		old := r.Field(0)
		if !guest.Unstable(old) {
			continue
		}
		if s, ok := p.facts.Resolve(old); ok && s.Partition > 0 {
			if link, ok := d.path(s); ok {
				r.Set(0, link)
				continue
			}
		}
		if disk := newDisk(p, old); disk != "" {
			r.Set(0, disk)
			continue
		}
		p.note("%s: %s cannot be told apart on KVM; left", name, old)
	}
	p.write(name, data, file.Bytes())
}
