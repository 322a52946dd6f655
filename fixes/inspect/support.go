package inspect

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/kmod"
)

// maxIndex bounds an index of modules or the configuration of a kernel, in
// bytes. Those of distributions have less than 1 MiB.
const maxIndex = 16 << 20

// drivers tells which drivers a kernel has.
type drivers struct {
	modules *kmod.Modules // nil without a list of modules
	count   int           // of them
	builtin map[string]bool
	config  map[string]string // CONFIG_X without its prefix
}

// support finds out what a kernel can do on KVM. What its modules are tells
// modules.dep, which spares reading the thousands of names in the folder; what
// is built in tell modules.builtin and the configuration.
func (f *finder) support(k *guest.Kernel) guest.Support {
	d := f.drivers(k)
	s := guest.Support{Debug: debugKernel.MatchString(k.Version)}
	if d.onlyXen(k.Version) {
		s.Unfit = "it runs under Xen only"
		return s
	}
	if d.count == 0 && len(d.config) == 0 {
		return s // nothing is known
	}
	s.Buses, s.NICs = d.buses(), d.nics()
	if !slices.Contains(s.Buses, "virtio") && !slices.Contains(s.Buses, "scsi") {
		s.Unfit = "it has no virtio driver for disks"
	}
	return s
}

// Kernels for debugging: kernel-debug of Fedora and its kin, -dbg and the like of
// others. The "kdump" of SUSE is for crash dumps.
var debugKernel = regexp.MustCompile(`(?i)(?:[-+.]debug|-dbg|-trace|-kdump|[a-z0-9_]debug)$`)

func (f *finder) drivers(k *guest.Kernel) *drivers {
	d := &drivers{builtin: map[string]bool{}}
	if file, err := f.tree.Open(k.Modules + "/modules.dep"); err == nil {
		d.modules, err = kmod.ParseDep(file)
		_ = file.Close() // read only
		if err != nil {
			f.warn("%s/modules.dep: %v", k.Modules, err)
			d.modules = nil
		}
	}
	if d.modules == nil {
		d.modules = kmod.New(f.walk(k.Modules, "", 0, nil))
	}
	d.count = len(d.modules.List)
	if file, err := f.tree.Open(k.Modules + "/modules.builtin"); err == nil {
		if names, err := kmod.ParseBuiltin(file); err == nil {
			d.builtin = names
		}
		_ = file.Close() // read only
	}
	d.config = f.kernelConfig(k)
	return d
}

// maxModules bounds a walk through a folder of modules: the largest have about
// 6000.
const maxModules = 20000

// walk lists the modules of a folder that has no index.
func (f *finder) walk(root, below string, depth int, out []*kmod.Module) []*kmod.Module {
	entries, err := f.tree.ReadDir(path.Join(root, below))
	if err != nil || depth > 16 {
		return out
	}
	for _, e := range entries {
		name := path.Join(below, e.Name())
		switch {
		case len(out) >= maxModules:
			return out
		case e.IsDir():
			out = f.walk(root, name, depth+1, out)
		case kmod.IsModule(name):
			out = append(out, &kmod.Module{Name: kmod.Name(name), Path: name})
		}
	}
	return out
}

// kernelConfig reads the configuration that a kernel was built with.
func (f *finder) kernelConfig(k *guest.Kernel) map[string]string {
	for _, name := range []string{
		path.Join(path.Dir(k.Image), "config-"+k.Version), "boot/config-" + k.Version, k.Modules + "/config", k.Modules + "/build/.config",
	} {
		data, err := readUpTo(f.tree, name, maxIndex)
		if err != nil {
			continue
		}
		out := map[string]string{}
		for _, l := range lines(data) {
			if key, value, ok := strings.Cut(strings.TrimPrefix(l, "CONFIG_"), "="); ok {
				out[key] = value
			}
		}
		return out
	}
	return nil
}

// onlyXen reports whether a kernel does not run on a machine, or in a virtual one
// like it: those that were ported to Xen before Linux itself knew it. Where their
// configuration is not there, their names tell.
func (d *drivers) onlyXen(version string) bool {
	if len(d.config) > 0 {
		return d.config["X86_XEN"] == "y" || d.config["X86_64_XEN"] == "y"
	}
	return xenKernel.MatchString(version) && !d.has("virtio_pci")
}

var xenKernel = regexp.MustCompile(`(?:xen[0U]?|xen-?pae|-ec2)(?:\.[a-z0-9_]+)?$`)

// has reports whether a driver is there, as a module or built in. What the
// configuration calls a module counts only where there is no list of them: it
// can be in a package that is not installed.
func (d *drivers) has(name string) bool {
	if d.modules != nil && d.modules.Find(name) != nil || d.builtin[name] {
		return true
	}
	switch d.config[configs()[name]] {
	case "y":
		return true
	case "m":
		return d.count == 0
	}
	return false
}

// configs are the options of drivers (Kconfig of the kernel).
func configs() map[string]string {
	return map[string]string{
		"virtio_pci": "VIRTIO_PCI", "virtio_blk": "VIRTIO_BLK", "virtio_scsi": "SCSI_VIRTIO", "virtio_net": "VIRTIO_NET",
		"sd_mod": "BLK_DEV_SD", "ahci": "SATA_AHCI", "ata_piix": "ATA_PIIX", "piix": "BLK_DEV_PIIX", "ide_disk": "BLK_DEV_IDEDISK",
		"ide_gd_mod": "IDE_GD", "e1000e": "E1000E", "e1000": "E1000", "8139cp": "8139CP", "8139too": "8139TOO",
	}
}

func (d *drivers) buses() []string {
	var out []string
	add := func(bus string, drivers ...string) {
		if !slices.Contains(out, bus) && !slices.ContainsFunc(drivers, func(n string) bool { return !d.has(n) }) {
			out = append(out, bus)
		}
	}
	add("virtio", "virtio_pci", "virtio_blk")
	add("scsi", "virtio_pci", "virtio_scsi", "sd_mod")
	add("sata", "ahci", "sd_mod")
	add("ide", "ata_piix", "sd_mod")
	add("ide", "piix", "ide_disk")
	add("ide", "piix", "ide_gd_mod")
	return out
}

func (d *drivers) nics() []string {
	var out []string
	if d.has("virtio_pci") && d.has("virtio_net") {
		out = append(out, "virtio")
	}
	for _, name := range []string{"e1000e", "e1000"} {
		if d.has(name) {
			out = append(out, name)
		}
	}
	if d.has("8139cp") || d.has("8139too") {
		out = append(out, "rtl8139")
	}
	return out
}
