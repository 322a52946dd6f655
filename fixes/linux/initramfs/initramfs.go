// Package initramfs makes sure that every initramfs of a Linux guest can find
// the guest's disks on KVM.
//
// An image that lacks a driver is completed in one of two ways. Inject appends
// a cpio segment with the guest's own modules and what makes the image load
// them; no program of the guest runs. Regenerate runs the guest's generator.
// Either way the generator's configuration gets the drivers too, so that the
// next kernel has them.
package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/kmod"
)

// The modes of Options.
const (
	Auto       = "auto"
	Inject     = "inject"
	Regenerate = "regenerate"
	None       = "none"
)

// The generators as Facts.Initramfs names them.
const (
	initramfsTools = "initramfs-tools"
	dracut         = "dracut"
)

// Options steer the fix. Mode is Auto (also ""), Inject, Regenerate or None.
type Options struct{ Mode string }

// Fixes gives the fix, or nothing when Mode is None.
func Fixes(opts Options) []fixes.Fix {
	if opts.Mode == None {
		return nil
	}
	return []fixes.Fix{fix{mode: opts.Mode}}
}

type fix struct{ mode string }

// ID returns the stable name.
func (fix) ID() string { return "linux/initramfs" }

// Why says what breaks without the fix.
func (fix) Why() string {
	return "An initramfs without virtio drivers does not find the root file system on KVM."
}

// Applies reports whether the guest is Linux with a kernel.
func (fix) Applies(facts *guest.Facts) bool {
	return facts.OS.Family == "linux" && len(facts.Kernels) > 0
}

// Plan completes each initramfs that lacks something.
func (f fix) Plan(ctx context.Context, g *guest.Guest) (fixes.Proposal, error) {
	p := &plan{g: g, mode: f.mode}
	for _, k := range g.Facts.Kernels {
		if err := ctx.Err(); err != nil {
			return fixes.Proposal{}, err
		}
		if err := p.kernel(k); err != nil {
			return p.out, fmt.Errorf("plan initramfs of kernel %s: %w", k.Version, err)
		}
	}
	if err := p.config(); err != nil {
		return p.out, fmt.Errorf("plan configuration of %s: %w", g.Facts.Initramfs, err)
	}
	return p.out, nil
}

// plan is one run of Plan.
type plan struct {
	g       *guest.Guest
	mode    string
	out     fixes.Proposal
	drivers []string // that are modules of some kernel, in load order
	lacking bool     // some image lacked a driver
}

func (p *plan) note(format string, args ...any) {
	p.out.Notes = append(p.out.Notes, fmt.Sprintf(format, args...))
}

func (p *plan) kernel(k guest.Kernel) error {
	c, err := check(p.g, k)
	if err != nil {
		return err
	}
	if c == nil {
		p.note("kernel %s: no modules found, nothing to check against", k.Version)
		return nil
	}
	for _, name := range c.loadable {
		if !slices.Contains(p.drivers, name) {
			p.drivers = append(p.drivers, name)
		}
	}
	for _, name := range c.unknown {
		p.note("kernel %s has no driver %s", k.Version, name)
	}
	if c.img == nil {
		if len(c.missing) > 0 {
			p.note("kernel %s has no initramfs and has not built in: %s", k.Version, strings.Join(c.missing, " "))
		}
		return nil
	}
	p.out.Notes = append(p.out.Notes, c.notes...)
	if len(c.missing) == 0 && len(c.stale) == 0 {
		return nil
	}
	p.lacking = p.lacking || len(c.missing) > 0
	return p.repair(c)
}

// repair chooses how.
func (p *plan) repair(c *checked) error {
	known := p.g.Facts.Initramfs == initramfsTools || p.g.Facts.Initramfs == dracut
	appendable := c.img.last != "lzma" && c.img.last != "bzip2"
	switch {
	case p.mode == Regenerate, (p.mode == Auto || p.mode == "") && !(known && appendable):
		return p.regenerate(c)
	case !known:
		return fmt.Errorf("no way is known to inject drivers into an image of %q", p.g.Facts.Initramfs)
	case !appendable:
		return fmt.Errorf("a segment cannot be appended to %s: the kernel does not find the end of %s", c.img.name, c.img.last)
	}
	return p.inject(c)
}

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

// checked is one kernel and what its image lacks.
type checked struct {
	kernel   guest.Kernel
	version  string        // name of the modules folder
	deps     *kmod.Modules // all modules of the kernel
	builtin  map[string]bool
	img      *image // nil without an initramfs
	loadable []string
	unknown  []string // required drivers that the kernel does not have at all
	missing  []string // modules that the image lacks, dependencies included
	stale    []override
	notes    []string
}

// check compares an image with what it must hold. It is nil, nil when the
// kernel has no modules.dep.
func check(g *guest.Guest, k guest.Kernel) (*checked, error) {
	c := &checked{kernel: k, version: path.Base(k.Modules)}
	if err := c.readModules(g.FS); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if k.Initramfs != "" {
		var err error
		if c.img, err = readImage(g.FS, k.Initramfs); err != nil {
			return nil, err
		}
	}
	have := map[string]string{}
	if c.img != nil {
		have = c.img.modules(c.img.modulesDir(c.version))
	}
	for _, name := range required() {
		switch {
		case c.builtin[name]:
		case c.deps.Find(name) == nil:
			c.unknown = append(c.unknown, name)
		default:
			c.loadable = append(c.loadable, name)
		}
	}
	mods, _ := c.deps.Closure(c.loadable...)
	for _, m := range mods {
		if _, ok := have[m.Name]; !ok && !c.builtin[m.Name] {
			c.missing = append(c.missing, m.Name)
		}
	}
	if c.img == nil {
		return c, nil
	}
	return c, c.findStale(g)
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
	c.builtin = map[string]bool{}
	b, err := tree.Open(path.Join(c.kernel.Modules, "modules.builtin"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer b.Close()
	c.builtin, err = kmod.ParseBuiltin(b)
	return err
}

// Finding is an initramfs that is not fit for KVM.
type Finding struct {
	Kernel, Initramfs string
	Missing           []string // modules
	Stale             []string // members that are still as they were on the old machine
	Err               error    // the image cannot be read
}

// String says it in one line.
func (f Finding) String() string {
	switch {
	case f.Err != nil:
		return fmt.Sprintf("kernel %s: %v", f.Kernel, f.Err)
	case len(f.Missing) > 0:
		return fmt.Sprintf("kernel %s: %s lacks %s", f.Kernel, f.Initramfs, strings.Join(f.Missing, " "))
	}
	return fmt.Sprintf("kernel %s: %s still has old %s", f.Kernel, f.Initramfs, strings.Join(f.Stale, " "))
}

// Verify reads every initramfs back, and every module that was put in must be
// there. It returns what is wrong; nothing is the proof.
func Verify(ctx context.Context, g *guest.Guest) ([]Finding, error) {
	var out []Finding
	for _, k := range g.Facts.Kernels {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if k.Initramfs == "" {
			continue
		}
		f := Finding{Kernel: k.Version, Initramfs: k.Initramfs}
		c, err := check(g, k)
		if c == nil && err == nil {
			continue
		}
		if f.Err = err; c != nil {
			f.Missing = c.missing
			for _, s := range c.stale {
				f.Stale = append(f.Stale, s.Name)
			}
		}
		if f.Err != nil || len(f.Missing) > 0 || len(f.Stale) > 0 {
			out = append(out, f)
		}
	}
	return out, nil
}
