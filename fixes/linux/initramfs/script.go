package initramfs

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/formats/cpio"
	"hyper2kvm/formats/kmod"
)

// flat reports whether the modules lie in lib, all in one folder: mkinitrd of
// Red Hat 4 and 5.
func (img *image) flat() bool {
	for name := range img.members {
		if path.Dir(name) == "lib" && kmod.IsModule(name) {
			return true
		}
	}
	data, _ := img.file(img.script())
	return nash.Match(data)
}

// loads lists the modules that the script loads.
func (img *image) loads() map[string]bool {
	out := map[string]bool{}
	data, _ := img.file(img.script())
	for _, m := range insert.FindAllSubmatch(data, -1) {
		out[kmod.Name(string(m[1]))] = true
		out[kmod.Normal(path.Base(string(m[1])))] = true
	}
	return out
}

// search is the first thing that a script does with the disks: all drivers must
// be loaded by then. The names are commands of nash(8).
var search = regexp.MustCompile(`(?m)^[ \t]*(?:/?s?bin/)?(?:stabilized|mkblkdevs|udevstart|lvm|dmraid|raidautorun|resume|mkrootdev|mkdmnod|waitdev)\b`)

// loadScripted adds the lines that load the added modules: after the last one
// that is there already, since that may be one that they need, and before the
// script turns to the disks.
func (c *checked) loadScripted(added []*kmod.Module) (cpio.Member, error) {
	name := c.img.script()
	old, ok := c.img.file(name)
	if !ok {
		return cpio.Member{}, fmt.Errorf("%s has no script that loads modules", c.img.name)
	}
	at, command, err := c.place(old)
	if err != nil {
		return cpio.Member{}, err
	}
	now := withNewline(string(old[:at])) + c.insertions(added, command) + string(old[at:])
	return cpio.Member{Name: name, Mode: c.img.members[name].mode, Data: []byte(now)}, nil
}

// place finds where in a script the lines go, and with which command it loads a
// module.
func (c *checked) place(script []byte) (at int, command string, err error) {
	needed := c.needed()
	closed := false
	for _, m := range insert.FindAllSubmatchIndex(script, -1) {
		// Behind some driver the script looks at the disks, and then may load
		// what lies on them: md, dm, a file system. The group before counts, but
		// for what our drivers need.
		closed = closed || at > 0 && search.Match(script[at:m[0]])
		if !closed || slices.Contains(needed, kmod.Name(string(script[m[2]:m[3]]))) {
			at, command = m[1], strings.Fields(string(script[m[0]:m[1]]))[0]
		}
	}
	if at > 0 {
		return at, command, nil
	}
	if first := search.FindIndex(script); first != nil {
		return first[0], "insmod", nil
	}
	return 0, "", fmt.Errorf("%s: nobody knows where its script could load a driver", c.img.name)
}

func (c *checked) insertions(added []*kmod.Module, command string) string {
	var b strings.Builder
	loads := c.img.loads()
	mods, _ := c.deps.Closure(c.loadable...)
	for _, m := range mods {
		if c.builtin[m.Name] || loads[m.Name] {
			continue
		}
		file := c.fileOf(m, added)
		fmt.Fprintf(&b, "echo \"Loading %s module\"\n", path.Base(file))
		if path.Base(command) == "modprobe" {
			file = m.Name
		}
		fmt.Fprintf(&b, "%s %s\n", command, file)
	}
	return b.String()
}

// fileOf is where a module lies in the image, from its root.
func (c *checked) fileOf(m *kmod.Module, added []*kmod.Module) string {
	dir := c.modulesDir()
	for _, a := range added {
		if a.Name == m.Name {
			return "/" + path.Join(dir, a.Path)
		}
	}
	return "/" + path.Join(dir, c.img.modules(dir)[m.Name])
}
