package linux

import (
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestStore: a NixOS guest has to boot now, and its owner has to know that the
// next rebuild makes the old file again.
func TestStore(t *testing.T) {
	facts := &guest.Facts{OS: guest.OS{Family: "linux"}, Filesystems: []guest.Filesystem{{Disk: 0, Partition: 1, Type: "vfat", UUID: "AB-CD"}}}
	for tree, want := range map[string]bool{
		"-- etc/fstab link=/etc/static/fstab --\n-- etc/static link=/nix/store/aa-etc --\n-- nix/store/aa-etc/fstab --\n/dev/sda1 /boot vfat defaults 0 2\n": true,
		"-- etc/fstab --\n/dev/sda1 /boot vfat defaults 0 2\n": false,
	} {
		planned, err := fixes.Plan(t.Context(), guesttest.NewGuest(t, tree, facts), []fixes.Fix{fstab(Options{})}, fixes.Selection{})
		if err != nil || planned.Failures() != nil {
			t.Fatal(err, planned.Failures())
		}
		r := planned.Results[0]
		if len(r.Changes) != 1 {
			t.Errorf("%s\nchanges %v, want one", tree, r.Changes)
		}
		if got := strings.Contains(strings.Join(r.Notes, "\n"), "etc/fstab lies in /nix/store"); got != want {
			t.Errorf("%s\nnotes are %q", tree, r.Notes)
		}
	}
}
