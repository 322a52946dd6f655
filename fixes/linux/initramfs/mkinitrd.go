package initramfs

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/shellvars"
)

const (
	suseKernel   = "etc/sysconfig/kernel"
	modprobeConf = "etc/modprobe.conf"
)

// mkinitrdProgram is one of two programs of that name: Red Hat's of 4 and 5,
// SUSE's up to 11.
type mkinitrdProgram struct{}

// isSUSE tells them apart by where the drivers are configured.
func (mkinitrdProgram) isSUSE(p *plan) bool {
	return p.exists(suseKernel) && !p.exists(modprobeConf) || slices.Contains(p.g.Facts.OS.IDLike, "suse") || strings.Contains(p.g.Facts.OS.ID, "suse") || p.g.Facts.OS.ID == "sles"
}

func (m mkinitrdProgram) command(p *plan, c *checked) (fixes.Command, error) {
	name := c.img.name
	if !m.isSUSE(p) {
		args := []string{"mkinitrd", "-f"}
		mods, _ := c.deps.Closure(c.loadable...)
		for _, mod := range mods {
			if !c.builtin[mod.Name] {
				args = append(args, "--with="+mod.Name)
			}
		}
		args = append(args, "/"+name, c.version)
		command := guest.Command{Args: args}
		if rootOnLVM(p.g.Facts) {
			// Red Hat 4 does not see it by itself from another machine.
			command.Env = []string{"root_lvm=1"}
		}
		return fixes.Command{Command: command, Touches: []string{name}}, nil
	}
	if path.Dir(name) != "boot" || path.Dir(c.kernel.Image) != "boot" {
		return fixes.Command{}, errors.New("mkinitrd makes images in /boot alone, not " + name)
	}
	// The device of the root is in the image as a fallback for the command line.
	args := []string{"mkinitrd", "-k", path.Base(c.kernel.Image), "-i", path.Base(name)}
	if uuid := rootUUID(p.g.Facts); uuid != "" {
		args = append(args, "-d", "/dev/disk/by-uuid/"+uuid)
	}
	return fixes.Command{Command: guest.Command{Args: args}, Touches: []string{name}}, nil
}

// rootOnLVM reports whether the root file system is a logical volume.
func rootOnLVM(facts *guest.Facts) bool {
	uuid := rootUUID(facts)
	return uuid != "" && slices.ContainsFunc(facts.Filesystems, func(f guest.Filesystem) bool {
		return f.UUID == uuid && f.Volume != "" && !strings.HasPrefix(f.Volume, "md/") && !strings.HasPrefix(f.Volume, "luks/")
	})
}

func (m mkinitrdProgram) config(p *plan) error {
	if !p.lacking {
		return nil
	}
	if m.isSUSE(p) {
		return m.configSUSE(p)
	}
	return m.configRedHat(p)
}

// configSUSE adds to INITRD_MODULES; the drivers of the old machine stay in it.
func (mkinitrdProgram) configSUSE(p *plan) error {
	old, err := optional(p.g.FS, suseKernel)
	if err != nil {
		return err
	}
	f := shellvars.Parse(old)
	v := f.Last("INITRD_MODULES")
	if v == nil {
		if !f.Add("INITRD_MODULES", strings.Join(p.drivers, " ")) {
			p.note("%s: left as it is, a quote in it is not closed", suseKernel)
			return nil
		}
		p.write(suseKernel, old, f.Bytes())
		return nil
	}
	have := strings.Fields(v.Value)
	for _, name := range p.drivers {
		if !slices.Contains(have, name) {
			v.Value = strings.TrimSpace(v.Value + " " + name)
		}
	}
	p.write(suseKernel, old, f.Bytes())
	return nil
}

// adapter is a line that mkinitrd takes a driver of disks from.
var adapter = regexp.MustCompile(`(?m)^[ \t]*alias[ \t]+scsi_hostadapter(\d*)[ \t]+(\S+)`)

// configRedHat adds aliases with numbers that are free: those of the old machine
// keep theirs, so that an image is made for both.
func (mkinitrdProgram) configRedHat(p *plan) error {
	old, err := optional(p.g.FS, modprobeConf)
	if err != nil {
		return err
	}
	taken, have := map[string]bool{}, map[string]bool{}
	for _, m := range adapter.FindAllSubmatch(old, -1) {
		taken[string(m[1])], have[string(m[2])] = true, true
	}
	text := withNewline(string(old))
	next := 0
	for _, name := range p.drivers {
		if have[name] || name == "sd_mod" { // mkinitrd brings that with any adapter
			continue
		}
		suffix := ""
		for ; taken[suffix]; next++ {
			suffix = fmt.Sprint(next + 1)
		}
		taken[suffix] = true
		text += "alias scsi_hostadapter" + suffix + " " + name + "\n"
	}
	p.write(modprobeConf, old, []byte(text))
	return nil
}
