package guest

import (
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Resolve finds the file system that a device specification of a guest file
// (fstab, crypttab, a kernel command line) meant on the source machine: a tag
// (UUID=…, quoted or not), a kernel name by disk order (/dev/sdb1), a udev link
// (/dev/disk/by-…), or a volume (/dev/mapper/vg-lv, /dev/vg/lv, /dev/md0). It
// reports false for what is no block device, is not there, or could be two.
func (f *Facts) Resolve(spec string) (*Filesystem, bool) {
	return f.ResolveAs(spec, "")
}

// ResolveAs is Resolve for a specification whose content type is known ("xfs",
// "swap"; "" or "auto" is not known): the type decides between the candidates
// of a link that tells only a partition number.
func (f *Facts) ResolveAs(spec, fstype string) (*Filesystem, bool) {
	spec = Unquote(spec)
	if tag, value, ok := strings.Cut(spec, "="); ok && !strings.HasPrefix(spec, "/") {
		return f.byTag(tag, Unquote(value))
	}
	name, ok := strings.CutPrefix(path.Clean(spec), "/dev/")
	if !ok {
		return nil, false
	}
	if link, ok := strings.CutPrefix(name, "disk/by-"); ok {
		kind, value, _ := strings.Cut(link, "/")
		return f.byLink(kind, unescapeUdev(value), fstype)
	}
	if link, ok := strings.CutPrefix(name, "disk/"); ok {
		return f.byCloud(link, fstype)
	}
	if disk, part, ok := kernelName(name); ok {
		if s, ok := f.at(disk, part); ok || part == 0 {
			return s, ok
		}
		return f.wholeDisk(spec, fstype)
	}
	return f.byVolume(name, fstype)
}

// Unstable reports whether spec names a device in a way that a change of
// hypervisor breaks: by kernel name, or by a link made of bus or serial number.
func Unstable(spec string) bool {
	name, ok := strings.CutPrefix(path.Clean(Unquote(spec)), "/dev/")
	if !ok {
		return false
	}
	if id, ok := strings.CutPrefix(name, "disk/by-id/"); ok {
		return !stableID(id)
	}
	for _, made := range []string{"disk/by-path/", "disk/by-diskseq/", "disk/cloud/", "disk/azure/"} {
		if strings.HasPrefix(name, made) {
			return true
		}
	}
	if mapped, ok := strings.CutPrefix(name, "mapper/"); ok {
		return multipathName.MatchString(mapped)
	}
	_, _, ok = kernelName(name)
	return ok
}

// stableID reports whether a name in by-id comes from the content (LVM, MD),
// not from the disk.
func stableID(id string) bool {
	for _, p := range []string{"dm-", "lvm-pv-uuid-", "md-"} {
		if strings.HasPrefix(id, p) {
			return true
		}
	}
	return false
}

// Unquote takes one pair of quotes off.
func Unquote(s string) string {
	s = strings.TrimSpace(s)
	if n := len(s); n >= 2 && s[0] == s[n-1] && (s[0] == '"' || s[0] == '\'') {
		return s[1 : n-1]
	}
	return s
}

func (f *Facts) byTag(tag, value string) (*Filesystem, bool) {
	if value == "" {
		return nil, false
	}
	switch strings.ToUpper(tag) {
	case "UUID":
		return f.only(func(s *Filesystem) bool { return strings.EqualFold(s.UUID, value) })
	case "LABEL":
		return f.only(func(s *Filesystem) bool { return s.Label == value })
	case "PARTUUID":
		return f.only(func(s *Filesystem) bool { return strings.EqualFold(s.PartUUID, value) })
	case "PARTLABEL":
		return f.only(func(s *Filesystem) bool { return f.partLabel(s) == value })
	}
	return nil, false
}

func (f *Facts) partLabel(s *Filesystem) string {
	if s.Disk < 0 || s.Partition == 0 {
		return ""
	}
	for i := range f.Disks {
		if f.Disks[i].Index != s.Disk {
			continue
		}
		for _, p := range f.Disks[i].Partitions {
			if p.Number == s.Partition {
				return p.Label
			}
		}
	}
	return ""
}

// only returns the file system that match wants, if there is one. The members
// of one btrfs count as one, since they share their UUID.
func (f *Facts) only(match func(*Filesystem) bool) (*Filesystem, bool) {
	var found *Filesystem
	for i := range f.Filesystems {
		s := &f.Filesystems[i]
		if !match(s) {
			continue
		}
		if found != nil && (s.Type != "btrfs" || found.Type != "btrfs" || s.UUID != found.UUID) {
			return nil, false
		}
		if found == nil {
			found = s
		}
	}
	return found, found != nil
}

func (f *Facts) at(disk, part int) (*Filesystem, bool) {
	return f.only(func(s *Filesystem) bool { return s.Disk == disk && s.Partition == part })
}

func (f *Facts) volume(name string) (*Filesystem, bool) {
	if name == "" {
		return nil, false
	}
	return f.only(func(s *Filesystem) bool { return s.Volume == name })
}

// splitMapper takes a device-mapper name of LVM apart: a dash within a name is
// doubled, the single one stands between group and volume (lvm(8)).
func splitMapper(name string) (vg, lv string, ok bool) {
	for i := 0; i < len(name); i++ {
		if name[i] != '-' {
			continue
		}
		if i+1 < len(name) && name[i+1] == '-' {
			i++
			continue
		}
		undouble := func(s string) string { return strings.ReplaceAll(s, "--", "-") }
		vg, lv = undouble(name[:i]), undouble(name[i+1:])
		return vg, lv, vg != "" && lv != ""
	}
	return "", "", false
}

// kernelName takes a kernel's block device name apart. The disk is its place in
// the order of the source's disks; part is 0 for the whole disk.
func kernelName(name string) (disk, part int, ok bool) {
	if m := letterName.FindStringSubmatch(name); m != nil {
		for _, c := range m[1] {
			disk = disk*26 + int(c-'a') + 1
		}
		return disk - 1, number(m[2]), true
	}
	for _, re := range []*regexp.Regexp{nvmeName, ccissName, mmcName} {
		m := re.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		// A second controller's first disk, or the first controller's others:
		// either counts on from the first disk; both at once is not known.
		unit, sub := number(m[1]), number(m[2])
		if re == nvmeName {
			sub-- // namespaces count from 1
		}
		if sub < 0 || unit > 0 && sub > 0 {
			return -1, 0, true
		}
		return unit + sub, number(m[3]), true
	}
	return 0, 0, false
}

// Kernel names, Documentation/admin-guide/devices.txt in the Linux sources.
var (
	letterName = regexp.MustCompile(`^(?:sd|hd|vd|xvd)([a-z]{1,2})([0-9]{0,3})$`)
	nvmeName   = regexp.MustCompile(`^nvme([0-9]{1,3})n([0-9]{1,3})(?:p([0-9]{1,3}))?$`)
	ccissName  = regexp.MustCompile(`^cciss/c([0-9]{1,3})d([0-9]{1,3})(?:p([0-9]{1,3}))?$`)
	mmcName    = regexp.MustCompile(`^mmcblk([0-9]{1,3})()(?:p([0-9]{1,3}))?$`)
)

// number is the value of a string of digits, 0 for none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// sameType compares a type that fstab gives with one that blkid gives.
func sameType(have, want string) bool {
	switch want {
	case "", "auto", "none", have:
		return true
	case "ext2", "ext3", "ext4": // the ext4 driver mounts all three
		return strings.HasPrefix(have, "ext")
	case "msdos":
		return have == "vfat"
	case "ntfs-3g", "ntfs3":
		return have == "ntfs"
	}
	return false
}

// unescapeUdev undoes the \xHH that udev writes for what may not stand in a
// link's name (systemd, src/shared/udev-util.c: encode_devnode_name).
func unescapeUdev(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
