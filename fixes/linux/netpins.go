package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
)

// visitNetworkd goes through the [Match] sections of systemd.network(5) and
// systemd.link(5).
func visitNetworkd(v *pinVisit, data []byte) []byte {
	f := ini.Parse(data)
	link := strings.HasSuffix(v.file, ".link") || strings.Contains(v.file, ".link.d/")
	iface := only(f.Values("Match", "Name"))
	if link {
		iface = only(f.Values("Link", "Name"))
	}
	for _, e := range f.Entries() {
		if !strings.EqualFold(e.Section, "Match") {
			continue
		}
		switch strings.ToLower(e.Key) {
		case "macaddress", "permanentmacaddress":
			fields := strings.Fields(e.Value)
			now := slices.Clone(fields)
			for i := range now {
				now[i] = v.address(now[i], iface, link)
			}
			if !slices.Equal(now, fields) {
				e.Value = strings.Join(now, " ")
			}
		case "driver":
			if more := v.driver(strings.Fields(e.Value)); more != "" {
				e.Value += " " + more
			}
		case "property":
			if strings.Contains(e.Value, "ID_PATH") || strings.Contains(e.Value, "ID_NET_DRIVER") {
				v.note("%s: matches %s, which is of the old machine; left", v.file, e.Value)
			}
		case "path":
			places := strings.Fields(e.Value)
			now := slices.Clone(places)
			for i := range now {
				now[i] = v.path(now[i], len(matchedMACs(f)) > 0)
			}
			if !slices.Equal(now, places) {
				e.Value = strings.Join(slices.Compact(now), " ")
			}
		}
	}
	return f.Bytes()
}

// only gives the one text of a list, "" where there are none or several, or
// where it is a pattern.
func only(list []string) string {
	if len(list) != 1 || !cardName.MatchString(list[0]) {
		return ""
	}
	return list[0]
}

// matchedMACs lists the addresses in [Match], in normal form.
func matchedMACs(f *ini.File) []string {
	var out []string
	for _, v := range append(f.Values("Match", "MACAddress"), f.Values("Match", "PermanentMACAddress")...) {
		if mac, ok := normalMAC(v); ok {
			out = append(out, mac)
		}
	}
	return out
}

// withVirtio lets a match by the driver of a hypervisor's card match KVM's. The
// old one stays: the guest may boot where it was once more.
func withVirtio(drivers []string) string {
	const virtio = "virtio_net"
	if len(drivers) == 0 || strings.HasPrefix(drivers[0], "!") || slices.Contains(drivers, virtio) {
		return ""
	}
	for _, d := range []string{"vmxnet3", "vmxnet", "e1000", "e1000e", "pcnet32", "hv_netvsc", "xen_netfront", "vif", "ena"} {
		if slices.Contains(drivers, d) {
			return virtio
		}
	}
	return ""
}

// path gives what stands for a place on the old machine's bus. Where an address
// picks the card it is any place on PCI, and where there is but one card.
func (n *naming) path(name, place string, picked bool) string {
	if !strings.HasPrefix(place, "pci-") && !strings.HasPrefix(place, "acpi-") || strings.ContainsAny(place, "*") {
		return place
	}
	if !picked && (len(n.nics)+n.blind > 1 || strings.HasSuffix(name, ".link")) {
		n.note("%s: matches %s, a place on the old machine's bus; left", name, place)
		return place
	}
	n.note("%s: matched %s, a place on the old machine's bus; it matches any card on PCI now", name, place)
	return "pci-*"
}
