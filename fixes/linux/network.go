package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
)

const networkDir = "etc/systemd/network"

// network keeps the names of the interfaces, on which the guest's whole
// configuration hangs: addresses, bonds, firewall zones, services.
func network() fix {
	return fix{
		id:  "linux/network",
		why: "The PCI slots differ, so an interface that was ens192 becomes enp1s0 and comes up without its address.",
		plan: func(p *planner) error {
			n := &naming{planner: p}
			n.find()
			n.move()
			n.byAddress()
			n.rules()
			n.links()
			n.pins()
			n.hwaddr()
			n.suseNames()
			n.aliases()
			n.arguments()
			n.orderNotes()
			n.strangers()
			n.lostNames()
			n.clouds()
			return nil
		},
	}
}

// naming is the work of the network fix.
type naming struct {
	*planner
	nics  []guest.NIC // with a MAC; Name "" where none is known
	loose []string    // configured names that no MAC is known for
	lost  []string    // those of them that no card will have
	// blind is the number of NICs that the plan lists without a MAC.
	blind int
	ruled map[string]bool // names that a udev rule gives already
	etc   []string        // see small
	// walked counts the folders that small has read.
	walked int
	// kernel is what kernelNames found.
	kernel *bool
	// nameless is true where the guest's files name no card and match no names.
	nameless bool
	// claims are what the guest's files say of cards; moved maps an address of
	// the source to the one that its card has now.
	claims []claim
	moved  map[string]string
}

// find decides which name belongs to which MAC.
func (n *naming) find() {
	n.claims = n.readClaims()
	names, patterns := configuredNames(n.planner)
	for _, nic := range n.facts.NICs {
		mac, ok := normalMAC(nic.MAC)
		if !ok {
			n.blind++
			if cardName.MatchString(nic.Name) && !slices.Contains(names, nic.Name) {
				names = append(names, nic.Name)
			}
			continue
		}
		nic.MAC = mac
		if nic.Made {
			n.note("%s: its old address is not known. The card that the domain has for it is given the address %s, on which the name hangs; a domain that is made by hand has to give the same", nic.Name, mac)
		}
		if !cardName.MatchString(nic.Name) {
			nic.Name = n.nameOf(nic)
		}
		n.nics = append(n.nics, nic)
	}
	unnamed, unsure, free := 0, 0, 0
	for _, nic := range n.nics {
		names = slices.DeleteFunc(names, func(s string) bool { return s == nic.Name })
		switch {
		case nic.Name == "" && nic.Unsure != "":
			unsure++
			n.note("the card %s: %s; its name is not pinned", nic.MAC, nic.Unsure)
		case nic.Name == "":
			unnamed++
			if !n.byAddressAlone(nic) {
				free++
			}
		}
	}
	slices.SortStableFunc(names, guest.CompareNames)
	switch {
	case n.blind == 0 && unnamed > 0 && unsure == 0 && unnamed == len(names):
		n.assign(names, func(guest.NIC) bool { return true })
	case n.blind == 0 && free > 0 && unsure == 0 && free == len(names):
		n.assign(names, func(nic guest.NIC) bool { return !n.byAddressAlone(nic) })
	case n.blind == 0 && unnamed+unsure > 0 && len(names) > 0:
		n.lost = names
		n.note("%d interfaces are configured (%s) for %d network cards whose names are not known; not guessed", len(names), strings.Join(names, ", "), unnamed+unsure)
	default:
		if len(n.nics) > 0 && n.blind == 0 && len(names) > 0 {
			n.note("%s: configured, and each card of the machine is another interface; left", strings.Join(names, ", "))
		}
		n.loose = names
		n.fit(patterns, unnamed)
	}
}

// nameOf finds the name that the guest's files give a card that inspection has
// none for, by the address that it has or had.
func (n *naming) nameOf(nic guest.NIC) string {
	was, _ := normalMAC(nic.Was)
	for _, c := range n.claims {
		if c.name != "" && (c.mac == nic.MAC || c.mac == was) && cardName.MatchString(c.name) {
			return c.name
		}
	}
	return ""
}

// byAddressAlone reports whether the configuration picks the card by its
// address, so that it needs no name.
func (n *naming) byAddressAlone(nic guest.NIC) bool {
	was, _ := normalMAC(nic.Was)
	return n.claimed(nic.MAC) || was != "" && n.claimed(was)
}

// assign gives the cards without a name that want takes the configured names,
// both in order.
func (n *naming) assign(names []string, want func(guest.NIC) bool) {
	for i := range n.nics {
		if n.nics[i].Name == "" && want(n.nics[i]) {
			n.nics[i].Name, names = names[0], names[1:]
			n.note("%s is taken to be the card %s, by order", n.nics[i].Name, n.nics[i].MAC)
		}
	}
}

// links writes a .link file for each name, systemd.link(5). It is read in the
// initramfs too, so this stands before the initramfs is made.
func (n *naming) links() {
	if !n.readsLinks() {
		if len(n.loose) > 1 {
			n.kernelOrder()
		}
		return
	}
	for _, nic := range n.nics {
		switch {
		case nic.Name == "" || n.ruled[nic.Name] && !n.redHat() || n.linked(nic) || n.disputed(nic.MAC):
		case isKernelName(nic.Name) && n.kernelNames() && !n.lonely(nic):
		default:
			// Path= matches cards alone: a VLAN or bridge has the card's address, too.
			n.link(nic.Name, nic.MAC, "MACAddress="+nic.MAC+"\nPath=*")
		}
	}
	if len(n.loose) > 0 && (n.blind > 0 || len(n.nics) == 0) {
		n.onlyCard()
	}
}

// readsLinks reports whether the guest's udev reads .link files: systemd's does,
// whatever runs as init.
//
// It does from release 209 on, which came with 80-net-setup-link.rules in the
// place of 80-net-name-slot.rules (systemd's NEWS).
func (n *naming) readsLinks() bool {
	if n.exists("usr/lib/systemd/network/99-default.link") || n.exists("lib/systemd/network/99-default.link") {
		return true
	}
	return n.facts.Init == "systemd" && (!n.hasRule("80-net-name-slot.rules") || n.hasRule("80-net-setup-link.rules"))
}

// hasRule reports whether udev brings a file of rules of its own.
func (n *naming) hasRule(name string) bool {
	return n.exists("usr/lib/udev/rules.d/"+name) || n.exists("lib/udev/rules.d/"+name)
}

// onlyCard names a card whose address is not known, where no other can be meant.
func (n *naming) onlyCard() {
	name := n.loose[0]
	switch {
	case (len(n.loose) > 1 || n.blind+len(n.nics) > 1) && n.kernelOrder():
	case len(n.loose) > 1 || n.blind+len(n.nics) > 1:
		n.lost = n.loose
		n.note("%s: which network card it was is not known, and there are several; not guessed", strings.Join(n.loose, ", "))
	case isKernelName(name) && n.kernelNames(), n.ruled[name]:
	default:
		n.link(name, "", "Path=pci-*")
		n.note("the address of the network card is not known: the guest's only card on PCI is called %s, whatever its address", name)
	}
}

// redHat reports whether udev's own policy overrides names from udev rules, as
// Red Hat's releases from 9 on do.
func (n *naming) redHat() bool {
	return n.like("rhel", "fedora")
}

// kernelNames reports whether the kernel's names (eth0) are left as they are.
func (n *naming) kernelNames() bool {
	if n.kernel == nil {
		own := n.findKernelNames()
		n.kernel = &own // over SSH the files are not read for each card
	}
	return *n.kernel
}

func (n *naming) findKernelNames() bool {
	if !n.readsLinks() && !n.hasRule("80-net-name-slot.rules") {
		return true
	}
	for _, name := range []string{networkDir + "/99-default.link", "etc/udev/rules.d/80-net-setup-link.rules", "etc/udev/rules.d/80-net-name-slot.rules"} {
		if target, err := n.fs.ReadLink(name); err == nil && target == "/dev/null" {
			return true
		}
		if info, err := n.fs.Lstat(name); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return true
		}
	}
	off := false
	look := &planner{fs: n.fs, facts: n.facts} // reads alone: what it proposes is dropped
	look.cmdlines(func(pl place, a *cmdline.Args) {
		off = off || slices.Contains(a.Values("net.ifnames"), "0")
	})
	return off
}
