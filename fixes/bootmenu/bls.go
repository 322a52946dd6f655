package bootmenu

import (
	"path"
	"slices"
	"strings"
)

// BLS is an entry of type 1 of the Boot Loader Specification
// (https://uapi-group.org/specifications/specs/boot_loader_specification/).
type BLS struct {
	Entry
	// ID is the name of the file without ".conf" and without the counter of
	// attempts to boot it.
	SortKey, MachineID string
	// Bad says that all attempts to boot it are used up: such entries go last.
	Bad bool
}

// ParseBLS reads the entry that is in the file name.
func ParseBLS(name string, data []byte) BLS {
	e := BLS{}
	e.ID, e.Bad = blsID(name)
	for _, l := range lines(data) {
		key, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(l), "\t", " "), " ")
		value = strings.TrimSpace(value)
		switch key {
		case "title":
			e.Title = value
		case "version":
			e.Version = value
		case "sort-key":
			e.SortKey = value
		case "machine-id":
			e.MachineID = value
		case "linux", "efi", "uki":
			e.Kernel = value
		case "initrd":
			for _, w := range strings.Fields(value) {
				if !strings.HasPrefix(w, "$") { // $tuned_initrd
					e.Initrds = append(e.Initrds, w)
				}
			}
		case "options":
			e.Args = strings.TrimSpace(e.Args + " " + value)
		}
	}
	return e
}

// blsID takes the ending and the counter "+LEFT-DONE" off a file name. A counter
// is digits: the version of a kernel can have a plus in it, too (6.1.0+debug).
func blsID(name string) (id string, bad bool) {
	id = path.Base(name)
	for _, ext := range []string{".conf", ".efi"} {
		id = strings.TrimSuffix(id, ext)
	}
	i := strings.LastIndexByte(id, '+')
	if i < 0 {
		return id, false
	}
	left, done, counted := strings.Cut(id[i+1:], "-")
	if !digits(left) || counted && !digits(done) {
		return id, false
	}
	return id[:i], strings.Trim(left, "0") == ""
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// SortBLS orders entries as systemd-boot's menu has them ("Sorting" in the
// specification): the first is the default.
func SortBLS(list []BLS) {
	slices.SortStableFunc(list, func(a, b BLS) int {
		if a.Bad != b.Bad {
			return truth(a.Bad) - truth(b.Bad)
		}
		if (a.SortKey == "") != (b.SortKey == "") {
			return truth(a.SortKey == "") - truth(b.SortKey == "")
		}
		if a.SortKey != "" {
			for _, c := range []int{strings.Compare(a.SortKey, b.SortKey), strings.Compare(a.MachineID, b.MachineID), CompareVersions(b.Version, a.Version)} {
				if c != 0 {
					return c
				}
			}
		}
		return CompareVersions(b.ID, a.ID)
	})
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// SortGrubBLS orders entries as the blscfg command of Fedora's and Red Hat's
// GRUB does: by their ids, taken for the name, version and release of a package,
// the newest first.
func SortGrubBLS(list []BLS) {
	slices.SortStableFunc(list, func(a, b BLS) int {
		an, av, ar := packageParts(a.ID)
		bn, bv, br := packageParts(b.ID)
		for _, c := range []int{CompareRPM(bn, an), CompareRPM(bv, av), CompareRPM(br, ar)} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
}

func packageParts(id string) (name, version, release string) {
	name = id
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name, release = name[:i], name[i+1:]
	}
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name, version = name[:i], name[i+1:]
	}
	return name, version, release
}
