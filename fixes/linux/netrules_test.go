package linux

import (
	"strings"
	"testing"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestRuleBesideLink asks which guests need a rule of udev beside, or in the
// place of, a .link file.
func TestRuleBesideLink(t *testing.T) {
	const (
		udev  = "-- usr/lib/udev/rules.d/80-net-setup-link.rules --\n"
		links = "-- usr/lib/systemd/network/99-default.link --\n"
	)
	for name, test := range map[string]struct {
		os, init, tree string
		rule, link     bool
	}{
		"Debian 12":              {"debian", "systemd", udev + links + "-- usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so --\n", false, true},
		"Ubuntu 18.04":           {"ubuntu", "systemd", udev + links + "-- lib/systemd/libsystemd-shared-237.so --\n", true, true},
		"Ubuntu 16.04":           {"ubuntu", "systemd", udev + links, true, true},
		"Ubuntu 14.04":           {"ubuntu", "upstart", "-- lib/udev/rules.d/75-persistent-net-generator.rules --\n", true, false},
		"SLES 15 SP1":            {"sles", "systemd", udev + links + "-- usr/lib/systemd/libsystemd-shared-234.so --\n", true, true},
		"SLES 15 SP5":            {"sles", "systemd", udev + links + "-- usr/lib/systemd/libsystemd-shared-249.so --\n", false, true},
		"RHEL 9":                 {"rhel", "systemd", udev + links + "-- usr/lib/systemd/libsystemd-shared-252-32.el9_4.so --\n", true, true},
		"RHEL 7.1":               {"rhel", "systemd", "-- usr/lib/udev/rules.d/80-net-name-slot.rules --\n", true, false},
		"Arch":                   {"arch", "systemd", udev + links + "-- usr/lib/systemd/libsystemd-shared-256.4-1.so --\n", false, true},
		"Alpine, without udev":   {"alpine", "openrc", "-- etc/mdev.conf --\n", false, false},
		"Alpine, with eudev":     {"alpine", "openrc", "-- usr/lib/udev/rules.d/80-net-name-slot.rules --\n", true, false},
		"a system nobody knows":  {"x", "systemd", "", false, true},
		"its udev is all we see": {"x", "", udev + links + "-- usr/lib/systemd/libsystemd-shared-255.so --\n", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			tree := guesttest.New(t, test.tree)
			g := &guest.Guest{FS: tree, Facts: &guest.Facts{OS: guest.OS{Family: "linux", ID: test.os}, Init: test.init, NICs: []guest.NIC{{MAC: newMAC, Name: "ens192"}}}}
			p, err := network().Plan(t.Context(), g)
			if err != nil {
				t.Fatal(err)
			}
			applyTo(t, tree, p.Changes)
			_, err = tree.Stat(networkDir + "/10-hyper2kvm-ens192.link")
			if (err == nil) != test.link {
				t.Errorf(".link file: %v", err)
			}
			_, err = tree.Stat(rulesFile)
			if (err == nil) != test.rule {
				t.Fatalf("rule: %v", err)
			}
			if test.rule && !strings.Contains(tree.ReadFile(t, rulesFile), `ATTR{address}=="`+newMAC+`"`) {
				t.Errorf("rules are %q", tree.ReadFile(t, rulesFile))
			}
		})
	}
}
