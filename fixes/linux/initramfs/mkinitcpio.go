package initramfs

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

const (
	mkinitcpioMain    = "etc/mkinitcpio.conf"
	mkinitcpioDir     = "etc/mkinitcpio.conf.d"
	mkinitcpioConf    = mkinitcpioDir + "/90-hyper2kvm.conf"
	mkinitcpioPresets = "etc/mkinitcpio.d"
)

// mkinitcpioProgram is mkinitcpio of Arch.
type mkinitcpioProgram struct{}

func (mkinitcpioProgram) command(_ *plan, c *checked) (fixes.Command, error) {
	// autodetect looks at the hardware of the machine that it runs on: here
	// that is the helper VM, and the old machine's drivers would be lost.
	args := []string{"mkinitcpio", "-k", c.version, "-g", "/" + c.img.name, "-S", "autodetect"}
	return fixes.Command{Command: guest.Command{Args: args}, Touches: []string{c.img.name}}, nil
}

// makesUKI reports whether this mkinitcpio can make a unified kernel image with
// the guest's command line: without a file for that it takes the helper VM's.
func (mkinitcpioProgram) makesUKI(p *plan) bool {
	return strings.Contains(p.program("usr/bin/mkinitcpio"), "--uki") && p.exists("etc/kernel/cmdline", "usr/lib/kernel/cmdline", "etc/cmdline.d")
}

// config adds to MODULES: in a drop-in, where this mkinitcpio reads those and
// every preset lets it, else where each image has its configuration.
func (m mkinitcpioProgram) config(p *plan) error {
	if !p.lacking {
		return nil
	}
	presets, err := m.presets(p)
	if err != nil {
		return err
	}
	named := configsOf(presets)
	main, err := optional(p.g.FS, mkinitcpioMain)
	if err != nil {
		return err
	}
	if m.readsDropIns(p) && len(named) == 0 && !stringModules.Match(main) {
		old, err := optional(p.g.FS, mkinitcpioConf)
		p.write(mkinitcpioConf, old, []byte(comment+"MODULES+=("+strings.Join(m.names(p), " ")+")\n"))
		return err
	}
	if !slices.Contains(named, mkinitcpioMain) {
		named = append(named, mkinitcpioMain)
	}
	for _, name := range named {
		if err := m.edit(p, name); err != nil {
			return err
		}
	}
	for _, text := range presets {
		if presetUKI.MatchString(text) {
			p.note("a preset of mkinitcpio makes a unified kernel image: run mkinitcpio -P in the guest after the next change to it")
			break
		}
	}
	return nil
}

func (mkinitcpioProgram) names(p *plan) []string { return slices.Concat(p.drivers, p.kept) }

// readsDropIns reports whether mkinitcpio is one of version 36 or newer.
func (mkinitcpioProgram) readsDropIns(p *plan) bool {
	return strings.Contains(p.program("usr/bin/mkinitcpio"), "_d_config")
}

func (mkinitcpioProgram) presets(p *plan) ([]string, error) {
	names, err := files(p.g.FS, ".preset", mkinitcpioPresets)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		data, err := optional(p.g.FS, name)
		if err != nil {
			return nil, err
		}
		out = append(out, string(data))
	}
	return out, nil
}

var (
	presetConfig = regexp.MustCompile(`(?m)^[ \t]*\w+_config=["']?/?([^"'\s#]+)`)
	presetUKI    = regexp.MustCompile(`(?m)^[ \t]*\w+_uki=`)
	// arrayModules and stringModules are the two forms of the setting, on one
	// line (mkinitcpio.conf(5)).
	arrayModules  = regexp.MustCompile(`(?m)^([ \t]*MODULES=\()([^()#\n]*)\)`)
	stringModules = regexp.MustCompile(`(?m)^([ \t]*MODULES=)(["'])([^"'\n]*)`)
)

// configsOf lists the configurations that presets name: an image with one of
// its own does not read drop-ins.
func configsOf(presets []string) []string {
	var out []string
	for _, text := range presets {
		for _, found := range presetConfig.FindAllStringSubmatch(text, -1) {
			if name := path.Clean(found[1]); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// edit adds to the MODULES of one configuration.
func (m mkinitcpioProgram) edit(p *plan, name string) error {
	old, err := optional(p.g.FS, name)
	if err != nil || len(old) == 0 {
		return err
	}
	p.write(name, old, withModules(old, m.names(p)))
	return nil
}

// withModules adds names to the last MODULES of a configuration; one that goes
// on over several lines is added to in a line of its own.
func withModules(old []byte, names []string) []byte {
	for _, form := range []*regexp.Regexp{arrayModules, stringModules} {
		all := form.FindAllSubmatchIndex(old, -1)
		if len(all) == 0 {
			continue
		}
		m := all[len(all)-1]
		from, to := m[len(m)-2], m[len(m)-1]
		have := strings.Fields(string(old[from:to]))
		add := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(have, n) })
		if len(add) == 0 {
			return old
		}
		text := " " + strings.Join(add, " ")
		if len(have) == 0 {
			text = text[1:]
		}
		return slices.Concat(old[:to], []byte(text), old[to:])
	}
	line := comment + "MODULES+=(" + strings.Join(names, " ") + ")\n"
	if strings.Contains(string(old), line) {
		return old
	}
	return []byte(withNewline(string(old)) + line)
}
