package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
)

// visitKeyfile goes through a profile of NetworkManager (nm-settings-keyfile(5)).
// cloned-mac-address is an address that the card is given, and stays. In the
// profile of a VLAN the address is that of the card below it.
func visitKeyfile(v *pinVisit, data []byte) []byte {
	f := ini.Parse(data)
	t := f.Values("connection", "type")
	card := slices.Contains(t, "ethernet") || slices.Contains(t, "802-3-ethernet")
	if !card && !slices.Contains(t, "vlan") && !slices.Contains(t, "macvlan") && !slices.Contains(t, "pppoe") {
		return data
	}
	iface := ""
	if card {
		iface = only(f.Values("connection", "interface-name"))
	}
	for _, e := range f.Entries() {
		switch e.Section + "." + e.Key {
		case "ethernet.mac-address", "802-3-ethernet.mac-address":
			e.Value = v.address(e.Value, iface, false)
		case "ethernet.mac-address-blacklist", "802-3-ethernet.mac-address-blacklist", "ethernet.mac-address-denylist":
			e.Value = eachMAC(e.Value, "", v)
		case "match.driver":
			have := strings.FieldsFunc(e.Value, func(r rune) bool { return r == ';' || r == ' ' })
			if more := v.driver(have); more != "" {
				e.Value = strings.TrimRight(e.Value, "; ") + ";" + more + ";"
			}
		case "match.path":
			list := strings.TrimRight(e.Value, "; ")
			if now := v.path(list, len(f.Values("ethernet", "mac-address")) > 0); now != list {
				e.Value = now + ";"
			}
		}
	}
	return f.Bytes()
}

// visitManager goes through the lists of cards in NetworkManager.conf(5),
// "Device List Format".
func visitManager(v *pinVisit, data []byte) []byte {
	f := ini.Parse(data)
	for _, e := range f.Entries() {
		if !slices.Contains([]string{"no-auto-default", "unmanaged-devices", "match-device", "ignore-carrier", "assume-ipv6ll-only"}, e.Key) {
			continue
		}
		e.Value = eachMAC(e.Value, "", v)
		items := strings.FieldsFunc(e.Value, func(r rune) bool { return r == ';' || r == ',' || r == ' ' })
		var drivers []string
		for _, item := range items {
			if d, ok := strings.CutPrefix(item, "driver:"); ok {
				drivers = append(drivers, d)
			}
		}
		if more := v.driver(drivers); more != "" {
			sep := ";"
			if strings.Contains(e.Value, ",") && !strings.Contains(e.Value, ";") {
				sep = ","
			}
			e.Value = strings.TrimRight(e.Value, ";, ") + sep + "driver:" + more
		}
	}
	return f.Bytes()
}
