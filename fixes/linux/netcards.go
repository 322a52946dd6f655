package linux

import (
	"net"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// claim is what a file of the guest says of a network card: an address that
// picks it, and the interface's name that goes with it, either may be "".
type claim struct {
	mac, name, file string
	// rule is true where the file itself gives the card that name.
	rule bool
}

// pinKind is one kind of files that pick network cards by address, driver or
// place.
type pinKind struct {
	files []string
	visit func(v *pinVisit, data []byte) []byte
}

// pinVisit is one pass over a file. What it returns is to stand in the place of
// what it was given; a pass that only reads returns the same.
type pinVisit struct {
	file string
	// address is given each address that picks a card, and the name of the
	// interface that goes with it.
	address func(text, iface string, rule bool) string
	// driver is given the drivers that a card may have, and returns one more to
	// add, or "".
	driver func(have []string) string
	// path is given a place on a bus, and whether an address picks the card, too.
	path func(place string, picked bool) string
	note func(format string, args ...any)
}

// pinKinds lists what a guest may have.
func pinKinds(p *planner) []pinKind {
	return []pinKind{
		{p.ruleFiles(), visitRules},
		{p.networkd(".network", ".link"), visitNetworkd},
		{p.ifcfgFiles(), visitIfcfg},
		{p.keyfiles(), visitKeyfile},
		{p.managerFiles(), visitManager},
		{p.netplanFiles(), visitNetplan(p)},
		{p.interfacesFiles(), visitInterfaces},
		{[]string{"etc/iftab", "etc/mactab"}, visitMactab},
		{p.wickedFiles(), visitWicked},
	}
}

// readClaims lists what the guest's files say.
func (n *naming) readClaims() []claim {
	var out []claim
	for _, k := range pinKinds(n.planner) {
		for _, name := range n.once(k.files) {
			data, ok := n.read(name)
			if !ok || isOurLink(name) {
				continue
			}
			k.visit(&pinVisit{
				file: name,
				address: func(text, iface string, rule bool) string {
					if mac, ok := normalMAC(text); ok {
						out = append(out, claim{mac, iface, name, rule})
					}
					return text
				},
				driver: func([]string) string { return "" },
				path:   func(place string, _ bool) string { return place },
				note:   func(string, ...any) {},
			}, data)
		}
	}
	return out
}

// pins makes what picks cards fit the new ones: an address follows the plan's
// card, a driver may be virtio_net, a PCI path any.
func (n *naming) pins() {
	for _, k := range pinKinds(n.planner) {
		for _, name := range n.once(k.files) {
			data, ok := n.pending(name)
			if !ok || isOurLink(name) || strings.HasSuffix(name, ".rules") {
				continue
			}
			now := k.visit(&pinVisit{
				file:    name,
				address: func(text, _ string, _ bool) string { return n.follow(text) },
				driver:  withVirtio,
				path:    func(place string, picked bool) string { return n.path(name, place, picked) },
				note:    n.note,
			}, data)
			n.amendOwn(name, data, now)
		}
	}
}

// follow gives the address that stands for text now, written as text is.
func (n *naming) follow(text string) string {
	mac, ok := normalMAC(text)
	if !ok || n.moved[mac] == "" {
		return text
	}
	return likeMAC(n.moved[mac], text)
}

// move finds out which of the plan's cards has taken the place of each address
// that the guest's files know and no card of the plan has.
func (n *naming) move() {
	n.moved = map[string]string{}
	for _, nic := range n.nics {
		if was, ok := normalMAC(nic.Was); ok && was != nic.MAC {
			n.moved[was] = nic.MAC
		}
	}
	for _, c := range n.claims {
		if n.strange(c.mac) {
			n.moveByName(c)
		}
	}
	left := n.left()
	free := n.free()
	switch {
	case len(left) == 0 || len(n.nics) == 0:
	case len(left) != 1 || len(free) != 1 || n.blind > 0:
		n.note("the network configuration matches addresses that no card has (%s), and which card is meant cannot be told; left", strings.Join(left, ", "))
	default:
		n.moved[left[0]] = free[0]
		n.note("the network configuration follows the card from address %s to %s", left[0], free[0])
	}
}

// strange reports whether an address is of no card of the plan, and not known
// to have been one's.
func (n *naming) strange(mac string) bool {
	return n.moved[mac] == "" && !slices.ContainsFunc(n.nics, func(nic guest.NIC) bool { return nic.MAC == mac })
}

// moveByName lets an address follow the card that has the interface's name now.
func (n *naming) moveByName(c claim) {
	for _, nic := range n.nics {
		if c.name == "" || nic.Name != c.name || n.claimed(nic.MAC) || n.taken(nic.MAC) {
			continue
		}
		n.moved[c.mac] = nic.MAC
		n.note("%s had the address %s and has %s now: what named the old one follows", c.name, c.mac, nic.MAC)
		return
	}
}

func (n *naming) claimed(mac string) bool {
	return slices.ContainsFunc(n.claims, func(c claim) bool { return c.mac == mac })
}

func (n *naming) taken(mac string) bool {
	for _, to := range n.moved {
		if to == mac {
			return true
		}
	}
	return false
}

// left lists the strange addresses in configuration. Rules of udev remember
// cards that are long gone.
func (n *naming) left() []string {
	var out []string
	for _, c := range n.claims {
		if n.strange(c.mac) && !strings.HasSuffix(c.file, ".rules") && !slices.Contains(out, c.mac) {
			out = append(out, c.mac)
		}
	}
	return out
}

// free lists the cards that no file names by address or name yet.
func (n *naming) free() []string {
	var out []string
	for _, nic := range n.nics {
		if nic.Name == "" && !n.claimed(nic.MAC) && !n.taken(nic.MAC) {
			out = append(out, nic.MAC)
		}
	}
	return out
}

// disputed reports whether the guest's configuration gives a card several
// names, and no rule decides between them.
func (n *naming) disputed(mac string) bool {
	var names []string
	for _, c := range n.claims {
		if c.mac != mac && n.moved[c.mac] != mac || c.name == "" {
			continue
		}
		if c.rule {
			return false
		}
		if !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
	}
	if len(names) > 1 {
		slices.Sort(names)
		n.note("the card %s is called %s by different files; its name is not pinned", mac, strings.Join(names, " and "))
	}
	return len(names) > 1
}

// normalMAC gives an Ethernet address in lower case with colons.
func normalMAC(s string) (string, bool) {
	hw, err := net.ParseMAC(strings.Trim(s, " \t\"'"))
	if err != nil || len(hw) != 6 {
		return "", false
	}
	return hw.String(), true
}

// likeMAC writes an address in the case and with the separators of another.
func likeMAC(mac, like string) string {
	if strings.Contains(like, "-") {
		mac = strings.ReplaceAll(mac, ":", "-")
	}
	if strings.ToLower(like) != like {
		mac = strings.ToUpper(mac)
	}
	return mac
}

// macText matches an address within a longer text.
var macText = regexp.MustCompile(`\b[0-9A-Fa-f]{2}([:-])[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){4}\b`)

// eachMAC passes the addresses in a text through address.
func eachMAC(text, iface string, v *pinVisit) string {
	return macText.ReplaceAllStringFunc(text, func(s string) string { return v.address(s, iface, false) })
}
