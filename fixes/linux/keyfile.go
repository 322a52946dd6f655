package linux

import (
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/ini"
)

const keyfileDir = "etc/NetworkManager/system-connections"

// visitKeyfile goes through a profile of NetworkManager (nm-settings-keyfile(5)).
// cloned-mac-address is an address that the card is given, and stays.
func visitKeyfile(v *pinVisit, data []byte) []byte {
	f := ini.Parse(data)
	t := f.Values("connection", "type")
	if !slices.Contains(t, "ethernet") && !slices.Contains(t, "802-3-ethernet") {
		return data
	}
	iface := only(f.Values("connection", "interface-name"))
	for _, e := range f.Entries() {
		switch e.Section + "." + e.Key {
		case "ethernet.mac-address", "802-3-ethernet.mac-address":
			e.Value = v.address(e.Value, iface, false)
		case "match.driver":
			have := strings.FieldsFunc(e.Value, func(r rune) bool { return r == ';' || r == ' ' })
			if more := v.driver(have); more != "" {
				e.Value = strings.TrimRight(e.Value, "; ") + ";" + more + ";"
			}
		case "match.path":
			list := strings.TrimRight(e.Value, "; ")
			if now := v.path(list); now != list {
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
