package initramfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

const comment = "# hyper2kvm: drivers of the disks of KVM\n"

// generator is a program of the guest that makes initramfs images.
type generator interface {
	// command makes an image anew, with all drivers and those of the machine
	// that it runs on.
	command(p *plan, c *checked) (fixes.Command, error)
	// config has the drivers put into the images of future kernels.
	config(p *plan) error
}

// generatorOf gives the generator that Facts.Initramfs names; nil for one that
// nothing is known of.
func generatorOf(name string) generator {
	switch layout(name) {
	case initramfsTools:
		return toolsProgram{}
	case dracut:
		return dracutProgram{}
	case mkinitcpio:
		return mkinitcpioProgram{}
	case mkinitfs:
		return mkinitfsProgram{}
	case "mkinitrd":
		return mkinitrdProgram{}
	}
	return nil
}

// regenerate runs the guest's generator for one kernel.
func (p *plan) regenerate(c *checked) error {
	name := c.img.name
	if len(c.missing) == 0 && !slices.ContainsFunc(c.stale, func(s override) bool { return !s.configured }) {
		for _, s := range c.stale {
			p.note("%s keeps %s, as it is configured: %s", name, s.Name, s.why)
		}
		return nil
	}
	program := generatorOf(p.g.Facts.Initramfs)
	if program == nil {
		return fmt.Errorf("no way is known to make %s with %q: %s", name, p.g.Facts.Initramfs, c.layout.told())
	}
	command, err := program.command(p, c)
	if err != nil {
		return err
	}
	// The new image is written beside the old one; one that was made for a
	// single machine and now is for all grows.
	if err := p.room(name, 2*c.img.size); err != nil {
		return err
	}
	command.Why = name + " lacks " + strings.Join(c.missing, " ")
	if len(c.missing) == 0 {
		command.Why = name + " still speaks of the old machine"
	}
	p.out.Changes = append(p.out.Changes, command)
	return nil
}

// config writes what keeps the drivers in the images of future kernels.
func (p *plan) config() error {
	if len(p.drivers) == 0 {
		return nil
	}
	program := generatorOf(p.g.Facts.Initramfs)
	if program == nil {
		if p.lacking {
			p.note("future images: nothing is configured for %q; add to them: %s", p.g.Facts.Initramfs, strings.Join(p.drivers, " "))
		}
		return nil
	}
	return program.config(p)
}

// regenerates reports whether the guest's generator is going to run.
func (p *plan) regenerates() bool {
	return slices.ContainsFunc(p.out.Changes, func(c fixes.Change) bool {
		_, ok := c.(fixes.Command)
		return ok
	})
}

// write proposes a file, unless it has that content already.
func (p *plan) write(name string, old, now []byte) {
	if string(old) != string(now) {
		p.out.Changes = append(p.out.Changes, fixes.WriteFile{Name: name, Content: now})
	}
}

// program reads the first of the names that there is, a program that may be a
// script; "" where it is none.
func (p *plan) program(names ...string) string {
	for _, name := range names {
		data, err := readSmall(p.g.FS, name)
		if err == nil {
			if strings.HasPrefix(string(data), "#!") {
				return string(data)
			}
			return ""
		}
	}
	return ""
}

func (p *plan) exists(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		_, err := p.g.FS.Stat(name)
		return err == nil
	})
}

// files lists the files of folders that end in ext, each folder's in order.
func files(tree guest.FS, ext string, dirs ...string) ([]string, error) {
	var out []string
	for _, dir := range dirs {
		entries, err := tree.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ext) {
				out = append(out, path.Join(dir, e.Name()))
			}
		}
	}
	return out, nil
}

// optional reads a small file; one that is missing is empty.
func optional(tree guest.FS, name string) ([]byte, error) {
	data, err := readSmall(tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}
