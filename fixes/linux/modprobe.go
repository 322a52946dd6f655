package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/cmdline"
)

// modprobe lets KVM's drivers load that somebody has forbidden.
func modprobe() fix {
	return fix{
		id:  "linux/modprobe",
		why: "A driver of KVM's devices that is on a blacklist is not loaded: disks or network are missing.",
		plan: func(p *planner) error {
			for _, name := range p.once(append(p.list("etc/modprobe.d", ""), "etc/modprobe.conf", "etc/modprobe.conf.local")) {
				if !p.commentOut(name, forbidsDriver) {
					continue
				}
				p.note("%s: kept drivers of KVM from loading; its lines are comments now", name)
			}
			p.cmdlines(func(_ place, a *cmdline.Args) { allowDrivers(a) })
			return nil
		},
	}
}

// neededDrivers are those of the devices that the new machine has.
func neededDrivers() []string {
	return []string{"virtio", "virtio_ring", "virtio_pci", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_blk", "virtio_scsi",
		"virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "net_failover", "failover", "sd_mod", "ahci", "libahci", "qemu_fw_cfg"}
}

func isNeeded(module string) bool {
	return slices.Contains(neededDrivers(), strings.ReplaceAll(module, "-", "_"))
}

// forbidsDriver reports whether a line of modprobe.d(5) keeps a driver from
// loading: by a blacklist, or by a program that does nothing in its place.
func forbidsDriver(l string) bool {
	f := strings.Fields(l)
	if len(f) < 2 || !isNeeded(f[1]) {
		return false
	}
	switch f[0] {
	case "blacklist":
		return true
	case "install":
		return len(f) == 3 && slices.Contains([]string{"/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false", ":"}, f[2])
	case "alias":
		return len(f) == 3 && f[2] == "off"
	}
	return false
}

// allowDrivers takes drivers out of the lists on a kernel command line
// (modprobe.d(5), dracut.cmdline(7)).
func allowDrivers(a *cmdline.Args) {
	for i := len(a.All()) - 1; i >= 0; i-- {
		key, value, _ := cmdline.Split(a.All()[i])
		if !slices.Contains([]string{"modprobe.blacklist", "module_blacklist", "rd.driver.blacklist", "rdblacklist"}, key) {
			continue
		}
		names := strings.Split(value, ",")
		kept := slices.DeleteFunc(slices.Clone(names), isNeeded)
		switch {
		case len(kept) == 0:
			a.Remove(i)
		case len(kept) < len(names):
			a.Set(i, key+"="+strings.Join(kept, ","))
		}
	}
}
