package initramfs

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/formats/cpio"
	"hyper2kvm/formats/kmod"
)

// forbids is a line that keeps a module from being loaded (modprobe.d(5)).
var forbids = regexp.MustCompile(`(?m)^[ \t]*(?:blacklist[ \t]+(\S+)[ \t]*|install[ \t]+(\S+)[ \t]+\S*/(?:false|true)\b.*)$`)

// allowed turns the lines that forbid one of the modules into comments, and
// lists those modules.
func allowed(text []byte, modules []string) (now []byte, found []string) {
	now = forbids.ReplaceAllFunc(text, func(line []byte) []byte {
		m := forbids.FindSubmatch(line)
		name := kmod.Normal(string(bytes.Join(m[1:], nil)))
		if !slices.Contains(modules, name) {
			return line
		}
		found = append(found, name)
		return append([]byte("# hyper2kvm: "), line...)
	})
	return now, found
}

// isModprobeConf tells the files in which that may stand.
func isModprobeConf(name string) bool {
	return strings.HasPrefix(name, "etc/modprobe.d/") && strings.HasSuffix(name, ".conf") || name == modprobeConf
}

// staleBlacklist finds what in the image forbids the drivers.
func (c *checked) staleBlacklist(name string, m member) {
	if !isModprobeConf(name) {
		return
	}
	if now, found := allowed(m.data, c.needed()); len(found) > 0 {
		c.replace(cpio.Member{Name: name, Mode: m.mode, Data: now}, "it forbids %s", strings.Join(found, " "))
	}
}

// needed lists the drivers that are modules, with what they need.
func (c *checked) needed() []string {
	var out []string
	mods, _ := c.deps.Closure(c.loadable...)
	for _, m := range mods {
		out = append(out, m.Name)
	}
	return out
}

// allow does the same in the guest: its images get a copy.
func (p *plan) allow() error {
	names, err := files(p.g.FS, ".conf", "etc/modprobe.d")
	if err != nil {
		return err
	}
	for _, name := range append(names, modprobeConf) {
		old, err := p.pending(name)
		if err != nil {
			return err
		}
		if now, found := allowed(old, p.needed); len(found) > 0 {
			p.amend(name, old, now)
			p.note("%s forbids %s, which the disks of KVM need: the line is now a comment", name, strings.Join(found, " "))
		}
	}
	return nil
}
