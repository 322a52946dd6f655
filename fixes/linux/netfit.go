package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
)

// The names that a card has on KVM where nothing gives it another: udev's, on
// the machines q35 and i440fx (systemd.net-naming-scheme(7)), and the kernel's.
func (n *naming) comingNames() []string {
	if n.kernelNames() {
		return []string{"eth0"}
	}
	return []string{"enp1s0", "ens3"}
}

// fit looks at cards whose names no file tells: their configuration takes any
// name that a pattern matches, or goes by the address alone.
func (n *naming) fit(patterns []string, unnamed int) {
	if unnamed+n.blind == 0 || len(n.loose) > 0 {
		return
	}
	fits := func(pattern string) bool {
		return !slices.ContainsFunc(n.comingNames(), func(name string) bool { return !matches(pattern, name) })
	}
	switch {
	case len(patterns) == 0:
		n.nameless = true
	case slices.ContainsFunc(patterns, fits):
		i := slices.IndexFunc(patterns, fits)
		n.note("the network configuration takes any name like %s, and on KVM the card has one; no name is pinned", patterns[i])
	case unnamed+n.blind > 1 || len(patterns) > 1:
		n.note("the network configuration takes names like %s, cards on KVM are called %s, and which card was which is not known; not guessed",
			strings.Join(patterns, ", "), n.comingNames()[0])
	default:
		n.fitOne(patterns[0])
	}
}

// fitOne gives the only card whose name is not known one that the pattern takes.
func (n *naming) fitOne(pattern string) {
	name := strings.NewReplacer("*", "0", "?", "0").Replace(pattern)
	if !cardName.MatchString(name) || !matches(pattern, name) || slices.ContainsFunc(n.nics, func(c guest.NIC) bool { return c.Name == name }) {
		n.note("the network configuration takes names like %s, and on KVM the card is called %s; left", pattern, n.comingNames()[0])
		return
	}
	n.note("the network configuration takes names like %s; the card is called %s, which is one, as its old name is not known", pattern, name)
	if n.blind > 0 {
		n.loose = []string{name}
		return
	}
	for i := range n.nics {
		if n.nics[i].Name == "" && n.nics[i].Unsure == "" {
			n.nics[i].Name = name
		}
	}
}

// byAddress says of cards that no file names why no name is pinned.
func (n *naming) byAddress() {
	for _, c := range n.nics {
		switch {
		case !n.nameless || c.Name != "" || c.Unsure != "":
		case n.claimed(c.MAC) || n.taken(c.MAC):
			n.note("the card %s is configured by its address alone, and no file tells what it was called; its name is not pinned", c.MAC)
		default:
			n.note("no file names the card %s; its name is not pinned", c.MAC)
		}
	}
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// kernelOrder keeps the names of several cards that the kernel numbered and
// whose addresses nobody knows: with the kernel's own names, and the cards in
// the order that they had, each has the one that it had.
func (n *naming) kernelOrder() bool {
	if len(n.nics) > 0 || !slices.ContainsFunc(n.loose, isKernelName) || slices.ContainsFunc(n.loose, func(s string) bool { return !isKernelName(s) }) {
		return false
	}
	names := strings.Join(n.loose, ", ")
	if !n.kernelNames() {
		args := []string{"net.ifnames=0", "biosdevname=0"}
		n.cmdlines(func(pl place, a *cmdline.Args) {
			if !pl.entry && pl.name != "GRUB_CMDLINE_LINUX" && (!a.Has("root") || pl.name == "root" || pl.name == "rootpartition") || a.Has("$kernelopts") {
				return
			}
			for _, arg := range args {
				if key, _, _ := cmdline.Split(arg); !a.Has(key) {
					a.Add(arg)
				}
			}
		})
		n.note("%s: the kernel's own names are kept by %s, as the addresses of the cards are not known; give the cards their old order in the domain", names, strings.Join(args, " "))
		return true
	}
	n.note("%s: the kernel's own names are in use and the addresses of the cards are not known; give the cards their old order in the domain", names)
	return true
}
