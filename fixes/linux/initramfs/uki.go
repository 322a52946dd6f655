package initramfs

import (
	"bytes"
	"debug/pe"
	"fmt"
	"io"
	"path"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// uki is a unified kernel image: kernel, command line and initramfs in one EFI
// program (UAPI.5 Unified Kernel Image).
type uki struct {
	version string // of the kernel
	signed  bool
	img     *image
}

const (
	maxHeaders = 64 << 10 // bytes of a PE file's headers that are looked at
	maxVersion = 256      // bytes of .uname

	// certificates is the entry of a PE file's table of contents that is not
	// empty in a signed one (PE Format, "Attribute Certificate Table").
	certificates = 4
)

// readUKI reads a unified kernel image, nothing of it but what is looked into.
func readUKI(tree guest.FS, name string) (*uki, error) {
	header, err := peHeader(tree, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	u := &uki{signed: isSigned(header)}
	err = inSection(tree, name, header.Section(".uname"), func(r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, maxVersion))
		u.version = strings.TrimRight(string(text), "\x00\n ")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return u, inSection(tree, name, header.Section(".initrd"), func(r io.Reader) (err error) {
		u.img, err = readImageFrom(r, name)
		return err
	})
}

func peHeader(tree guest.FS, name string) (*pe.File, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, maxHeaders))
	if err != nil {
		return nil, err
	}
	return pe.NewFile(bytes.NewReader(head))
}

func isSigned(f *pe.File) bool {
	switch h := f.OptionalHeader.(type) {
	case *pe.OptionalHeader64:
		return h.DataDirectory[certificates].Size > 0
	case *pe.OptionalHeader32:
		return h.DataDirectory[certificates].Size > 0
	}
	return false
}

// inSection calls read with the content of a section, nothing where it is not
// there.
func inSection(tree guest.FS, name string, s *pe.Section, read func(io.Reader) error) error {
	if s == nil {
		return nil
	}
	f, err := tree.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(io.Discard, f, int64(s.Offset)); err != nil {
		return err
	}
	size := int64(s.Size)
	if s.VirtualSize > 0 {
		size = min(size, int64(s.VirtualSize)) // the rest is padding
	}
	return read(io.LimitReader(f, size))
}

// ukis lists the unified kernel images on the EFI system partition.
func ukis(g *guest.Guest) []string {
	var out []string
	for _, esp := range []string{g.Facts.Loader.ESP, "efi", "boot/efi", "boot"} {
		if esp == "" {
			continue
		}
		names, err := files(g.FS, ".efi", path.Join(esp, "EFI/Linux"))
		if err == nil && len(names) > 0 {
			return append(out, names...)
		}
	}
	return nil
}

// unified says of each unified kernel image whether it will find the disks.
// Nothing can be put into one: its parts have their places, and most are signed.
// One that mkinitcpio makes and nobody signs is made anew.
func (p *plan) unified() error {
	for _, name := range ukis(p.g) {
		c, u, err := checkUKI(p.g, name)
		switch {
		case err != nil:
			p.note("unified kernel image %s: %v", name, err)
		case c == nil:
			p.note("unified kernel image %s: there are no modules of its kernel %q to check against", name, u.version)
		case len(c.missing) > 0:
			p.learn(c)
			p.lacking = true
			if err := p.remake(c, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// remake makes a unified kernel image anew or says how that is done.
func (p *plan) remake(c *checked, u *uki) error {
	name := u.img.name
	if u.signed || p.mode == Inject || p.g.Run == nil || layout(p.g.Facts.Initramfs) != mkinitcpio || !(mkinitcpioProgram{}).makesUKI(p) {
		p.note("unified kernel image %s lacks %s and is left as it is%s: make it anew in the guest (kernel-install add, mkinitcpio -P or dracut --uefi) once the drivers are configured, or boot another entry",
			name, strings.Join(c.missing, " "), u.seal())
		return nil
	}
	if err := p.room(name, 2*u.img.size); err != nil {
		return err
	}
	p.out.Changes = append(p.out.Changes, fixes.Command{
		Command: guest.Command{Args: []string{"mkinitcpio", "-k", c.version, "-S", "autodetect", "-U", "/" + name}},
		Touches: []string{name}, Why: name + " lacks " + strings.Join(c.missing, " "),
	})
	return nil
}

// checkUKI reads a unified kernel image and compares it with what it must hold;
// its checked is nil without modules to compare with.
func checkUKI(g *guest.Guest, name string) (*checked, *uki, error) {
	u, err := readUKI(g.FS, name)
	if err != nil {
		return nil, nil, err
	}
	c, err := u.check(g)
	return c, u, err
}

func (u *uki) seal() string {
	if u.signed {
		return ", a signature covers it"
	}
	return ""
}

// check compares the image with what it must hold; nil, nil without modules to
// compare with.
func (u *uki) check(g *guest.Guest) (*checked, error) {
	if u.version == "" || u.img == nil || strings.Contains(u.version, "/") {
		return nil, nil
	}
	modules, err := guest.Resolve(g.FS, path.Join("lib/modules", u.version))
	if err != nil {
		return nil, nil
	}
	c, err := checkModules(g.FS, guest.Kernel{Version: u.version, Modules: modules})
	if c == nil || err != nil {
		return nil, err
	}
	c.img = u.img
	return c, c.readBack(g)
}
