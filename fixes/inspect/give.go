package inspect

import (
	"crypto/sha256"
	"net"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// give gives addresses to cards of which the name alone is known, where there are
// several: the target's card is made for the name, and only by its address can
// the guest tell it from the others. Cards with the kernel's own names go by
// their order, and a single card by being the only one.
func (n *names) give() {
	nics := n.facts.NICs
	natural := !slices.ContainsFunc(nics, func(c guest.NIC) bool {
		_, ok := guest.KernelName(c.Name)
		return c.Name != "" && !ok
	})
	if len(nics) < 2 || natural {
		return
	}
	for i := range nics {
		if nics[i].MAC == "" && nics[i].Name != "" {
			nics[i].MAC, nics[i].Made = n.made(nics[i].Name), true
		}
	}
}

// made is an address for the interface name of this guest: the same each time,
// and another in another guest. 52:54:00 is what QEMU and libvirt begin theirs
// with.
func (n *names) made(name string) string {
	id, _ := n.read("etc/machine-id")
	seed := []string{string(id), n.facts.Hostname}
	for _, f := range n.facts.Filesystems {
		seed = append(seed, f.UUID)
	}
	for seed = append(seed, name); ; seed = append(seed, "again") {
		sum := sha256.Sum256([]byte(strings.Join(seed, "\x00")))
		mac := net.HardwareAddr{0x52, 0x54, 0, sum[0], sum[1], sum[2]}.String()
		if !slices.ContainsFunc(n.facts.NICs, func(c guest.NIC) bool { return c.MAC == mac || c.Was == mac }) {
			return mac
		}
	}
}
