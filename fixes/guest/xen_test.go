package guest_test

import (
	"testing"

	"hyper2kvm/fixes/guest"
)

func TestResolveXenImages(t *testing.T) {
	images := func(more ...guest.Filesystem) *guest.Facts {
		f := &guest.Facts{Filesystems: append([]guest.Filesystem{{Disk: 0, Type: "ext3", UUID: "root"}, {Disk: 1, Type: "swap", UUID: "swap"}}, more...)}
		for i := range f.Filesystems {
			f.Disks = append(f.Disks, guest.Disk{Index: i, Table: "none"})
		}
		return f
	}
	for _, test := range []struct {
		facts              *guest.Facts
		spec, fstype, want string
	}{
		{images(), "/dev/xvda2", "ext3", "root"},
		{images(), "/dev/xvda2", "", "root"}, // root= on a command line
		{images(), "/dev/xvda1", "swap", "swap"},
		{images(), "/dev/sda1", "swap", "swap"}, // kernels before Linux 2.6.24 had any name
		{images(), "/dev/nvme0n1p2", "", ""},
		{images(guest.Filesystem{Disk: 2, Type: "xfs", UUID: "data"}), "/dev/xvda3", "xfs", "data"},
		{images(), "/dev/xvdb1", "ext3", ""}, // another disk, which was not given
		{images(guest.Filesystem{Disk: 2, Type: "ext3", UUID: "data"}), "/dev/xvda3", "ext3", ""},
	} {
		got, ok := test.facts.ResolveAs(test.spec, test.fstype)
		if ok != (test.want != "") || ok && got.UUID != test.want {
			t.Errorf("%s (%s) resolves to %+v, want %q", test.spec, test.fstype, got, test.want)
		}
	}
	f := images()
	f.Fstab = []guest.FstabEntry{{Spec: "/dev/xvda2", Type: "ext3"}, {Spec: "/dev/xvda1", Type: "swap"}, {Spec: "/dev/xvda3", Type: "ext3"}}
	if got, ok := f.ResolveAs("/dev/xvda3", "ext3"); ok {
		t.Errorf("one of two names for one image resolves to %+v", got)
	}
	f = images()
	f.Disks[0].Table = "dos"
	if got, ok := f.ResolveAs("/dev/xvda2", "ext3"); ok {
		t.Errorf("beside a disk with partitions /dev/xvda2 resolves to %+v", got)
	}
}
