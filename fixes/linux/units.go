package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/unitname"
)

// unitFolder holds the units that the guest's administrator wrote.
const unitFolder = "etc/systemd/system"

// mountUnits renames the devices of units of the guest's administrator and of
// drop-ins: what is mounted (systemd.mount(5), systemd.swap(5)), and the device
// units that any unit waits for.
func mountUnits(p *planner, d devices) {
	u := unitEditor{planner: p, devices: d}
	for _, name := range p.once(u.files()) {
		if s, ok := u.swapToMove(name); ok {
			u.moveSwap(name, s)
			continue
		}
		data, ok := p.read(name)
		if !ok {
			continue
		}
		p.write(name, data, u.edit(name, data))
	}
}

type unitEditor struct {
	*planner
	devices
}

// files lists units and their drop-ins.
func (u unitEditor) files() []string {
	var out []string
	for _, name := range u.list(unitFolder, "") {
		switch path.Ext(name) {
		case ".mount", ".automount", ".swap", ".service", ".target":
			out = append(out, name)
		case ".d":
			out = append(out, u.list(name, ".conf")...)
		}
	}
	return out
}

// edit renames what a unit names.
func (u unitEditor) edit(name string, data []byte) []byte {
	file := ini.Parse(data)
	for _, e := range file.Entries() {
		switch e.Key {
		case "What":
			e.Value = u.what(name, e.Value)
		case "Requires", "Wants", "BindsTo", "After", "Before", "Requisite", "PartOf", "Conflicts":
			e.Value = u.references(name, e.Value)
		}
	}
	return file.Bytes()
}

// what is a device as a mount names it.
func (u unitEditor) what(name, spec string) string {
	switch s, state := u.look(spec, ""); state {
	case moves:
		if link, ok := u.path(s); ok && s.Type != "LVM2_member" {
			return link
		}
	case missing:
		u.note("%s: %s is on no disk that was given; left", name, spec)
	}
	return spec
}

// references renames the units of devices and swaps in a list of units.
func (u unitEditor) references(name, list string) string {
	for _, unit := range strings.Fields(list) {
		if now, ok := u.unitNow(name, unit); ok {
			list = replaceWord(list, unit, now)
		}
	}
	return list
}

// unitNow is what the unit of a device, or of a swap on one, is called by a name
// that holds.
func (u unitEditor) unitNow(name, unit string) (string, bool) {
	for _, suffix := range []string{".device", ".swap"} {
		device, ok := unitname.Unescape(unit, suffix)
		if !ok {
			continue
		}
		switch s, state := u.look(device, ""); state {
		case moves:
			if link, ok := u.path(s); ok {
				return unitname.Escape(link, suffix), true
			}
		case missing:
			u.note("%s: waits for %s, which is on no disk that was given; left", name, device)
		}
	}
	return "", false
}

// replaceWord replaces a word between blanks.
func replaceWord(text, old, now string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' })
	if !slices.Contains(words, old) {
		return text
	}
	var b strings.Builder
	for text != "" {
		i := strings.IndexAny(text, " \t")
		if i < 0 {
			i = len(text)
		}
		word := text[:i]
		if word == old {
			word = now
		}
		b.WriteString(word)
		rest := strings.TrimLeft(text[i:], " \t")
		b.WriteString(text[i : len(text)-len(rest)])
		text = rest
	}
	return b.String()
}

// swapToMove reports whether a unit of a swap is called after a device whose name
// breaks: systemd refuses one whose name is not that of its What.
func (u unitEditor) swapToMove(name string) (*guest.Filesystem, bool) {
	if path.Dir(name) != unitFolder {
		return nil, false
	}
	device, ok := unitname.Unescape(path.Base(name), ".swap")
	if !ok {
		return nil, false
	}
	s, state := u.look(device, "swap")
	if state == missing && guest.Unstable(device) {
		u.note("%s: %s is on no disk that was given; left", name, device)
	}
	if state != moves {
		return nil, false
	}
	_, ok = u.path(s)
	return s, ok
}

// moveSwap gives a unit of a swap the name of its device that holds, and what
// enables it, too.
func (u unitEditor) moveSwap(name string, s *guest.Filesystem) {
	data, ok := u.read(name)
	link, named := u.path(s)
	now := unitname.Escape(link, ".swap")
	if !ok || !named || u.exists(path.Join(unitFolder, now)) {
		return
	}
	u.changes = append(u.changes,
		fixes.WriteFile{Name: path.Join(unitFolder, now), Content: u.edit(name, data)},
		fixes.Remove{Name: name})
	for _, dir := range u.list(unitFolder, "") {
		old := path.Join(dir, path.Base(name))
		if ext := path.Ext(dir); ext != ".wants" && ext != ".requires" || !u.exists(old) {
			continue
		}
		u.changes = append(u.changes,
			fixes.Symlink{Name: path.Join(dir, now), To: "/" + path.Join(unitFolder, now)},
			fixes.Remove{Name: old})
	}
}
