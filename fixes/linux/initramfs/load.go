package initramfs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/formats/cpio"
	"hyper2kvm/formats/kmod"
)

// bootTested reports whether images of a layout have been completed and then
// booted: the tests do.
func (l layout) bootTested() bool {
	return slices.Contains([]layout{initramfsTools, dracut, mkinitcpio, mkinitfs}, l)
}

// injectable reports whether a way is known to make such an image load a driver.
func (l layout) injectable() bool {
	return l.bootTested() || slices.Contains([]layout{suse, scripted, systemd}, l)
}

// loadList is what makes the image load the drivers without being asked by udev.
// added are the modules that are put in, each after what it needs.
func (c *checked) loadList(added []*kmod.Module) ([]cpio.Member, error) {
	switch c.layout {
	case dracut:
		line := " rd.driver.pre=" + strings.Join(c.loadable, " rd.driver.pre=") + "\n"
		return append(c.modulesLoad(), cpio.File("etc/cmdline.d/90-hyper2kvm.conf", []byte(line))), nil
	case systemd:
		return c.modulesLoad(), nil
	case initramfsTools:
		return []cpio.Member{c.lines("conf/modules")}, nil
	case mkinitfs:
		// initramfs-init loads what this lists before it looks for the root.
		return []cpio.Member{c.lines("etc/modules")}, nil
	case mkinitcpio:
		return c.loadMkinitcpio(), nil
	case suse:
		return c.loadSUSE()
	case scripted:
		m, err := c.loadScripted(added)
		return []cpio.Member{m}, err
	}
	return nil, fmt.Errorf("no way is known to make an image of %q load a driver", c.layout)
}

// modulesLoad is the list of systemd-modules-load.service(8).
func (c *checked) modulesLoad() []cpio.Member {
	text := strings.Join(c.loadable, "\n") + "\n"
	return []cpio.Member{cpio.File("etc/modules-load.d/90-hyper2kvm.conf", []byte(text))}
}

// lines adds the drivers to a list of modules, one a line.
func (c *checked) lines(name string) cpio.Member {
	old, _ := c.img.file(name)
	text := withNewline(string(old))
	for _, driver := range c.loadable {
		if !listed(text, driver) {
			text += driver + "\n"
		}
	}
	return cpio.File(name, []byte(text))
}

func withNewline(text string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// listed reports whether a list of modules, one a line with options, has name.
func listed(text, name string) bool {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 0 && kmod.Normal(words[0]) == kmod.Normal(name) {
			return true
		}
	}
	return false
}

// loadMkinitcpio adds to the MODULES of /config, which init sources before it
// loads them, and, where systemd is init, to what that loads.
func (c *checked) loadMkinitcpio() []cpio.Member {
	var out []cpio.Member
	if c.img.exists("usr/lib/systemd/systemd") {
		out = c.modulesLoad()
	}
	old, _ := c.img.file("config")
	add := fmt.Sprintf("MODULES=\"$MODULES %s\"\n", strings.Join(c.loadable, " "))
	if strings.Contains(string(old), add) {
		return out
	}
	return append(out, cpio.File("config", []byte(withNewline(string(old))+add)))
}

// resolved is the list that SUSE's boot scripts load one by one
// (scripts/boot-start.sh of mkinitrd).
var resolved = regexp.MustCompile(`(RESOLVED_INITRD_MODULES=)(['"])([^'"]*)`)

// loadSUSE adds to the list where it stands: in the script that has all scripts
// and their variables in it, and in the variables of one.
func (c *checked) loadSUSE() ([]cpio.Member, error) {
	var out []cpio.Member
	found := false
	for _, name := range []string{"run_all.sh", "config/start.sh"} {
		old, ok := c.img.file(name)
		if !ok {
			continue
		}
		now := resolved.ReplaceAllStringFunc(string(old), func(text string) string {
			found = true
			m := resolved.FindStringSubmatch(text)
			have := strings.Fields(m[3])
			// First: what the old list loads may need the disks.
			var list []string
			for _, driver := range c.loadable {
				if !slices.Contains(have, driver) {
					list = append(list, driver)
				}
			}
			return m[1] + m[2] + strings.Join(append(list, have...), " ")
		})
		if now != string(old) {
			out = append(out, cpio.Member{Name: name, Mode: c.img.members[name].mode, Data: []byte(now)})
		}
	}
	if !found {
		return nil, fmt.Errorf("%s has no RESOLVED_INITRD_MODULES", c.img.name)
	}
	return out, nil
}
