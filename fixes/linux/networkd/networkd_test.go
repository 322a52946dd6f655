package networkd_test

import (
	"testing"

	"hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/networkd"
)

// TestForCards reads what systemd brings along, and what people write.
func TestForCards(t *testing.T) {
	for match, want := range map[string]bool{
		"Name=6rd-*\nType=sit":                        false,
		"Virtualization=container\nName=host0":        false,
		"Kind=veth\nName=host0":                       false,
		"Name=vb-*\nDriver=veth":                      false,
		"Name=vz-*\nDriver=bridge":                    false,
		"Name=vt-*\nDriver=tun":                       false,
		"Type=wlan\nWLANInterfaceType=ad-hoc":         false,
		"":                                            false,
		"Name=ens192":                                 true,
		"Type=ether":                                  true,
		"Type=!wlan":                                  true,
		"Driver=ena ixgbevf vif":                      true,
		"MACAddress=00:50:56:aa:00:01\nDriver=!veth":  true,
		"Name=en* eth*\nType=ether\nVirtualization=1": true,
	} {
		if got := networkd.ForCards(ini.Parse([]byte("[Match]\n" + match + "\n[Network]\nDHCP=yes\n"))); got != want {
			t.Errorf("%q: %v", match, got)
		}
	}
}
