package guest_test

import (
	"testing"

	"hyper2kvm/fixes/guest"
)

func TestKVMKernel(t *testing.T) {
	fit := func(version string) guest.Kernel {
		return guest.Kernel{Version: version, Image: version, Support: guest.Support{Buses: []string{"virtio"}}}
	}
	xen := func(k guest.Kernel) guest.Kernel {
		k.Buses, k.Unfit = nil, "it runs under Xen only"
		return k
	}
	old := func(k guest.Kernel) guest.Kernel {
		k.Buses, k.Unfit = []string{"ide"}, "it has no virtio driver for disks"
		return k
	}
	debug := func(k guest.Kernel) guest.Kernel { k.Debug = true; return k }
	byDefault := func(k guest.Kernel) guest.Kernel { k.Default = true; return k }
	entries := func(images ...string) (out []guest.BootEntry) {
		for _, i := range images {
			out = append(out, guest.BootEntry{Image: i})
		}
		return out
	}
	for name, test := range map[string]struct {
		kernels []guest.Kernel
		entries []guest.BootEntry
		want    string
	}{
		"the default is fit":                  {[]guest.Kernel{fit("2"), byDefault(fit("1"))}, nil, "1"},
		"the default is for Xen":              {[]guest.Kernel{byDefault(xen(fit("3"))), fit("2"), fit("1")}, nil, "2"},
		"one for debugging is the last":       {[]guest.Kernel{byDefault(xen(fit("3"))), debug(fit("2")), fit("1")}, nil, "1"},
		"one with a boot entry is better":     {[]guest.Kernel{byDefault(xen(fit("3"))), fit("2"), fit("1")}, entries("3", "1"), "1"},
		"emulated disks, if nothing else":     {[]guest.Kernel{byDefault(xen(fit("3"))), old(fit("2"))}, nil, "2"},
		"virtio is better than emulated":      {[]guest.Kernel{byDefault(old(fit("3"))), fit("2")}, nil, "2"},
		"nothing is known of the default":     {[]guest.Kernel{byDefault(guest.Kernel{Version: "1"}), fit("2")}, nil, "1"},
		"none":                                {[]guest.Kernel{byDefault(xen(fit("3")))}, nil, ""},
		"a hypervisor is between, of its own": {[]guest.Kernel{byDefault(fit("3")), fit("2")}, []guest.BootEntry{{Image: "3", Xen: true, Default: true}, {Image: "2"}}, "2"},
	} {
		f := &guest.Facts{Kernels: test.kernels, Loader: guest.BootLoader{Entries: test.entries}}
		got := ""
		if k := f.KVMKernel(); k != nil {
			got = k.Version
		}
		if got != test.want {
			t.Errorf("%s: kernel %q, want %q", name, got, test.want)
		}
	}
}

func TestBootDisk(t *testing.T) {
	esp := guest.Partition{Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"}
	for name, test := range map[string]struct {
		facts guest.Facts
		want  int
	}{
		"GRUB on the second":      {guest.Facts{Firmware: "bios", Disks: []guest.Disk{{BootCode: "none"}, {Index: 1, BootCode: "grub"}}}, 1},
		"GRUB on both":            {guest.Facts{Firmware: "bios", Disks: []guest.Disk{{BootCode: "grub"}, {Index: 1, BootCode: "grub"}}}, 0},
		"an active partition":     {guest.Facts{Firmware: "bios", Disks: []guest.Disk{{}, {Index: 1, Partitions: []guest.Partition{{Bootable: true}}}}}, 1},
		"active without code":     {guest.Facts{Firmware: "bios", Disks: []guest.Disk{{}, {Index: 1, BootCode: "none", Partitions: []guest.Partition{{Bootable: true}}}}}, 0},
		"the ESP on the third":    {guest.Facts{Firmware: "uefi", Disks: []guest.Disk{{BootCode: "grub"}, {Index: 1}, {Index: 2, Partitions: []guest.Partition{esp}}}}, 2},
		"nothing that tells":      {guest.Facts{Firmware: "bios", Disks: []guest.Disk{{}, {Index: 1}}}, 0},
		"no disk that was looked": {guest.Facts{}, 0},
	} {
		if got := test.facts.BootDisk(); got != test.want {
			t.Errorf("%s: disk %d, want %d", name, got, test.want)
		}
	}
}
