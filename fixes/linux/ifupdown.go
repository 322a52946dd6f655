package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/interfaces"
	"hyper2kvm/fixes/linux/table"
)

const interfacesFile = "etc/network/interfaces"

// interfacesFiles lists interfaces(5) and the files that it sources.
func (p *planner) interfacesFiles() []string {
	out := append([]string{interfacesFile}, p.list(interfacesFile+".d", "")...)
	for i := 0; i < len(out) && i < 100; i++ {
		data, ok := p.read(out[i])
		if !ok {
			continue
		}
		for _, l := range interfaces.Parse(data).Lines() {
			if key := l.Key(); key == "source" || key == "source-directory" {
				out = append(out, p.sourced(key, l.Word(1))...)
			}
		}
	}
	slices.Sort(out[1:])
	return slices.Compact(out)
}

// sourced lists what a source or source-directory line brings in. Patterns are
// those of one folder.
func (p *planner) sourced(key, arg string) []string {
	if !strings.HasPrefix(arg, "/") {
		arg = path.Join("/", path.Dir(interfacesFile), arg)
	}
	arg = strings.TrimPrefix(path.Clean(arg), "/")
	if key == "source-directory" || !strings.ContainsAny(path.Base(arg), "*?[") {
		if key == "source" {
			return []string{arg}
		}
		return p.list(arg, "")
	}
	return slices.DeleteFunc(p.list(path.Dir(arg), ""), func(name string) bool {
		ok, err := path.Match(path.Base(arg), path.Base(name))
		return err != nil || !ok
	})
}

// visitInterfaces goes through what picks cards by address: the map lines of
// mappings (get-mac-address.sh) and the patterns of auto, "mac/…=lan". hwaddress
// is an address that the card is given, and stays.
func visitInterfaces(v *pinVisit, data []byte) []byte {
	f := interfaces.Parse(data)
	for _, l := range f.Lines() {
		key := l.Key()
		switch {
		case key == "map" && len(l.Words) > 2:
			l.Words[1].Text = v.address(l.Words[1].Text, only([]string{l.Word(2)}), false)
		case key == "auto", key == "rename", strings.HasPrefix(key, "allow-"):
			for _, w := range l.Words[1:] {
				_, iface, _ := strings.Cut(w.Text, "=")
				w.Text = eachMAC(w.Text, only([]string{iface}), v)
			}
		}
	}
	return f.Bytes()
}

// visitMactab goes through the tables of ifrename and nameif: a name, and the
// address of the card that gets it.
func visitMactab(v *pinVisit, data []byte) []byte {
	f := table.Parse(data)
	for _, r := range f.Rows() {
		for i := 1; i < r.Len(); i++ {
			if text := strings.TrimPrefix(r.Field(i), "mac="); macText.MatchString(text) {
				r.Set(i, strings.Replace(r.Field(i), text, v.address(text, only([]string{r.Field(0)}), true), 1))
			}
		}
	}
	return f.Bytes()
}

// ifupdownNames reads interfaces(5): each stanza, and the members of bonds and
// bridges.
func ifupdownNames(p *planner, add func(...string), virtual map[string]bool) {
	for _, file := range p.interfacesFiles() {
		data, ok := p.read(file)
		if !ok {
			continue
		}
		for _, l := range interfaces.Parse(data).Lines() {
			current := l.Stanza.Word(1)
			switch key := l.Key(); key {
			case "iface":
				name, _, _ := strings.Cut(l.Word(1), ":") // an alias has the card's name before it
				if parent, id, ok := strings.Cut(name, "."); ok && vlanID.MatchString(id) {
					name = parent
				}
				add(name)
			case "bond-slaves", "bond-members", "bridge-ports", "slaves":
				virtual[current] = true
				for i, w := range l.Words[1:] {
					// bridge-utils-interfaces(5) has patterns behind "regex" and "noregex".
					if before := l.Word(i); w.Text != "none" && w.Text != "all" && !strings.HasSuffix(w.Text, "regex") && !strings.HasSuffix(before, "regex") {
						add(w.Text)
					}
				}
			case "bond-mode", "vlan-raw-device", "vlan-id", "tunnel-local", "veth-peer-name":
				virtual[current] = true
				if key == "vlan-raw-device" {
					add(l.Word(1))
				}
			}
		}
	}
}
