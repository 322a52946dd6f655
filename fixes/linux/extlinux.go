package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/shellvars"
)

// alpineModules has Alpine's initramfs load the drivers of the new disks: its
// init loads what modules= names before it looks for the root.
func alpineModules() fix {
	return fix{
		id:  "linux/alpine-modules",
		why: "Alpine's initramfs loads the disk drivers that modules= names; those of the old machine's disks are of no use on KVM.",
		plan: func(p *planner) error {
			if p.facts.Initramfs != "mkinitfs" && p.facts.OS.ID != "alpine" {
				return nil
			}
			add := alpineDrivers(p.facts)
			p.cmdlines(func(pl place, a *cmdline.Args) {
				if !pl.entry {
					return
				}
				for i, arg := range a.All() {
					if value, ok := strings.CutPrefix(arg, "modules="); ok {
						a.Set(i, "modules="+withModules(value, add))
					}
				}
			})
			const settings = "etc/update-extlinux.conf"
			data, ok := p.pending(settings)
			if !ok {
				return nil
			}
			file := shellvars.Parse(data)
			if v := file.Last("modules"); v != nil && v.Value != "" {
				v.Value = withModules(v.Value, add)
			}
			p.amend(settings, data, file.Bytes())
			return nil
		},
	}
}

// alpineDrivers are those that the kernel to be started has.
func alpineDrivers(f *guest.Facts) []string {
	drivers := map[string]string{"virtio": "virtio_blk", "scsi": "virtio_scsi", "sata": "ahci", "ide": "ata_piix"}
	k := f.KVMKernel()
	if k == nil || len(k.Buses) == 0 {
		return []string{drivers["virtio"]}
	}
	var out []string
	for _, bus := range k.Buses {
		if bus == "virtio" || bus == "scsi" || bus == f.TargetBus {
			out = append(out, drivers[bus])
		}
	}
	return out
}

// withModules adds names to a list that commas part.
func withModules(list string, add []string) string {
	have := strings.Split(list, ",")
	for _, name := range add {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.ReplaceAll(h, "-", "_") == name }) {
			list += "," + name
		}
	}
	return list
}
