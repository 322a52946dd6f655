package linux

import (
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// devices gives devices names that do not depend on the hypervisor.
type devices struct {
	facts  *guest.Facts
	prefer string // "uuid", "partuuid", "label"
}

func (o Options) devices(f *guest.Facts) devices {
	return devices{facts: f, prefer: o.Devices}
}

// stable names a file system by a tag. Every tag is proven: it resolves, by
// the rules that the guest's tools follow, to this file system and to no other.
func (d devices) stable(s *guest.Filesystem) (string, bool) {
	return d.first(s, d.preferred("uuid", "partuuid", "label")...)
}

// preferred puts the kind of tag that was asked for first, where it is among
// those.
func (d devices) preferred(kinds ...string) []string {
	if i := slices.Index(kinds, d.prefer); i > 0 {
		return slices.Insert(slices.Delete(kinds, i, i+1), 0, d.prefer)
	}
	return kinds
}

func (d devices) first(s *guest.Filesystem, kinds ...string) (string, bool) {
	for _, kind := range kinds {
		tag, value := strings.ToUpper(kind), ""
		switch kind {
		case "uuid":
			value = s.UUID
		case "partuuid":
			value = s.PartUUID
		case "label":
			value = s.Label
		}
		if plain(value) && d.means(tag+"="+value, s) {
			return tag + "=" + value, true
		}
	}
	return "", false
}

// path is stable as a file name, for places that take no tag.
func (d devices) path(s *guest.Filesystem) (string, bool) {
	kinds := []string{"uuid", "partuuid", "label"}
	if s.Type == "btrfs" { // its members share UUID and label; udev links only one
		kinds = []string{"partuuid"}
	}
	if strings.Contains(s.Label, "/") { // udev would write it otherwise
		kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == "label" })
	}
	tag, ok := d.first(s, d.preferred(kinds...)...)
	if !ok {
		return "", false
	}
	kind, value, _ := strings.Cut(tag, "=")
	return "/dev/disk/by-" + strings.ToLower(kind) + "/" + value, true
}

func (d devices) means(spec string, s *guest.Filesystem) bool {
	found, ok := d.facts.Resolve(spec)
	return ok && (found == s || s.Type == "btrfs" && found.UUID == s.UUID)
}

// plain reports whether a value can stand in fstab, on a kernel command line
// and in a shell string without escapes.
func plain(value string) bool {
	return plainValue.MatchString(value)
}

var plainValue = regexp.MustCompile(`^[A-Za-z0-9_./:+@-]+$`)

// tagged takes a tag (UUID=…, LABEL=…) apart.
func tagged(spec string) (tag, value string, ok bool) {
	tag, value, ok = strings.Cut(guest.Unquote(spec), "=")
	tag = strings.ToUpper(tag)
	return tag, guest.Unquote(value), ok && slices.Contains([]string{"UUID", "LABEL", "PARTUUID", "PARTLABEL"}, tag)
}

// isDisk reports whether a specification names a disk, partition or volume: no
// optical or floppy drive, no RAM or loop device, no network or pseudo device.
func isDisk(spec string) bool {
	if _, _, ok := tagged(spec); ok {
		return true
	}
	name, ok := strings.CutPrefix(guest.Unquote(spec), "/dev/")
	if !ok {
		return false
	}
	if strings.HasPrefix(name, "disk/") || strings.HasPrefix(name, "mapper/") || guest.Unstable(spec) {
		return true
	}
	return !noDisk.MatchString(name) && (strings.Contains(name, "/") || strings.HasPrefix(name, "md"))
}

// noDisk matches what stands in /dev and holds no disk's file system: drives,
// RAM and network devices, folders that the system mounts.
var noDisk = regexp.MustCompile(`^(?:(?:sr|scd|fd|floppy|loop|ram|zram|nbd|dm-)[0-9]+(?:p[0-9]+)?|(?:shm|pts|hugepages|mqueue|zvol|rbd|drbd|bus|fd)(?:/.*)?)$`)

// mapperID matches links made of what identifies a volume of the device mapper or
// an array. They hold in a move, and facts have no such identities to compare.
var mapperID = regexp.MustCompile(`^/dev/disk/by-id/(?:dm-uuid-|md-uuid-|md-name-)`)

// state is what became of a device that a specification names.
type state int

const (
	other   state = iota // no disk, or not to be told
	stays                // there, under a name that holds
	moves                // there, under a name that breaks
	missing              // on no disk that was given
)

// look finds out what a specification names.
func (d devices) look(spec, fstype string) (*guest.Filesystem, state) {
	if !isDisk(spec) {
		return nil, other
	}
	s, ok := d.facts.ResolveAs(spec, fstype)
	switch {
	case ok && guest.Unstable(spec):
		return s, moves
	case ok:
		return s, stays
	case d.ambiguous(spec, fstype), mapperID.MatchString(spec), !guest.Unstable(spec) && d.hidden():
		return nil, other
	}
	return nil, missing
}

// ambiguous reports whether several file systems carry a tag, or could be meant
// by a name, so that it was not resolved although it is there.
func (d devices) ambiguous(spec, fstype string) bool {
	if link, ok := strings.CutPrefix(spec, "/dev/disk/by-"); ok {
		if kind, value, _ := strings.Cut(link, "/"); kind == "uuid" || kind == "label" || kind == "partuuid" {
			spec = kind + "=" + value
		}
	}
	tag, value, ok := tagged(spec)
	if !ok {
		return d.facts.Ambiguous(spec, fstype)
	}
	return slices.ContainsFunc(d.facts.Filesystems, func(s guest.Filesystem) bool {
		switch tag {
		case "UUID":
			return strings.EqualFold(s.UUID, value)
		case "LABEL":
			return s.Label == value
		case "PARTUUID":
			return strings.EqualFold(s.PartUUID, value)
		}
		return false
	})
}

// hidden reports whether there may be file systems that inspection could not
// see: in an encrypted volume that was not opened, on a RAID that was not
// assembled, in a pool.
func (d devices) hidden() bool {
	sealed, opened := 0, 0
	for _, s := range d.facts.Filesystems {
		switch {
		case strings.HasPrefix(s.Volume, "luks/") && len(s.Within) == 0:
			opened++
		case s.Type == "crypto_LUKS" && (s.LUKS == nil || !s.LUKS.Opened):
			sealed++
		}
		if s.Type == "BitLocker" || s.Type == "zfs_member" {
			return true
		}
	}
	return sealed > opened || d.facts.OS.Family != "linux" || d.unassembled()
}

func (d devices) unassembled() bool {
	member, array := false, false
	for _, s := range d.facts.Filesystems {
		member = member || s.Type == "linux_raid_member"
		array = array || strings.HasPrefix(s.Volume, "md/")
	}
	return member && !array
}

// holdsVolumes reports whether a content holds volumes and is no file system.
func holdsVolumes(kind string) bool {
	return kind == "LVM2_member" || kind == "crypto_LUKS" || kind == "linux_raid_member"
}
