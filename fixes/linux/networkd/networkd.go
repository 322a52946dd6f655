// Package networkd tells what systemd-networkd's files are about.
package networkd

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
)

// ForCards reports whether a .network file may be about network cards: not one
// for containers, wireless networks or what software makes, as systemd brings
// along (systemd.network(5), [Match]). A file that matches nothing is for none.
func ForCards(f *ini.File) bool {
	has := func(key string) bool { return len(f.Values("Match", key)) > 0 }
	if has("Kind") || has("WLANInterfaceType") || has("SSID") || slices.Contains(f.Values("Match", "Virtualization"), "container") {
		return false
	}
	if !kin(f.Values("Match", "Type"), func(t string) bool { return t == "ether" }) {
		return false
	}
	if !kin(f.Values("Match", "Driver"), func(d string) bool { return !slices.Contains(soft(), d) }) {
		return false
	}
	return slices.ContainsFunc(f.Entries(), func(e *ini.Entry) bool { return strings.EqualFold(e.Section, "Match") })
}

// kin reports whether one of a list is wanted; an empty list, and one that begins
// with "!" and so tells what is not, takes all.
func kin(list []string, want func(string) bool) bool {
	return len(list) == 0 || strings.HasPrefix(list[0], "!") || slices.ContainsFunc(list, want)
}

// soft lists the drivers of interfaces that software makes.
func soft() []string {
	return []string{"veth", "tun", "bridge", "bonding", "dummy", "macvlan", "ipvlan", "vxlan", "wireguard", "team", "802.1Q VLAN Support"}
}
