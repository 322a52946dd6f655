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

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// Where the generators are told what every future image must have.
const (
	toolsModules = "etc/initramfs-tools/modules"
	toolsPolicy  = "etc/initramfs-tools/conf.d/zz-hyper2kvm"
	dracutConf   = "etc/dracut.conf.d/90-hyper2kvm.conf"

	comment = "# hyper2kvm: drivers of the disks of KVM\n"
)

// regenerate runs the guest's generator for one kernel.
func (p *plan) regenerate(c *checked) error {
	version, name := c.version, c.img.name
	if len(c.missing) == 0 && !slices.ContainsFunc(c.stale, func(s override) bool { return !s.configured }) {
		for _, s := range c.stale {
			p.note("%s keeps %s, as it is configured: %s", name, s.Name, s.why)
		}
		return nil
	}
	why := "lacks " + strings.Join(c.missing, " ")
	if len(c.missing) == 0 {
		why = "still speaks of the old machine"
	}
	var command fixes.Command
	switch p.g.Facts.Initramfs {
	case initramfsTools:
		command = fixes.Command{
			Command: guest.Command{Args: []string{"update-initramfs", "-u", "-k", version}},
			Touches: []string{name, name + ".new", name + ".dpkg-bak", "var/lib/initramfs-tools/" + version},
		}
	case dracut:
		command = fixes.Command{
			Command: guest.Command{Args: []string{
				"dracut", "--force", "--no-hostonly", "--no-hostonly-cmdline",
				"--add-drivers", strings.Join(c.loadable, " "), "/" + name, version,
			}},
			Touches: []string{name},
		}
	default:
		return fmt.Errorf("no way is known to make an image with %q", p.g.Facts.Initramfs)
	}
	command.Why = name + " " + why
	p.out.Changes = append(p.out.Changes, command)
	return nil
}

// config writes the drop-in that keeps the drivers in the images of future
// kernels.
func (p *plan) config() error {
	if len(p.drivers) == 0 {
		return nil
	}
	switch p.g.Facts.Initramfs {
	case initramfsTools:
		return p.configTools()
	case dracut:
		return p.configDracut()
	}
	return nil
}

func (p *plan) configTools() error {
	policy, err := modulesPolicy(p.g.FS)
	if err != nil {
		return err
	}
	if p.regenerates() && policy == "dep" {
		// The generator would look at the hardware of the helper VM.
		p.out.Changes = append(p.out.Changes, fixes.WriteFile{Name: toolsPolicy, Content: []byte(comment + "MODULES=most\n")})
	}
	if !p.lacking && policy == "most" {
		return nil
	}
	old, err := optional(p.g.FS, toolsModules)
	if err != nil {
		return err
	}
	text := string(old)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	add := ""
	for _, name := range p.drivers {
		if !listed(text, name) {
			add += name + "\n"
		}
	}
	if add != "" {
		p.out.Changes = append(p.out.Changes, fixes.WriteFile{Name: toolsModules, Content: []byte(text + comment + add)})
	}
	return nil
}

func (p *plan) regenerates() bool {
	for _, c := range p.out.Changes {
		if _, ok := c.(fixes.Command); ok {
			return true
		}
	}
	return false
}

// modulesLine is the setting that says which modules an image gets.
var modulesLine = regexp.MustCompile(`(?m)^[ \t]*MODULES=["']?(\w+)`)

// modulesPolicy gives the value of MODULES that counts: the last one set
// (initramfs.conf(5)).
func modulesPolicy(tree guest.FS) (string, error) {
	const dir = "etc/initramfs-tools"
	files := []string{path.Join(dir, "initramfs.conf")}
	entries, err := tree.ReadDir(path.Join(dir, "conf.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		files = append(files, path.Join(dir, "conf.d", e.Name()))
	}
	policy := "most"
	for _, name := range files {
		data, err := optional(tree, name)
		if err != nil {
			return "", err
		}
		for _, found := range modulesLine.FindAllSubmatch(data, -1) {
			policy = string(found[1])
		}
	}
	return policy, nil
}

// optional reads a small file; one that is missing is empty.
func optional(tree guest.FS, name string) ([]byte, error) {
	data, err := readSmall(tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (p *plan) configDracut() error {
	if !p.lacking {
		return nil
	}
	// The blanks inside the quotes are part of the syntax (dracut.conf(5)).
	text := comment + `add_drivers+=" ` + strings.Join(p.drivers, " ") + ` "` + "\n"
	p.out.Changes = append(p.out.Changes, fixes.WriteFile{Name: dracutConf, Content: []byte(text)})
	return p.warnOmitted()
}

var omitted = regexp.MustCompile(`(?m)^[ \t]*omit_drivers.*virtio.*$`)

func (p *plan) warnOmitted() error {
	entries, err := p.g.FS.ReadDir("etc/dracut.conf.d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files := []string{"etc/dracut.conf"}
	for _, e := range entries {
		files = append(files, path.Join("etc/dracut.conf.d", e.Name()))
	}
	for _, name := range files {
		data, err := optional(p.g.FS, name)
		if err != nil {
			return err
		}
		if line := omitted.Find(data); line != nil {
			p.note("%s keeps drivers out of the images of future kernels: %s", name, bytes.TrimSpace(line))
		}
	}
	return nil
}
