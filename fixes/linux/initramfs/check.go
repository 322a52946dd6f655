package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/cpio"
	"hyper2kvm/formats/kmod"
)

// The drivers that an image needs to find a disk on virtio-blk or virtio-scsi,
// in the order in which they are loaded.
func required() []string { return []string{"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"} }

// wanted are drivers that are put in beside the required ones, where the kernel
// has them: SATA as a way out, and the NIC, but not where the image has no
// rules for its name: then it is better loaded once the guest's own are there.
func (c *checked) wanted() []string {
	if c.hasUnder("systemd/network") {
		return []string{"ahci", "virtio_net"}
	}
	return []string{"ahci"}
}

// ofSource are drivers of the disks of other hypervisors. Those that an image
// has are kept in the images of future kernels: the guest must go back.
func ofSource() []string {
	return []string{
		"vmw_pvscsi", "mptspi", "mptsas", "mptscsih", "BusLogic", "nvme", "ata_piix", "ahci",
		"hv_vmbus", "hv_storvsc", "storvsc", "xen_blkfront", "megaraid_sas", "cciss", "hpsa",
	}
}

// checked is one kernel and what its image lacks.
type checked struct {
	kernel   guest.Kernel
	version  string        // name of the modules folder
	deps     *kmod.Modules // all modules of the kernel
	builtin  map[string]bool
	img      *image // nil without an initramfs
	layout   layout // of the image
	loadable []string
	unknown  []string // required drivers that the kernel does not have at all
	missing  []string // modules that the image lacks or does not load, dependencies included
	kept     []string // drivers of other hypervisors that the image has
	stale    []override
	notes    []string
}

// check compares an image with what it must hold. It is nil, nil when the
// kernel has no modules.dep.
func check(g *guest.Guest, k guest.Kernel) (*checked, error) {
	c, err := checkModules(g.FS, k)
	if c == nil || err != nil {
		return nil, err
	}
	if k.Initramfs == "" {
		c.missing = c.lacks(nil)
		return c, nil
	}
	if c.img, err = readImage(g.FS, k.Initramfs); err != nil {
		return c, err
	}
	return c, c.readBack(g)
}

// checkModules is the kernel's side of check.
func checkModules(tree guest.FS, k guest.Kernel) (*checked, error) {
	c := &checked{kernel: k, version: path.Base(k.Modules)}
	if err := c.readModules(tree); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	c.sort()
	return c, nil
}

// readBack finds what the image lacks.
func (c *checked) readBack(g *guest.Guest) error {
	if c.layout = layoutOf(c.img); c.layout == unknownLayout && g.Facts.Initramfs != string(scripted) {
		c.layout = layout(g.Facts.Initramfs)
	}
	have := c.img.modules(c.modulesDir())
	c.missing = c.lacks(have)
	for _, name := range ofSource() {
		_, ok := have[kmod.Normal(name)]
		// What we put in ourselves must not count as the source's the next time only.
		if ok || slices.Contains(c.wanted(), name) && c.deps.Find(name) != nil {
			c.kept = append(c.kept, name)
		}
	}
	if others := c.img.otherVersions(c.version); len(have) == 0 && len(others) > 0 {
		c.notes = append(c.notes, fmt.Sprintf("%s has modules of %s, none of %s", c.img.name, strings.Join(others, " "), c.version))
	}
	if c.img.last == cpio.LZ4Frame {
		c.notes = append(c.notes, c.img.name+" is packed with lz4 in a form that no kernel unpacks: make it anew, with lz4 -l")
	}
	return c.findStale(g)
}

// modulesDir is where the image keeps the modules: Red Hat's mkinitrd has them
// all in one folder, without a version.
func (c *checked) modulesDir() string {
	if c.layout == scripted && c.img.flat() {
		return "lib"
	}
	return c.img.modulesDir(c.version)
}

// sort tells which of the required drivers are modules of the kernel.
func (c *checked) sort() {
	for _, name := range required() {
		switch {
		case c.builtin[name]:
		case c.deps.Find(name) == nil:
			c.unknown = append(c.unknown, name)
		default:
			c.loadable = append(c.loadable, name)
		}
	}
}

// lacks lists the needed modules that are not in have, and those that the
// image has and never loads.
func (c *checked) lacks(have map[string]string) []string {
	var loads map[string]bool
	if c.layout == scripted {
		loads = c.img.loads()
	}
	var out []string
	mods, _ := c.deps.Closure(c.loadable...)
	for _, m := range mods {
		_, ok := have[m.Name]
		if !c.builtin[m.Name] && (!ok || loads != nil && !loads[m.Name]) {
			out = append(out, m.Name)
		}
	}
	return out
}

func (c *checked) readModules(tree guest.FS) error {
	f, err := tree.Open(path.Join(c.kernel.Modules, "modules.dep"))
	if err != nil {
		return err
	}
	defer f.Close()
	if c.deps, err = kmod.ParseDep(f); err != nil {
		return err
	}
	return c.readBuiltin(tree)
}

// readBuiltin learns what the kernel has built in, from modules.builtin or,
// for a kernel before 2.6.33 that has none, from its configuration.
func (c *checked) readBuiltin(tree guest.FS) error {
	c.builtin = map[string]bool{}
	b, err := tree.Open(path.Join(c.kernel.Modules, "modules.builtin"))
	if err == nil {
		defer b.Close()
		if c.builtin, err = kmod.ParseBuiltin(b); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	config, err := c.config(tree)
	if err != nil {
		return err
	}
	for _, o := range options() {
		if bytes.Contains(config, []byte("\nCONFIG_"+o.config+"=y\n")) {
			c.builtin[o.module] = true
		}
	}
	return nil
}

// config reads the kernel's configuration, from where distributions keep it;
// it is empty where they do not. It begins with a new line.
func (c *checked) config(tree guest.FS) ([]byte, error) {
	for _, name := range []string{path.Join(path.Dir(c.kernel.Image), "config-"+c.version), path.Join(c.kernel.Modules, "config")} {
		data, err := optional(tree, name)
		if err != nil || len(data) > 0 {
			return append([]byte("\n"), data...), err
		}
	}
	return nil, nil
}

type option struct{ config, module string }

// options are the settings of the kernel that decide on the drivers and on what
// those need.
func options() []option {
	return []option{
		{"VIRTIO", "virtio"}, {"VIRTIO", "virtio_ring"}, {"VIRTIO_RING", "virtio_ring"}, {"VIRTIO_PCI", "virtio_pci"},
		{"VIRTIO_BLK", "virtio_blk"}, {"SCSI_VIRTIO", "virtio_scsi"}, {"BLK_DEV_SD", "sd_mod"}, {"SCSI", "scsi_mod"},
		{"VIRTIO_NET", "virtio_net"}, {"SATA_AHCI", "ahci"}, {"ATA", "libata"},
	}
}

// otherVersions lists the kernel versions that the image has modules of, but
// for version.
func (img *image) otherVersions(version string) []string {
	var out []string
	for name := range img.members {
		m := versionOf.FindStringSubmatch(name)
		if m != nil && m[1] != version && kmod.IsModule(name) && !slices.Contains(out, m[1]) {
			out = append(out, m[1])
		}
	}
	slices.Sort(out)
	return out
}

var versionOf = regexp.MustCompile(`^(?:usr/)?lib/modules/([^/]+)/`)
