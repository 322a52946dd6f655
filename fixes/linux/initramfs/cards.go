package initramfs

import (
	"strings"

	"hyper2kvm/fixes/guest"
)

// followCard gives an argument of dracut's that picks a card by its address,
// ifname=NAME:ADDRESS (dracut.cmdline(7)), the address that the card has on the
// target. A root that a server on the network unlocks waits for that card.
func followCard(word string, nics []guest.NIC) string {
	value, ok := strings.CutPrefix(word, "ifname=")
	name, mac, split := strings.Cut(value, ":")
	if !ok || !split {
		return word
	}
	for _, n := range nics {
		if n.MAC != "" && (strings.EqualFold(n.Was, mac) || n.Name == name && n.Name != "") && !strings.EqualFold(n.MAC, mac) {
			return "ifname=" + name + ":" + n.MAC
		}
	}
	return word
}
