package linux

import (
	"cmp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

func isKernelName(name string) bool {
	_, ok := guest.KernelName(name)
	return ok
}

// inPlace reports whether a card that has one of the kernel's own names gets it
// from the kernel, too: the domain has the cards in the order that
// guest.CardOrder gives.
func (n *naming) inPlace(card guest.NIC) bool {
	number, ok := guest.KernelName(card.Name)
	if !ok {
		return false
	}
	order := guest.CardOrder(n.facts.NICs)
	if number >= len(order) {
		return false
	}
	mac, ok := normalMAC(n.facts.NICs[order[number]].MAC)
	return ok && mac == card.MAC
}

// collides reports whether the kernel gives a card's name to another one first,
// which then has to give it up: udev does not exchange names.
func (n *naming) collides(card guest.NIC) bool {
	number, ok := guest.KernelName(card.Name)
	return ok && number < len(n.facts.NICs) && !n.inPlace(card)
}

// orderNotes says of cards with the kernel's own names where they have to stand
// in the domain.
func (n *naming) orderNotes() {
	if order := guest.CardOrder(n.facts.NICs); !slices.IsSorted(order) {
		var said []string
		for _, i := range order {
			said = append(said, strings.TrimSpace(n.facts.NICs[i].Name+" "+n.facts.NICs[i].MAC))
		}
		n.note("the cards have the kernel's own names, and the domain has to have them in the order %s; the domain that is written beside the disks has them so", strings.Join(said, ", "))
	}
	for _, card := range n.nics {
		if n.collides(card) && !n.swaps() {
			number, _ := guest.KernelName(card.Name)
			n.note("%s (%s) has a name that the kernel gives to card number %d: give it that place in the domain, or two cards can keep each other from being renamed", card.Name, card.MAC, number)
		}
	}
}

// lonely reports whether a card with one of the kernel's names needs to be named
// though the kernel's own names are in use: none of the kernel's is its own.
func (n *naming) lonely(card guest.NIC) bool {
	return isKernelName(card.Name) && !n.inPlace(card) && !n.collides(card)
}

// swapped reports whether a card with one of the kernel's names stands at
// another place in the plan, so that only the domain's order would keep it.
func (n *naming) swapped(card guest.NIC) bool {
	number, ok := guest.KernelName(card.Name)
	order := guest.CardOrder(n.facts.NICs)
	return ok && number < len(order) && order[number] != number || n.collides(card)
}

// compareNames orders names as the cards were ordered: by each number in them,
// and VMware's slots by function last. Its slot numbers are 160 + 32 × bridge +
// 1024 × function, and the kernel names the interface after bridge and function:
// ens160, ens192, ens224, ens256, ens161, ens193.
func compareNames(a, b string) int {
	for a != "" && b != "" {
		at, an, ar := chunk(a)
		bt, bn, br := chunk(b)
		if at == "ens" && bt == "ens" && an >= 160 && bn >= 160 {
			an, bn = (an-160)%32*1024+(an-160)/32, (bn-160)%32*1024+(bn-160)/32
		}
		if c := cmp.Or(strings.Compare(at, bt), cmp.Compare(an, bn)); c != 0 {
			return c
		}
		a, b = ar, br
	}
	return cmp.Compare(len(a), len(b))
}

// chunk takes a text and the number behind it off the front of a name; -1 is no
// number.
func chunk(name string) (text string, number int, rest string) {
	const digits = "0123456789"
	i := strings.IndexAny(name, digits)
	if i < 0 {
		return name, -1, ""
	}
	text, rest = name[:i], strings.TrimLeft(name[i:], digits)
	for _, c := range name[i : len(name)-len(rest)] {
		if number < 1<<24 { // eno67109408 is the largest there is
			number = number*10 + int(c-'0')
		}
	}
	return text, number, rest
}
