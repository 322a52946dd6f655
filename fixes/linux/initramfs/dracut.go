package initramfs

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/shellvars"
	"hyper2kvm/formats/kmod"
)

const (
	dracutMain = "etc/dracut.conf"
	dracutDir  = "etc/dracut.conf.d"
	dracutConf = dracutDir + "/90-hyper2kvm.conf"
	vendorDir  = "usr/lib/dracut/dracut.conf.d"
)

// dracutProgram is dracut, from 004 of Red Hat 6 on.
type dracutProgram struct{}

// script is dracut's own text, which tells what it understands better than a
// version: distributions put options into older ones.
func (dracutProgram) script(p *plan) string {
	return p.program("usr/bin/dracut", "usr/sbin/dracut", "sbin/dracut")
}

var (
	noHostonly        = regexp.MustCompile(`--?no-hostonly(?:[^-\w]|$)|long no-hostonly(?:[^-\w]|$)`)
	noHostonlyCmdline = regexp.MustCompile(`no-hostonly-cmdline`)
)

func (d dracutProgram) command(p *plan, c *checked) (fixes.Command, error) {
	args := []string{"dracut", "--force"}
	text := d.script(p)
	// The helper VM is not the machine that the image is for.
	if text == "" || noHostonly.MatchString(text) {
		args = append(args, "--no-hostonly")
	}
	if text == "" || noHostonlyCmdline.MatchString(text) {
		args = append(args, "--no-hostonly-cmdline")
	}
	args = append(args, "--add-drivers", strings.Join(c.loadable, " "), "/"+c.img.name, c.version)
	return fixes.Command{Command: guest.Command{Args: args}, Touches: []string{c.img.name}}, d.repairTraps(p)
}

// repairTraps takes out of the configuration what would keep dracut from
// making an image at all: the network-legacy module is an error without
// dhclient, which it needs.
func (dracutProgram) repairTraps(p *plan) error {
	if p.exists("usr/sbin/dhclient", "sbin/dhclient") {
		return nil
	}
	return p.editDracut(func(v *shellvars.Var) []string {
		if v.Name == "add_dracutmodules" || v.Name == "force_add_dracutmodules" {
			return []string{"network-legacy"}
		}
		return nil
	}, "dracut would fail on it, there is no dhclient")
}

// editDracut takes words out of settings in etc, and says so of those that a
// package brought, which are left.
func (p *plan) editDracut(unwanted func(*shellvars.Var) []string, why string) error {
	names, err := files(p.g.FS, ".conf", dracutDir, vendorDir, "usr/share/dracut/dracut.conf.d")
	if err != nil {
		return err
	}
	for _, name := range append([]string{dracutMain}, names...) {
		old, err := p.pending(name)
		if err != nil {
			return err
		}
		f := shellvars.Parse(old)
		for _, v := range f.Vars() {
			p.withoutWords(name, v, unwanted(v), why)
		}
		if strings.HasPrefix(name, "etc/") {
			p.amend(name, old, f.Bytes())
		}
	}
	return nil
}

// withoutWords takes words out of a value and says so.
func (p *plan) withoutWords(name string, v *shellvars.Var, words []string, why string) {
	for _, word := range strings.Fields(v.Value) {
		if !slices.ContainsFunc(words, func(w string) bool { return kmod.Normal(w) == kmod.Normal(word) }) {
			continue
		}
		if !strings.HasPrefix(name, "etc/") {
			p.note("%s has %s in %s and is left, a package brought it: %s; a file of the same name in /etc/dracut.conf.d replaces it", name, word, v.Name, why)
			continue
		}
		v.Value = regexp.MustCompile(`(^|[ \t])`+regexp.QuoteMeta(word)+`([ \t]|$)`).ReplaceAllString(v.Value, "$2")
		p.note("%s: %s is taken out of %s: %s", name, word, v.Name, why)
	}
}

func (d dracutProgram) config(p *plan) error {
	if err := p.editDracut(func(v *shellvars.Var) []string {
		if v.Name == "omit_drivers" {
			return p.needed
		}
		return nil
	}, "the disks of KVM need it"); err != nil {
		return err
	}
	if err := p.warnOmitted(); err != nil {
		return err
	}
	if !p.lacking {
		return nil
	}
	// The blanks inside the quotes are part of the syntax (dracut.conf(5)).
	text := comment + `add_drivers+=" ` + strings.Join(p.drivers, " ") + ` "` + "\n"
	if len(p.kept) > 0 {
		text += "# and of the machine that the guest came from\n" + `add_drivers+=" ` + strings.Join(p.kept, " ") + ` "` + "\n"
	}
	return d.add(p, text)
}

// add writes the settings where this dracut reads them: the first ones had one
// file only.
func (d dracutProgram) add(p *plan, text string) error {
	if script := d.script(p); script == "" || strings.Contains(script, "confdir") || strings.Contains(script, "dracut.conf.d") || p.exists(dracutDir) {
		old, err := optional(p.g.FS, dracutConf)
		p.write(dracutConf, old, []byte(text))
		return err
	}
	old, err := p.pending(dracutMain)
	if err != nil || strings.Contains(string(old), text) {
		return err
	}
	p.amend(dracutMain, old, []byte(withNewline(string(old))+text))
	return nil
}

// omitted is a pattern among the drivers that are kept out, or the module
// without which no driver at all gets in.
var omitted = regexp.MustCompile(`(?m)^[ \t]*(?:omit_drivers.*virtio.*|omit_dracutmodules.*\bkernel-modules\b.*)$`)

// warnOmitted tells of lines that keep drivers out and could not be edited.
func (p *plan) warnOmitted() error {
	names, err := files(p.g.FS, ".conf", dracutDir, vendorDir)
	if err != nil {
		return err
	}
	for _, name := range append([]string{dracutMain}, names...) {
		data, err := p.pending(name)
		if err != nil {
			return err
		}
		if line := omitted.Find(data); line != nil {
			p.note("%s keeps drivers out of the images of future kernels: %s", path.Clean(name), bytes.TrimSpace(line))
		}
	}
	return nil
}

// pending reads a file as it will be once what is planned is done.
func (p *plan) pending(name string) ([]byte, error) {
	for _, c := range p.out.Changes {
		if w, ok := c.(fixes.WriteFile); ok && w.Name == name {
			return w.Content, nil
		}
	}
	return optional(p.g.FS, name)
}

// amend is write for content that came from pending.
func (p *plan) amend(name string, old, now []byte) {
	for i, c := range p.out.Changes {
		if w, ok := c.(fixes.WriteFile); ok && w.Name == name {
			w.Content = now
			p.out.Changes[i] = w
			return
		}
	}
	p.write(name, old, now)
}
