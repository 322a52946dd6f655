package reporthtml

import (
	"cmp"
	"fmt"
	"strings"

	"hyper2kvm/fixes/guest"
)

// guestView is what inspection found, in rows.
type guestView struct {
	Name, Hostname string
	Facts          []row
	Filesystems    []filesystem
}

// row is a name and its value.
type row struct{ Name, Value string }

// filesystem is one line of the table of file systems.
type filesystem struct {
	Place, Type, UUID, Label, Mount, Size, Note string
}

func newGuest(f *guest.Facts) *guestView {
	g := &guestView{Hostname: f.Hostname,
		Name: cmp.Or(f.OS.Name, strings.TrimSpace(f.OS.ID+" "+f.OS.Version), f.OS.Family, "unknown")}
	add := func(name string, values ...string) {
		var there []string
		for _, v := range values {
			if v != "" {
				there = append(there, v)
			}
		}
		if len(there) > 0 {
			g.Facts = append(g.Facts, row{name, strings.Join(there, ", ")})
		}
	}
	add("System", g.Name)
	add("Host name", f.Hostname)
	add("Architecture", f.Arch)
	add("Firmware", f.Firmware)
	add("Init", f.Init)
	add("Boot loader", append([]string{f.Loader.Kind}, f.Loader.Loaders...)...)
	add("Initramfs by", f.Initramfs)
	for _, k := range f.Kernels {
		note := ""
		if k.Default {
			note = "default"
		}
		add("Kernel", k.Version, note, k.Unfit)
	}
	add("Network", f.Network...)
	for _, n := range f.NICs {
		add("Network card", n.MAC, n.Name, n.From)
	}
	add("Tools", f.Tools...)
	add("SELinux", f.SELinux)
	add("Boots from", f.TargetBus)
	add("Needs", f.Needs.CPU, f.Needs.Machine, f.Needs.Virtio, f.Needs.NIC)
	g.Filesystems = filesystems(f)
	return g
}

func filesystems(f *guest.Facts) []filesystem {
	points := make(map[string][]string)
	for _, m := range f.Mounts {
		if m.UUID != "" {
			points[m.UUID] = append(points[m.UUID], m.Point)
		}
	}
	var out []filesystem
	for _, x := range f.Filesystems {
		out = append(out, filesystem{Place: place(x), Type: x.Type, UUID: x.UUID, Label: x.Label,
			Mount: strings.Join(points[x.UUID], ", "), Size: formatBytes(x.Size), Note: x.Note})
	}
	return out
}

// place says where a file system lies, for a person.
func place(x guest.Filesystem) string {
	switch {
	case x.Volume != "":
		return x.Volume
	case x.Partition > 0:
		return fmt.Sprintf("disk %d, partition %d", x.Disk+1, x.Partition)
	case x.Disk >= 0:
		return fmt.Sprintf("disk %d", x.Disk+1)
	}
	return "a volume"
}
