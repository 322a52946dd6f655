package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/networkd"
	"hyper2kvm/fixes/linux/shellvars"
	"hyper2kvm/fixes/linux/xmltext"
)

// configuredNames lists the names of cards that the guest's configuration
// speaks of, in the order found, and the patterns that it matches names with.
// Interfaces made by software are left out.
func configuredNames(p *planner) (names, patterns []string) {
	virtual := map[string]bool{}
	add := func(list ...string) {
		for _, name := range list {
			switch {
			case softName.MatchString(strings.TrimRight(name, "*")) || strings.HasPrefix(name, "!"):
			case strings.ContainsAny(name, "*?[") && name != "*" && !slices.Contains(patterns, name):
				patterns = append(patterns, name)
			case cardName.MatchString(name) && !slices.Contains(names, name):
				names = append(names, name)
			}
		}
	}
	for _, name := range p.networkd(".netdev") {
		if data, ok := p.read(name); ok {
			for _, v := range ini.Parse(data).Values("NetDev", "Name") {
				virtual[v] = true
			}
		}
	}
	ifupdownNames(p, add, virtual)
	for _, name := range p.networkd(".network") {
		if data, ok := p.read(name); ok {
			if f := ini.Parse(data); networkd.ForCards(f) {
				add(f.Values("Match", "Name")...)
			}
		}
	}
	ifcfgNames(p, add)
	keyfileNames(p, add)
	netplanNames(p, add)
	wickedNames(p, add)
	return slices.DeleteFunc(names, func(s string) bool { return virtual[s] }), patterns
}

var (
	// cardName is a name without a pattern, a VLAN suffix or an alias, of the
	// length that the kernel allows (IFNAMSIZ).
	cardName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,14}$`)
	softName = regexp.MustCompile(`^(?:lo|wl.*|ww.*|(?:bond|br|br-.*|virbr|docker|veth|tun|tap|team|vlan|dummy|wg|sit|gre|ppp|ovs.*|vmbr|ib|macvlan)[0-9]*)$`)
)

// ifcfgNames reads the files of Red Hat's and SUSE's scripts; SUSE's bind by
// file name alone. What a VLAN, bond or bridge stands on need not have a file
// of its own.
func ifcfgNames(p *planner, add func(...string)) {
	for _, file := range p.ifcfgFiles() {
		dir, name := path.Dir(file), strings.TrimPrefix(path.Base(file), "ifcfg-")
		if dir != redHatScripts && dir != suseScripts {
			continue
		}
		data, ok := p.read(file)
		if !ok {
			continue
		}
		vars := shellvars.Parse(data)
		add(ifcfgParents(vars, name)...)
		if strings.ContainsAny(name, ".:") || softIfcfg(vars) {
			continue
		}
		if v := vars.Last("DEVICE"); v != nil {
			name = v.Value
		} else if dir == redHatScripts || strings.Contains(name, "-id-") || strings.Contains(name, "bus-") {
			continue
		}
		add(name)
	}
}

// ifcfgPorts matches the variables that hold what an interface stands on
// (ifcfg-vlan(5), ifcfg-bonding(5), ifcfg-bridge(5), ifcfg-team(5) of SUSE;
// sysconfig.txt of Red Hat's initscripts).
var ifcfgPorts = regexp.MustCompile(`^(?:PHYSDEV|BOND_IFACES|ETHERDEVICE|BRIDGE_PORTS|BONDING_SLAVE_?[0-9]+|TEAM_PORT_DEVICE_?[0-9]*|MACVLAN_DEVICE)$`)

func ifcfgParents(vars *shellvars.File, name string) []string {
	var out []string
	for _, v := range vars.Vars() {
		if ifcfgPorts.MatchString(v.Name) {
			out = append(out, strings.Fields(v.Value)...)
		}
	}
	if v := vars.Last("DEVICE"); v != nil {
		name = v.Value
	}
	if parent, id, ok := strings.Cut(name, "."); ok && vlanID.MatchString(id) {
		out = append(out, parent)
	}
	return out
}

// vlanID matches what stands behind the dot in the name of a VLAN.
var vlanID = regexp.MustCompile(`^[0-9]{1,4}$`)

// keyfileNames reads NetworkManager's profiles.
func keyfileNames(p *planner, add func(...string)) {
	for _, name := range p.keyfiles() {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		f := ini.Parse(data)
		add(f.Values("vlan", "parent")...)
		if t := f.Values("connection", "type"); !slices.Contains(t, "ethernet") && !slices.Contains(t, "802-3-ethernet") {
			continue
		}
		add(f.Values("connection", "interface-name")...)
		for _, v := range f.Values("match", "interface-name") {
			add(strings.FieldsFunc(v, func(r rune) bool { return r == ';' })...)
		}
	}
}

// wickedNames reads wicked's XML: an interface's name, and the ports of what
// software makes.
func wickedNames(p *planner, add func(...string)) {
	for _, name := range p.wickedFiles() {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		f, err := xmltext.Parse(data)
		if err != nil {
			continue // visitWicked says so
		}
		for _, t := range f.Texts() {
			at := len(t.Path) - 1
			if t.Path[at] == "name" && at > 0 && t.Path[at-1] == "interface" || t.Path[at] == "device" {
				add(t.Text)
			}
		}
	}
}
