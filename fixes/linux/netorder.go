package linux

import (
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
