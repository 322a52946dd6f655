package guest

import (
	"path"
	"regexp"
)

// xenImage matches what Xen's configuration calls an image without a partition
// table; kernels before Linux 2.6.24 took the names of other drivers, too.
var xenImage = regexp.MustCompile(`^/dev/(?:xvd|sd|hd)a[0-9]+$`)

// wholeDisk finds what Xen calls a partition of a guest none of whose disks has a
// partition table: there each file system is an image of its own, and its number
// is what somebody wrote ("phy:vg/guest-swap,xvda1,w"; xl-disk-configuration(5)).
// So the content decides: swap or not, and the type; and fstab must not name
// several that it could be.
func (f *Facts) wholeDisk(spec, fstype string) (*Filesystem, bool) {
	if !xenImage.MatchString(path.Clean(spec)) {
		return nil, false
	}
	for _, d := range f.Disks {
		if d.Table != "none" {
			return nil, false
		}
	}
	for _, e := range f.Fstab {
		same := (e.Type == "swap") == (fstype == "swap") && (fstype == "" || sameType(e.Type, fstype))
		if same && xenImage.MatchString(e.Spec) && e.Spec != path.Clean(spec) {
			return nil, false
		}
	}
	return f.only(func(s *Filesystem) bool {
		return s.Disk >= 0 && s.Partition == 0 && sameType(s.Type, fstype) && (s.Type == "swap") == (fstype == "swap")
	})
}
