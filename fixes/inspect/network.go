package inspect

import (
	"cmp"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"hyper2kvm/fixes/guest"
	linuxini "hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/layers"
	"hyper2kvm/fixes/linux/networkd"
)

// network lists the stacks that have a configuration and combines the NICs of
// the plan with the names that the guest's files give to their addresses.
func (f *finder) network() {
	n := &names{finder: f}
	n.rules()
	n.links()
	n.ifcfg()
	n.keyfiles()
	n.netplan()
	n.networkd()
	n.ifupdown()
	f.facts.Network = n.stacks
	n.leases()
	if len(f.facts.NICs) == 0 {
		f.facts.NICs = n.traced(n.configured())
	} else {
		n.match()
		n.trace()
	}
	n.give()
}

// names is what the guest's files say of its network cards, best source first.
type names struct {
	*finder
	stacks []string
	known  []guest.NIC // with an address, in order of trust
	loose  []guest.NIC // configured by name alone
	traces []trace     // what is left of running
}

func (n *names) stack(name string) {
	if !slices.Contains(n.stacks, name) {
		n.stacks = append(n.stacks, name)
	}
}

// softName matches interfaces that software makes, and patterns.
var softName = regexp.MustCompile(`^(lo|all|default|(br|virbr|bond|team|vlan|docker|veth|tun|tap|wg|dummy|ppp|sit|ip6tnl|tailscale|podman|cni|flannel)[-_0-9].*)$|[.:*?!\[/ ]`)

// likely gives an identifier that looks like the name that udev or the kernel
// gives a card, "" for any other: the configuration goes by the address then,
// and whoever wrote it called it after the card.
func likely(id string) string {
	if !likelyName.MatchString(id) {
		return ""
	}
	return id
}

var likelyName = regexp.MustCompile(`^(?:eth|eno|ens|em)[0-9]+[a-z0-9]*$|^enp[0-9]+s[0-9]+[a-z0-9]*$`)

// saw notes that the file from ties name and mac; either may be "".
func (n *names) saw(mac, name, from string) {
	if hw, err := net.ParseMAC(strings.TrimSpace(mac)); err == nil && len(hw) == 6 {
		mac = hw.String()
	} else {
		mac = ""
	}
	if softName.MatchString(name) {
		name = ""
	}
	nic := guest.NIC{MAC: mac, Name: name, From: from}
	switch {
	case mac != "":
		for i := range n.known {
			if n.known[i].MAC != mac {
				continue
			}
			if n.known[i].Name == "" && name != "" {
				n.known[i] = nic
			} else if name != "" && n.known[i].Name != name {
				n.warn("%s calls the card %s %s, %s calls it %s", from, mac, name, n.known[i].From, n.known[i].Name)
			}
			return
		}
		n.known = append(n.known, nic)
	case name != "" && !slices.ContainsFunc(n.loose, func(l guest.NIC) bool { return l.Name == name }):
		n.loose = append(n.loose, nic)
	}
}

// configured lists the cards that the configuration speaks of, those with an
// address first; a name that belongs to one is not told twice.
func (n *names) configured() []guest.NIC {
	out := n.known
	slices.SortStableFunc(n.loose, func(a, b guest.NIC) int { return guest.CompareNames(a.Name, b.Name) })
	for _, l := range n.loose {
		if !slices.ContainsFunc(n.known, func(k guest.NIC) bool { return k.Name == l.Name }) {
			out = append(out, l)
		}
	}
	return out
}

// match gives the plan's NICs their names. One without an address takes the
// next that the guest names and no other NIC has.
func (n *names) match() {
	nics := slices.Clone(n.facts.NICs)
	used := map[string]bool{}
	for i := range nics {
		if hw, err := net.ParseMAC(nics[i].MAC); err == nil {
			nics[i].MAC = hw.String()
		}
		if hw, err := net.ParseMAC(nics[i].Was); err == nil {
			nics[i].Was = hw.String()
		}
		used[nics[i].MAC], used[nics[i].Was] = true, true
		mac := cmp.Or(nics[i].Was, nics[i].MAC)
		if k := slices.IndexFunc(n.known, func(k guest.NIC) bool { return k.MAC == mac }); k >= 0 && mac != "" && nics[i].Name == "" {
			nics[i].Name, nics[i].From = n.known[k].Name, n.known[k].From
		}
	}
	rest := slices.DeleteFunc(n.configured(), func(k guest.NIC) bool {
		return k.MAC != "" && used[k.MAC] || k.Name != "" && slices.ContainsFunc(nics, func(c guest.NIC) bool { return c.Name == k.Name })
	})
	for i := range nics {
		if nics[i].MAC == "" && len(rest) > 0 {
			nics[i], rest = rest[0], rest[1:]
		}
	}
	n.facts.NICs = nics
}

var (
	ruleMAC = regexp.MustCompile(`(?:ATTRS?|SYSFS)\{address\}[ \t]*==[ \t]*"([^"]+)"`)
	// ruleName matches the name, or the program of SLES 10 that is given it.
	ruleName = regexp.MustCompile(`\b(?:NAME[ \t]*:?=[ \t]*"|rename_netiface %k )([^" ]+)"`)
)

// rules reads udev rules that name interfaces by address (udev(7)).
func (n *names) rules() {
	for _, name := range n.list("etc/udev/rules.d", ".rules") {
		data, ok := n.read(name)
		if !ok {
			continue
		}
		for _, l := range lines(data) {
			mac, to := ruleMAC.FindStringSubmatch(l), ruleName.FindStringSubmatch(l)
			if mac != nil && to != nil && !strings.Contains(to[1], "$") && !strings.Contains(to[1], "%") {
				n.saw(mac[1], to[1], name)
			}
		}
	}
}

// links reads systemd.link(5) files.
func (n *names) links() {
	for _, name := range layers.List(n.tree, ".link", layers.Networkd()...) {
		data, ok := n.read(name)
		if !ok {
			continue
		}
		match, link := ini(data, "Match"), ini(data, "Link")
		for _, key := range []string{"MACAddress", "PermanentMACAddress"} {
			if mac := match.get(key); mac != "" && link.get("Name") != "" {
				n.saw(mac, link.get("Name"), name)
			}
		}
	}
}

// ifcfg reads Red Hat's and SUSE's files; in SUSE's the file's name is the
// interface's, or its address.
func (n *names) ifcfg() {
	for _, dir := range []string{"etc/sysconfig/network-scripts", "etc/sysconfig/network"} {
		for _, name := range n.list(dir, "") {
			iface, ok := strings.CutPrefix(path.Base(name), "ifcfg-")
			if !ok || iface == "lo" || strings.HasSuffix(iface, ".bak") || strings.HasSuffix(iface, "~") || strings.HasSuffix(iface, ".rpmsave") {
				continue
			}
			data, ok := n.read(name)
			if !ok {
				continue
			}
			n.stack("ifcfg")
			v := shellVars(data)
			if d := v["DEVICE"]; d != "" || strings.HasSuffix(dir, "-scripts") {
				// Red Hat's file may have any name. Without a device it is the address
				// that binds it, and the card has the name that the system gave it.
				iface = cmp.Or(d, likely(iface), likely(v["NAME"]))
			}
			mac := v["HWADDR"] // MACADDR and LLADDR are given to the card
			if _, id, ok := strings.Cut(iface, "-id-"); ok {
				mac, iface = id, ""
			}
			if t := strings.ToLower(v["TYPE"]); t == "" || t == "ethernet" || t == "ovsport" {
				n.saw(mac, iface, name)
			}
			for key, value := range v {
				if strings.HasPrefix(key, "IPADDR") || strings.HasPrefix(key, "IPV6ADDR") {
					n.has(iface, value, name)
				}
			}
		}
	}
}

// keyfiles reads NetworkManager's profiles (nm-settings-keyfile(5)).
func (n *names) keyfiles() {
	for _, name := range layers.List(n.tree, "", layers.Keyfiles()...) {
		data, ok := n.read(name)
		if !ok {
			continue
		}
		n.stack("networkmanager")
		connection := ini(data, "connection")
		if t := connection.get("type"); t != "ethernet" && t != "802-3-ethernet" {
			continue
		}
		mac := ini(data, "ethernet").get("mac-address")
		if mac == "" {
			mac = ini(data, "802-3-ethernet").get("mac-address")
		}
		n.saw(mac, cmp.Or(connection.get("interface-name"), likely(connection.get("id"))), name)
		for _, s := range []section{ini(data, "ipv4"), ini(data, "ipv6")} {
			for key, values := range s.values {
				if strings.HasPrefix(key, "address") {
					n.has(connection.get("interface-name"), strings.Join(values, ";"), name)
				}
			}
		}
	}
}

// netplan reads the ethernets of netplan's files: the key is the interface's
// name unless match tells which it is.
func (n *names) netplan() {
	for _, name := range layers.List(n.tree, ".yaml", layers.Netplan()...) {
		data, ok := n.read(name)
		if !ok {
			continue
		}
		var doc struct {
			Network struct {
				Ethernets map[string]struct {
					Match *struct {
						MAC  string `yaml:"macaddress"`
						Name string `yaml:"name"`
					} `yaml:"match"`
					SetName   string      `yaml:"set-name"`
					Addresses []yaml.Node `yaml:"addresses"`
				} `yaml:"ethernets"`
			} `yaml:"network"`
		}
		if err := yaml.Unmarshal(data, &doc); err != nil {
			n.warn("%s: %v", name, err)
			continue
		}
		n.stack("netplan")
		ids := make([]string, 0, len(doc.Network.Ethernets))
		for id := range doc.Network.Ethernets {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			e := doc.Network.Ethernets[id]
			mac, iface := "", id
			if e.Match != nil {
				mac, iface = e.Match.MAC, cmp.Or(e.SetName, e.Match.Name, likely(id))
			}
			n.saw(mac, iface, name)
			for _, a := range e.Addresses {
				if a.Kind == yaml.MappingNode && len(a.Content) > 0 { // with options of its own
					a = *a.Content[0]
				}
				n.has(iface, a.Value, name)
			}
		}
	}
}

// networkd reads systemd.network(5) files.
func (n *names) networkd() {
	made := map[string]bool{}
	for _, name := range layers.List(n.tree, ".netdev", layers.Networkd()...) {
		if data, ok := n.read(name); ok {
			made[ini(data, "NetDev").get("Name")] = true
		}
	}
	for _, name := range layers.List(n.tree, ".network", layers.Networkd()...) {
		data, ok := n.read(name)
		if !ok {
			continue
		}
		match := ini(data, "Match")
		if !networkd.ForCards(linuxini.Parse(data)) {
			continue // of those that systemd brings along, mostly
		}
		n.stack("networkd")
		macs := strings.Fields(match.get("MACAddress") + " " + match.get("PermanentMACAddress"))
		ifaces := slices.DeleteFunc(strings.Fields(match.get("Name")), func(s string) bool { return made[s] })
		if len(ifaces) == 1 {
			for _, section := range []string{"Network", "Address"} {
				n.has(ifaces[0], strings.Join(ini(data, section).values["Address"], " "), name)
			}
		}
		if len(macs) == 1 && len(ifaces) == 1 {
			n.saw(macs[0], ifaces[0], name)
			continue
		}
		for _, mac := range macs {
			n.saw(mac, "", name)
		}
		for _, iface := range ifaces {
			n.saw("", iface, name)
		}
	}
}

// ifupdown reads interfaces(5): a stanza with a MAC of its own is rare, so these
// are names alone, but for what is built of others.
func (n *names) ifupdown() {
	files := append([]string{"etc/network/interfaces"}, n.list("etc/network/interfaces.d", "")...)
	for _, name := range files {
		data, ok := n.read(name)
		if !ok {
			continue
		}
		iface := ""
		for _, l := range lines(data) {
			w := strings.Fields(l)
			switch {
			case len(w) >= 2 && w[0] == "iface" && w[1] != "lo":
				iface, _, _ = strings.Cut(w[1], ":")
				n.stack("ifupdown")
				n.saw("", w[1], name)
			case len(w) >= 2 && w[0] == "address":
				n.has(iface, w[1], name)
			}
		}
	}
}
