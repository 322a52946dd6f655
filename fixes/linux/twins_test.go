package linux

import (
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestTwinRoot: where a second disk has the root's UUID too, grub-mkconfig must
// not be told to name the root by it: which of the two is mounted were chance.
func TestTwinRoot(t *testing.T) {
	root := guest.Filesystem{Disk: 0, Partition: 1, Type: "ext4", UUID: "7007", PartUUID: "0a-01"}
	twin := root
	twin.Disk, twin.PartUUID = 1, "0b-01"
	for _, test := range []struct {
		filesystems []guest.Filesystem
		want        string
	}{
		{[]guest.Filesystem{root}, "GRUB_DISABLE_LINUX_UUID=false\n"},
		{[]guest.Filesystem{root, twin}, "GRUB_DISABLE_LINUX_UUID=true\n"},
	} {
		facts := &guest.Facts{OS: guest.OS{Family: "linux"}, Filesystems: test.filesystems, Mounts: []guest.Mount{{Point: "/", UUID: "7007"}}}
		g := guesttest.NewGuest(t, "-- etc/default/grub --\nGRUB_DISABLE_LINUX_UUID=true\n-- var/lib/ --\n", facts)
		planned, err := fixes.Plan(t.Context(), g, []fixes.Fix{grub(Options{})}, fixes.Selection{})
		if err != nil || planned.Failures() != nil {
			t.Fatal(err, planned.Failures())
		}
		if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
			t.Fatal(err)
		}
		if got := g.FS.(*guesttest.FS).ReadFile(t, "etc/default/grub"); got != test.want {
			t.Errorf("with %d file systems: %q, want %q", len(test.filesystems), got, test.want)
		}
		if said := strings.Contains(strings.Join(planned.Results[0].Notes, "\n"), "several file systems have the root's UUID"); said != (len(test.filesystems) > 1) {
			t.Errorf("with %d file systems the notes are %q", len(test.filesystems), planned.Results[0].Notes)
		}
	}
}
