package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/shellvars"
	"hyper2kvm/fixes/linux/table"
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
	for _, name := range p.list("etc/NetworkManager/system-connections", "") {
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

// ifupdownNames reads interfaces(5): each stanza, and the members of bonds and
// bridges.
func ifupdownNames(p *planner, add func(...string), virtual map[string]bool) {
	for _, file := range append([]string{"etc/network/interfaces"}, p.list("etc/network/interfaces.d", "")...) {
		data, ok := p.read(file)
		if !ok {
			continue
		}
		current := ""
		for _, r := range table.Parse(data).Rows() {
			switch key := strings.ReplaceAll(r.Field(0), "_", "-"); key {
			case "iface":
				current = r.Field(1)
				add(current)
			case "bond-slaves", "bridge-ports", "slaves":
				virtual[current] = true
				for i := 1; i < r.Len(); i++ {
					if r.Field(i) != "none" && r.Field(i) != "all" {
						add(r.Field(i))
					}
				}
			case "bond-mode", "vlan-raw-device":
				virtual[current] = true
				if key == "vlan-raw-device" {
					add(r.Field(1))
				}
			}
		}
	}
}

// ifcfgNames reads the files of Red Hat's and SUSE's scripts; SUSE's bind by
// file name alone.
func ifcfgNames(p *planner, add func(...string)) {
	for _, dir := range []string{"etc/sysconfig/network-scripts", "etc/sysconfig/network"} {
		for _, file := range p.list(dir, "") {
			name, ok := strings.CutPrefix(path.Base(file), "ifcfg-")
			if !ok || strings.Contains(name, ".") {
				continue
			}
			data, ok := p.read(file)
			if !ok {
				continue
			}
			vars := shellvars.Parse(data)
			if v := vars.Last("TYPE"); v != nil && !strings.EqualFold(v.Value, "Ethernet") {
				continue
			}
			if vars.Last("BONDING_MASTER") != nil || vars.Last("ETHERDEVICE") != nil || vars.Last("BRIDGE_PORTS") != nil {
				continue
			}
			if v := vars.Last("DEVICE"); v != nil {
				name = v.Value
			} else if dir == "etc/sysconfig/network-scripts" {
				continue
			}
			add(name)
		}
	}
}

var netplanKey = regexp.MustCompile(`^([ ]*)["']?([A-Za-z0-9_.-]+)["']?:[ \t]*(.*)$`)

// netplanNames reads the interfaces below ethernets: in netplan's files. One
// with a match: of its own is an identifier unless set-name gives it the name.
func netplanNames(p *planner, add func(...string)) {
	for _, file := range p.list("etc/netplan", ".yaml") {
		data, ok := p.read(file)
		if !ok {
			continue
		}
		ethernets, child := -1, -1 // columns of "ethernets:" and of what is below it
		id, matches := "", false
		flush := func() {
			if id != "" && !matches {
				add(id)
			}
			id, matches = "", false
		}
		for l := range strings.Lines(string(data)) {
			m := netplanKey.FindStringSubmatch(strings.TrimRight(l, "\r\n"))
			if m == nil {
				continue
			}
			column, key := len(m[1]), m[2]
			switch {
			case key == "ethernets":
				ethernets, child = column, -1
			case ethernets < 0:
			case column <= ethernets:
				flush()
				ethernets = -1
			case child < 0 || column == child:
				flush()
				child, id = column, key
			case key == "match":
				matches = true
			case key == "set-name":
				add(strings.Trim(m[3], `"' `))
			}
		}
		flush()
	}
}
