package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/cpio"
)

// override is a member that has to be replaced, and why.
type override struct {
	cpio.Member
	why string
	// configured says that the guest's own configuration asks for what is
	// replaced: the generator would put it in again.
	configured bool
}

func (c *checked) replace(m cpio.Member, format string, args ...any) {
	c.stale = append(c.stale, override{Member: m, why: fmt.Sprintf(format, args...)})
}

// findStale finds what in the image still speaks of the old machine: names of
// devices that are waited for, and interface names that earlier fixes wrote.
func (c *checked) findStale(g *guest.Guest) error {
	if err := c.staleNetwork(g.FS); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.img.members)) {
		m := c.img.members[name]
		if m.mode&cpio.TypeMask != cpio.TypeFile {
			continue
		}
		if err := c.staleConfigs(g.FS, name, m); err != nil {
			return err
		}
		switch c.layout {
		case initramfsTools:
			if err := c.staleResume(g.FS, name, m); err != nil {
				return err
			}
		case dracut:
			c.staleDracut(g.Facts, name, m)
		}
		c.staleBlacklist(name, m)
		if name == "etc/lvm/devices/system.devices" {
			// LVM looks at the devices in this list alone, and they are known by
			// other names now. A link to nowhere is as good as no list.
			c.replace(cpio.Link(name, "none"), "it lists the devices of the old machine")
		}
	}
	return nil
}

// staleNetwork compares the image's rules for interface names with the guest's:
// an interface that is renamed in the initramfs keeps that name.
func (c *checked) staleNetwork(tree guest.FS) error {
	links, err := configs(tree, "etc/systemd/network", ".link", func([]byte) bool { return true })
	if err != nil {
		return err
	}
	rules, err := configs(tree, "etc/udev/rules.d", ".rules", func(data []byte) bool {
		return bytes.Contains(data, []byte(`SUBSYSTEM=="net"`)) && bytes.Contains(data, []byte("NAME="))
	})
	if err != nil {
		return err
	}
	c.sync(links, "systemd/network", "99-default.link")
	c.sync(rules, "udev/rules.d", "80-net-setup-link.rules")
	return nil
}

type config struct {
	name string
	data []byte
}

// configs reads the files of a folder that end in ext and that want accepts.
func configs(tree guest.FS, dir, ext string, want func([]byte) bool) ([]config, error) {
	entries, err := tree.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []config
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ext) {
			continue
		}
		data, err := readSmall(tree, path.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			continue // a dangling link, or a mask: /dev/null
		}
		if err != nil {
			return nil, err
		}
		if want(data) {
			out = append(out, config{e.Name(), data})
		}
	}
	return out, nil
}

const maxConfig = 1 << 20

func readSmall(tree guest.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxConfig)
	}
	return data, err
}

// sync puts files into the image's folder of that kind, where it has one: the
// one in which marker lies, or else the one in etc.
func (c *checked) sync(files []config, kind, marker string) {
	if !c.hasUnder(kind) {
		return
	}
	into := "etc/" + kind
	for _, dir := range []string{"usr/lib/", "lib/"} {
		if c.img.has(dir + kind + "/" + marker) {
			into = dir + kind
		}
	}
	if c.layout == dracut {
		into = "etc/" + kind
	}
	for _, f := range files {
		name := path.Join(into, f.name)
		for _, dir := range []string{"etc/", "usr/lib/", "lib/"} {
			if old := dir + kind + "/" + f.name; c.img.has(old) {
				name = c.img.canonical(old)
			}
		}
		if have, ok := c.img.file(name); !ok || !bytes.Equal(have, f.data) {
			c.replace(cpio.File(name, f.data), "%s is the guest's", f.name)
		}
	}
}

func (c *checked) hasUnder(kind string) bool {
	for _, dir := range []string{"etc/", "usr/lib/", "lib/"} {
		if _, ok := c.img.members[c.img.canonical(dir+kind)]; ok {
			return true
		}
	}
	return false
}

// resumeLine is the setting in an initramfs-tools configuration.
var resumeLine = regexp.MustCompile(`(?m)^[ \t]*RESUME=["']?([^"'\s]*)["']?[ \t]*$`)

// staleResume deals with a swap device that the image waits for 30 seconds:
// the guest's own setting goes in, or, for one that the generator found by
// itself, none.
func (c *checked) staleResume(tree guest.FS, name string, m member) error {
	found := resumeLine.FindSubmatch(m.data)
	if path.Dir(name) != "conf/conf.d" || found == nil {
		return nil
	}
	data, err := optional(tree, path.Join("etc/initramfs-tools/conf.d", path.Base(name)))
	if err != nil {
		return err
	}
	now := resumeLine.FindSubmatch(data)
	off := now != nil && string(now[1]) == "none" && string(found[1]) != "none"
	if !unstable(string(found[1])) && !off {
		return nil
	}
	configured := now != nil && unstable(string(now[1]))
	if now == nil || configured {
		data = resumeLine.ReplaceAll(m.data, []byte("RESUME=none"))
	}
	c.replace(cpio.File(name, data), "RESUME=%s is not there on KVM", found[1])
	c.stale[len(c.stale)-1].configured = configured
	return nil
}

var (
	// waited is the test in a script that dracut's initqueue waits for.
	waited = regexp.MustCompile(`"(/dev/[^"]+)"`)
	// sdName is a name that the kernel gives by controller and order.
	sdName = regexp.MustCompile(`^/dev/(sd[a-z]|hd[a-z]|xvd[a-z]|vd[a-z]|nvme\d|cciss/)`)
)

// unstable reports whether a device has another name after the move. Links by
// content (UUID, LABEL, LVM, device mapper) stay.
func unstable(dev string) bool {
	if id, ok := strings.CutPrefix(dev, "/dev/disk/by-id/"); ok {
		return !strings.HasPrefix(id, "dm-") && !strings.HasPrefix(id, "lvm-") && !strings.HasPrefix(id, "md-")
	}
	return strings.HasPrefix(dev, "/dev/disk/by-path/") || sdName.MatchString(dev)
}

// staleDracut deals with what dracut --hostonly writes into an image: devices
// to wait for, and a command line.
func (c *checked) staleDracut(facts *guest.Facts, name string, m member) {
	dir, base := path.Split(name)
	switch {
	case strings.HasSuffix(dir, "initqueue/finished/") && strings.HasPrefix(base, "devexists-"):
		if w := waited.FindSubmatch(m.data); w != nil && unstable(string(w[1])) {
			c.replace(cpio.File(name, []byte(": hyper2kvm: not on KVM\n")), "it waits for %s", w[1])
		}
	case base == "timeout.conf" && strings.HasSuffix(dir, ".device.d/"):
		c.staleUnit(name, m)
	case dir == "etc/cmdline.d/" && strings.HasSuffix(base, ".conf"):
		if now := c.commandLine(name, string(m.data), facts); now != string(m.data) {
			c.replace(cpio.File(name, []byte(now)), "it names devices of the old machine")
		}
	}
}

// shortWait is how long systemd waits for a device that will not come.
const shortWait = "[Unit]\nJobTimeoutSec=1\nJobRunningTimeoutSec=1\n"

// staleUnit makes systemd not wait, as wait_for_dev of dracut told it to, for
// ever.
func (c *checked) staleUnit(name string, m member) {
	unit, _ := strings.CutSuffix(path.Base(path.Dir(name)), ".device.d")
	dev := "/" + unescapeUnit(unit)
	if unstable(dev) && string(m.data) != shortWait {
		c.replace(cpio.File(name, []byte(shortWait)), "it waits for %s", dev)
	}
}

// unescapeUnit turns a unit's name into a path (systemd-escape --path
// --unescape).
func unescapeUnit(unit string) string {
	var b strings.Builder
	for i := 0; i < len(unit); i++ {
		if unit[i] == '-' {
			b.WriteByte('/')
			continue
		}
		if i+4 <= len(unit) && unit[i] == '\\' && unit[i+1] == 'x' {
			if v, err := strconv.ParseUint(unit[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(unit[i])
	}
	return b.String()
}

// commandLine takes devices of the old machine out of a piece of dracut's
// command line.
func (c *checked) commandLine(name, text string, facts *guest.Facts) string {
	changed := false
	var out []string
	for _, word := range strings.Fields(text) {
		if now := followCard(word, facts.NICs); now != word {
			word, changed = now, true
		}
		key, value, _ := strings.Cut(word, "=")
		dev := strings.TrimPrefix(value, "block:")
		switch {
		case !unstable(dev):
			out = append(out, word)
			continue
		case key == "root" && rootUUID(facts) != "":
			out = append(out, "root=UUID="+rootUUID(facts))
		case key != "root" && key != "resume":
			c.notes = append(c.notes, fmt.Sprintf("%s in %s keeps %s", name, c.img.name, word))
			out = append(out, word)
			continue
		}
		changed = true
	}
	if !changed {
		return text
	}
	return " " + strings.Join(out, " ") + "\n"
}

func rootUUID(facts *guest.Facts) string {
	for _, m := range facts.Mounts {
		if m.Point == "/" {
			return m.UUID
		}
	}
	return ""
}
