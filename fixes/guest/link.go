package guest

import (
	"path"
	"regexp"
	"strings"
)

// What stands in links that udev makes of buses and serial numbers.
var (
	partSuffix = regexp.MustCompile(`-part([0-9]{1,3})$`)
	scsiPath   = regexp.MustCompile(`-scsi-[0-9]+:[0-9]+:([0-9]{1,2}):[0-9]+$`)
	ataPath    = regexp.MustCompile(`-(?:ata|nvme)-([0-9]{1,2})(?:\.[0-9]+)?$`)

	// multipathName matches names of dm-multipath: user friendly ones and WWIDs,
	// with what kpartx(8) puts between name and partition number.
	multipathName = regexp.MustCompile(`^(?:mpath[a-z]{1,3}|3[0-9a-f]{16}(?:[0-9a-f]{16})?)(?:(?:-part|_part|p)?([0-9]{1,3}))?$`)
)

// byVolume finds a volume by its name below /dev. A multipath device is no volume
// but one disk by another name, which KVM does not have.
func (f *Facts) byVolume(name, fstype string) (*Filesystem, bool) {
	want := name
	if mapped, ok := strings.CutPrefix(name, "mapper/"); ok {
		vg, lv, isLV := splitMapper(mapped)
		if isLV {
			if s, ok := f.volume(vg + "/" + lv); ok {
				return s, true
			}
		}
		if m := multipathName.FindStringSubmatch(mapped); m != nil {
			return f.byPart("-part"+m[1], fstype)
		}
		want = "luks/" + mapped
	} else if n, ok := strings.CutPrefix(name, "md"); ok && isNumber(n) {
		return f.array(n, fstype)
	}
	return f.volume(want)
}

// array finds a Linux RAID by the number in its kernel name. The kernel counts
// arrays without a number of their own down from 127 in the order in which they
// start, so the only one that can be meant is meant.
func (f *Facts) array(number, fstype string) (*Filesystem, bool) {
	if s, ok := f.volume("md/" + number); ok {
		return s, true
	}
	const lowest = "120" // below, a number was chosen
	if len(number) != len(lowest) || number < lowest {
		return nil, false
	}
	return f.only(func(s *Filesystem) bool { return strings.HasPrefix(s.Volume, "md/") && sameType(s.Type, fstype) })
}

func (f *Facts) byLink(kind, value, fstype string) (*Filesystem, bool) {
	switch kind {
	case "uuid", "label", "partuuid", "partlabel":
		return f.byTag(kind, value)
	case "path":
		return f.byPart(value, fstype)
	case "id":
		if mapped, ok := strings.CutPrefix(value, "dm-name-"); ok {
			return f.byVolume("mapper/"+mapped, fstype)
		}
		if uuid, ok := strings.CutPrefix(value, "lvm-pv-uuid-"); ok {
			return f.byTag("UUID", uuid)
		}
		if stableID(value) {
			return nil, false
		}
		return f.byPart(value, fstype)
	}
	return nil, false
}

// byPart finds what a bus path or serial number meant: the partition number is
// in the name, the disk is the only one that has it, with that content if the
// content is known; a bus address decides among several as disk order does.
func (f *Facts) byPart(link, fstype string) (*Filesystem, bool) {
	part, bus := splitPart(link)
	match := onDisk(part, fstype)
	if s, ok := f.only(match); ok {
		return s, true
	}
	disk := busPlace(bus)
	return f.only(func(s *Filesystem) bool { return match(s) && s.Disk == disk })
}

// splitPart takes a partition number off a link; 0 is a whole disk.
func splitPart(link string) (part int, bus string) {
	m := partSuffix.FindStringSubmatch(link)
	if m == nil {
		return 0, link
	}
	return number(m[1]), strings.TrimSuffix(link, m[0])
}

func onDisk(part int, fstype string) func(*Filesystem) bool {
	return func(s *Filesystem) bool { return s.Disk >= 0 && s.Partition == part && sameType(s.Type, fstype) }
}

// Candidates are the file systems that a name which tells a partition number and
// no disk could mean; nil for every other name.
func (f *Facts) Candidates(spec, fstype string) []*Filesystem {
	name := strings.TrimPrefix(path.Clean(Unquote(spec)), "/dev/")
	link := ""
	if m := multipathName.FindStringSubmatch(strings.TrimPrefix(name, "mapper/")); m != nil {
		link = "-part" + m[1]
	} else if Unstable(spec) && strings.HasPrefix(name, "disk/by-") {
		link = unescapeUdev(name)
	}
	if link == "" {
		return nil
	}
	part, bus := splitPart(link)
	if busPlace(bus) >= 0 {
		return nil
	}
	var out []*Filesystem
	for i := range f.Filesystems {
		if onDisk(part, fstype)(&f.Filesystems[i]) {
			out = append(out, &f.Filesystems[i])
		}
	}
	return out
}

// Ambiguous reports whether such a name could mean several, so that ResolveAs does
// not find it although it is there.
func (f *Facts) Ambiguous(spec, fstype string) bool {
	_, found := f.ResolveAs(spec, fstype)
	return !found && len(f.Candidates(spec, fstype)) > 0
}

// busPlace is the place in disk order that a bus address suggests, or -1. A
// SCSI controller has id 7 itself on VMware's buses, so disks skip it.
func busPlace(bus string) int {
	if m := scsiPath.FindStringSubmatch(bus); m != nil {
		id := number(m[1])
		if id > 7 {
			id--
		}
		return id
	}
	if m := ataPath.FindStringSubmatch(bus); m != nil {
		return number(m[1]) - 1
	}
	return -1
}

// byCloud finds what the links of cloud-init and of Azure's agent meant: the root
// disk is the first, a data disk the only one that fits. The resource disk, which
// Azure empties at will, is never brought along.
func (f *Facts) byCloud(link, fstype string) (*Filesystem, bool) {
	part, name := splitPart(link[strings.LastIndexByte(link, '/')+1:])
	switch name {
	case "azure_resource", "resource":
		return nil, false
	case "azure_root", "root":
		return f.at(0, part)
	}
	return f.only(func(s *Filesystem) bool {
		return s.Disk > 0 && s.Partition == part && sameType(s.Type, fstype)
	})
}
