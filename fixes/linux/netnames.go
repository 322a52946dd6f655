package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/shellvars"
)

// configuredNames lists the names of cards that the guest's configuration
// speaks of, in the order found. Interfaces made by software are left out.
func configuredNames(p *planner) []string {
	var names []string
	virtual := map[string]bool{}
	add := func(list ...string) {
		for _, name := range list {
			if cardName.MatchString(name) && !softName.MatchString(name) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, name := range p.list(networkDir, ".netdev") {
		if data, ok := p.read(name); ok {
			for _, v := range ini.Parse(data).Values("NetDev", "Name") {
				virtual[v] = true
			}
		}
	}
	ifupdownNames(p, add, virtual)
	for _, name := range p.list(networkDir, ".network") {
		if data, ok := p.read(name); ok {
			add(ini.Parse(data).Values("Match", "Name")...)
		}
	}
	ifcfgNames(p, add)
	for _, name := range p.list(keyfileDir, "") {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		f := ini.Parse(data)
		if t := f.Values("connection", "type"); slices.Contains(t, "ethernet") || slices.Contains(t, "802-3-ethernet") {
			add(f.Values("connection", "interface-name")...)
		}
	}
	netplanNames(p, add)
	return slices.DeleteFunc(names, func(s string) bool { return virtual[s] })
}

var (
	// cardName is a name without a pattern, a VLAN suffix or an alias, of the
	// length that the kernel allows (IFNAMSIZ).
	cardName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,14}$`)
	softName = regexp.MustCompile(`^(?:lo|wl.*|ww.*|(?:bond|br|br-.*|virbr|docker|veth|tun|tap|team|vlan|dummy|wg|sit|gre|ppp|ovs.*|vmbr|ib|macvlan)[0-9]*)$`)
)

// ifcfgNames reads the files of Red Hat's and SUSE's scripts; SUSE's bind by
// file name alone.
func ifcfgNames(p *planner, add func(...string)) {
	for _, file := range p.ifcfgFiles() {
		dir, name := path.Dir(file), strings.TrimPrefix(path.Base(file), "ifcfg-")
		if strings.Contains(name, ".") || dir != redHatScripts && dir != suseScripts {
			continue
		}
		data, ok := p.read(file)
		if !ok {
			continue
		}
		vars := shellvars.Parse(data)
		if softIfcfg(vars) {
			continue
		}
		if v := vars.Last("DEVICE"); v != nil {
			name = v.Value
		} else if dir == redHatScripts || strings.HasPrefix(name, "eth-id-") || strings.HasPrefix(name, "bus-") {
			continue
		}
		add(name)
	}
}
