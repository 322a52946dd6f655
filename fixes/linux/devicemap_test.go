package linux

import (
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestDeviceMapNamesNoDiskTwice: of disks that the map knows by serial number
// only the one with the boot code can be told; GRUB must not take the other for it.
func TestDeviceMapNamesNoDiskTwice(t *testing.T) {
	facts := &guest.Facts{OS: guest.OS{Family: "linux"}, TargetBus: "virtio", Disks: []guest.Disk{
		{Index: 0, Table: "dos", BootCode: "grub"}, {Index: 1, Table: "dos"}}}
	g := guesttest.NewGuest(t, "-- boot/grub/device.map --\n(hd0)\t/dev/disk/by-id/scsi-36000c29f\n(hd1)\t/dev/disk/by-id/scsi-36000c29a\n-- var/lib/ --\n", facts)
	planned, err := fixes.Plan(t.Context(), g, []fixes.Fix{grub(Options{})}, fixes.Selection{})
	if err != nil || planned.Failures() != nil {
		t.Fatal(err, planned.Failures())
	}
	if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := g.FS.(*guesttest.FS).ReadFile(t, "boot/grub/device.map"), "(hd0)\t/dev/vda\n(hd1)\t/dev/disk/by-id/scsi-36000c29a\n"; got != want {
		t.Errorf("device.map is %q, want %q", got, want)
	}
	if notes := strings.Join(planned.Results[0].Notes, "\n"); !strings.Contains(notes, "scsi-36000c29a cannot be told apart") {
		t.Errorf("notes are %q", notes)
	}
}
