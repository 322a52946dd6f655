package linux

import (
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestShares: a folder of the host that a hypervisor gave is not there on KVM,
// whichever it was; the boot must go on without it.
func TestShares(t *testing.T) {
	for row, want := range map[string]string{
		".host:/ /mnt/hgfs fuse.vmhgfs-fuse defaults 0 0": "VMware",
		"share /mnt/share vboxsf rw,uid=1000 0 0":         "VirtualBox",
		"none /media/psf prl_fs nosuid 0 0":               "Parallels",
		"host:/export /mnt nfs4 defaults 0 0":             "",
	} {
		g := guesttest.NewGuest(t, "-- etc/fstab --\n"+row+"\n", &guest.Facts{OS: guest.OS{Family: "linux"}})
		planned, err := fixes.Plan(t.Context(), g, []fixes.Fix{fstab(Options{})}, fixes.Selection{})
		if err != nil || planned.Failures() != nil {
			t.Fatal(err, planned.Failures())
		}
		notes := strings.Join(planned.Results[0].Notes, "\n")
		switch {
		case want == "" && planned.Pending():
			t.Errorf("%s is changed", row)
		case want != "" && (!planned.Pending() || !strings.Contains(planned.Results[0].Diff, "noauto,nofail") || !strings.Contains(notes, want)):
			t.Errorf("%s: notes %q, changes\n%s", row, notes, planned.Results[0].Diff)
		}
	}
}
