package linux

import (
	"path"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/shellvars"
)

func grub(opts Options) fix {
	return fix{
		id:  "linux/grub",
		why: "A root named by disk order or bus address is not found on KVM, and the next update of the boot loader would look for disks that are gone.",
		plan: func(p *planner) error {
			d := opts.devices(p.facts)
			p.cmdlines(func(pl place, a *cmdline.Args) { rootArgs(p, d, pl, a) })
			keepUUIDs(p)
			deviceMap(p)
			debconfDevices(p)
			installDevice(p, d)
			return nil
		},
	}
}

// rootArgs edits the arguments that name the root and its parts.
func rootArgs(p *planner, d devices, pl place, a *cmdline.Args) {
	for i, arg := range a.All() {
		key, value, _ := cmdline.Split(arg)
		switch key {
		case "root", "real_root", "mount.usr", "boot":
			s, state := d.look(value, "")
			switch state {
			case moves:
				renameArg(p, d, pl, a, i, s)
			case missing:
				p.note("%s: %s is on no disk that was given; left", pl.file, arg)
			}
		case "cryptdevice": // device:name[:options], Arch's encrypt hook
			device, rest, _ := strings.Cut(value, ":")
			if s, state := d.look(device, ""); state == moves {
				if tag, ok := d.first(s, "uuid", "partuuid"); ok {
					a.Set(i, "cryptdevice="+tag+":"+rest)
				}
			}
		}
	}
}

// bootsWithoutInitramfs reports whether a kernel, by the name in a boot entry,
// is known to have none.
func bootsWithoutInitramfs(f *guest.Facts, kernel string) bool {
	for _, k := range f.Kernels {
		if path.Base(k.Image) == path.Base(kernel) {
			return k.Initramfs == ""
		}
	}
	return false
}

// keepUUIDs makes the next run of grub-mkconfig name the root by UUID.
func keepUUIDs(p *planner) {
	for _, name := range grubDefaults(p) {
		// An earlier edit of the same file is pending: add to that one.
		data, ok := p.pending(name)
		if !ok {
			continue
		}
		file := shellvars.Parse(data)
		for _, v := range file.Vars() {
			switch {
			case v.Name == "GRUB_DISABLE_LINUX_UUID" && v.Value == "true" && twinRoot(p.facts):
				p.note("%s: GRUB_DISABLE_LINUX_UUID stays: several file systems have the root's UUID", name)
			case v.Name == "GRUB_DISABLE_LINUX_UUID" && v.Value == "true":
				v.Value = "false"
			case v.Name == "GRUB_FORCE_PARTUUID" && v.Value != "":
				if _, ok := p.facts.Resolve("PARTUUID=" + v.Value); !ok {
					p.note("%s: GRUB_FORCE_PARTUUID=%s is on no disk that was given; left", name, v.Value)
				}
			}
		}
		p.amend(name, data, file.Bytes())
	}
}

// twinRoot reports whether the root's UUID is on another file system as well.
func twinRoot(f *guest.Facts) bool {
	for _, m := range f.Mounts {
		if m.Point == "/" && m.UUID != "" {
			_, ok := f.Resolve("UUID=" + m.UUID)
			return !ok
		}
	}
	return false
}
