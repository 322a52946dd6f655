package linux

import (
	"slices"
	"strings"
)

// shareOf names the hypervisor that gave a folder of its host to the guest, by
// what fstab calls it; "" for any other file system. Its module is gone on KVM,
// and a mount that fails stops the boot in emergency mode.
func shareOf(spec, fstype string) string {
	switch {
	case strings.HasPrefix(spec, ".host:/"), slices.Contains([]string{"vmhgfs", "fuse.vmhgfs-fuse"}, fstype):
		return "VMware"
	case fstype == "vboxsf":
		return "VirtualBox"
	case fstype == "prl_fs", fstype == "fuse.prl_fsd":
		return "Parallels"
	}
	return ""
}
