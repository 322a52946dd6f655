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
	"fmt"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/cpio"
)

// The modes of Options.
const (
	Auto       = "auto"
	Inject     = "inject"
	Regenerate = "regenerate"
	None       = "none"
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

// Applies reports whether the guest is Linux with a kernel. One that lies on the
// EFI system partition alone need not be among the facts.
func (fix) Applies(facts *guest.Facts) bool {
	return facts.OS.Family == "linux" && (len(facts.Kernels) > 0 || facts.Loader.ESP != "")
}

// Plan completes each initramfs that lacks something, that of the default kernel
// first. Only that one must succeed: another kernel that cannot be helped is no
// reason to leave the guest dead.
func (f fix) Plan(ctx context.Context, g *guest.Guest) (fixes.Proposal, error) {
	p := &plan{g: g, mode: f.mode, used: map[string]int64{}}
	for _, k := range images(g) {
		if err := ctx.Err(); err != nil {
			return fixes.Proposal{}, err
		}
		if k.Unified() {
			continue
		}
		err := p.kernel(k)
		if err != nil && k.Default {
			return p.out, fmt.Errorf("plan initramfs of kernel %s: %w", k.Version, err)
		}
		if err != nil {
			p.note("kernel %s: %s is left as it is: %v", k.Version, k.Initramfs, err)
		}
	}
	if err := p.unified(); err != nil {
		return p.out, fmt.Errorf("plan unified kernel images: %w", err)
	}
	if err := p.config(); err != nil {
		return p.out, fmt.Errorf("plan configuration of %s: %w", g.Facts.Initramfs, err)
	}
	if err := p.allow(); err != nil {
		return p.out, fmt.Errorf("plan modprobe's configuration: %w", err)
	}
	return p.out, p.kdump()
}

// plan is one run of Plan.
type plan struct {
	g       *guest.Guest
	mode    string
	out     fixes.Proposal
	drivers []string         // that are modules of some kernel, in load order
	needed  []string         // the same with what they depend on
	kept    []string         // drivers of other hypervisors that images have
	lacking bool             // some image lacked a driver
	used    map[string]int64 // bytes that are planned for file systems, by mount point
}

// note says something once.
func (p *plan) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(p.out.Notes, text) {
		p.out.Notes = append(p.out.Notes, text)
	}
}

func (p *plan) kernel(k guest.Kernel) error {
	c, err := check(p.g, k)
	if c == nil && err == nil {
		p.note("kernel %s: no modules found, nothing to check against", k.Version)
		return nil
	}
	if err != nil {
		return p.unreadable(c, err)
	}
	p.learn(c)
	if c.img == nil {
		if len(c.missing) > 0 {
			p.note("kernel %s has no initramfs and has not built in: %s", k.Version, strings.Join(c.missing, " "))
		}
		return nil
	}
	if len(c.missing) == 0 && len(c.stale) == 0 {
		return nil
	}
	p.lacking = p.lacking || len(c.missing) > 0
	return p.repair(c)
}

// kdump tells of the images that kdump starts after a crash: they are made for one
// machine, and kdump makes them anew when it finds another.
func (p *plan) kdump() error {
	names, err := files(p.g.FS, "", "boot")
	for _, name := range names {
		if base := path.Base(name); strings.HasPrefix(base, "init") && strings.Contains(base, "kdump") {
			p.note("%s is left: kdump makes it anew when it starts on KVM", name)
		}
	}
	return err
}

// learn remembers what a kernel needs, and says what it does not have.
func (p *plan) learn(c *checked) {
	add := func(to *[]string, names ...string) {
		for _, name := range names {
			if !slices.Contains(*to, name) {
				*to = append(*to, name)
			}
		}
	}
	add(&p.drivers, c.loadable...)
	add(&p.kept, c.kept...)
	add(&p.needed, c.needed()...)
	for _, name := range c.unknown {
		p.note("kernel %s has no driver %s", c.kernel.Version, name)
	}
	for _, text := range c.notes {
		p.note("%s", text)
	}
}

// unreadable makes an image anew that cannot be read, where that can be done.
func (p *plan) unreadable(c *checked, err error) error {
	if c == nil || p.mode == Inject || p.g.Run == nil || generatorOf(p.g.Facts.Initramfs) == nil {
		return err
	}
	p.note("%s is made anew: %v", c.kernel.Initramfs, err)
	c.img = &image{name: c.kernel.Initramfs}
	if info, err := p.g.FS.Stat(c.img.name); err == nil {
		c.img.size = info.Size()
	}
	c.missing = c.lacks(nil)
	p.learn(c)
	p.lacking = true
	return p.regenerate(c)
}

// repair chooses how.
func (p *plan) repair(c *checked) error {
	// Behind these the kernel does not find the next segment; the last it does
	// not unpack at all.
	appendable := !slices.Contains([]string{"lzma", "bzip2", cpio.LZ4Frame}, c.img.last)
	injectable := c.layout.injectable() && appendable
	switch {
	case p.mode == Regenerate:
		return p.regenerate(c)
	case p.mode == Inject && !c.layout.injectable():
		return fmt.Errorf("no way is known to inject drivers into an image of %q: %s", c.layout, c.layout.told())
	case p.mode == Inject && !appendable:
		return fmt.Errorf("a segment cannot be appended to %s: the kernel does not find the end of %s", c.img.name, c.img.last)
	case p.mode == Inject, injectable && c.layout.bootTested():
		return p.inject(c)
	case injectable && (p.g.Run == nil || generatorOf(p.g.Facts.Initramfs) == nil):
		p.note("%s: drivers are put into an image of %q, which is proven by reading it back and by no boot", c.img.name, c.layout)
		return p.inject(c)
	}
	return p.regenerate(c)
}

// spare is what a file system needs beside the bytes themselves.
const spare = 64 << 10

// room refuses to fill the file system that name lies on.
func (p *plan) room(name string, need int64) error {
	var best *guest.Mount
	for i, m := range p.g.Facts.Mounts {
		point := strings.TrimPrefix(m.Point, "/")
		if point != "" && !strings.HasPrefix(name, point+"/") {
			continue
		}
		if best == nil || len(m.Point) > len(best.Point) {
			best = &p.g.Facts.Mounts[i]
		}
	}
	if best == nil {
		return nil
	}
	free := best.Free - p.used[best.Point]
	if need+spare > free {
		return &fixes.SpaceError{Name: name, Need: need + spare, Free: max(free, 0)}
	}
	p.used[best.Point] += need
	return nil
}
