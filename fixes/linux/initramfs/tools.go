package initramfs

import (
	"path"
	"regexp"
	"slices"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// Where initramfs-tools is told what every future image must have.
const (
	toolsModules = "etc/initramfs-tools/modules"
	toolsPolicy  = "etc/initramfs-tools/conf.d/zz-hyper2kvm"
)

// toolsProgram is initramfs-tools of Debian and Ubuntu.
type toolsProgram struct{}

func (toolsProgram) command(_ *plan, c *checked) (fixes.Command, error) {
	name := c.img.name
	args := []string{"update-initramfs", "-u", "-k", c.version}
	if name != path.Join("boot", "initrd.img-"+c.version) {
		// One that kernel-install keeps elsewhere.
		args = []string{"mkinitramfs", "-o", "/" + name, c.version}
	}
	return fixes.Command{
		Command: guest.Command{Args: args},
		Touches: []string{name, name + ".new", name + ".dpkg-bak", "var/lib/initramfs-tools/" + c.version},
	}, nil
}

func (toolsProgram) config(p *plan) error {
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
	names := p.drivers
	if policy != "most" {
		names = slices.Concat(names, p.kept)
	}
	text := withNewline(string(old))
	add := ""
	for _, name := range names {
		if !listed(text+add, name) {
			add += name + "\n"
		}
	}
	if add != "" {
		p.write(toolsModules, old, []byte(text+comment+add))
	}
	return nil
}

// modulesLine is the setting that says which modules an image gets.
var modulesLine = regexp.MustCompile(`(?m)^[ \t]*MODULES=["']?(\w+)`)

// modulesPolicy gives the value of MODULES that counts: the last one set
// (initramfs.conf(5)).
func modulesPolicy(tree guest.FS) (string, error) {
	const dir = "etc/initramfs-tools"
	more, err := files(tree, "", path.Join(dir, "conf.d"))
	if err != nil {
		return "", err
	}
	policy := "most"
	for _, name := range append([]string{path.Join(dir, "initramfs.conf")}, more...) {
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
