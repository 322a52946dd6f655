package linux

import (
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestMapperIDsStay: Ubuntu's installer names logical volumes by the UUIDs of
// group and volume, and others name arrays by theirs. Neither changes in a move,
// and which it is the facts do not tell: that it is gone must not be said.
func TestMapperIDsStay(t *testing.T) {
	const tree = `-- etc/fstab --
/dev/disk/by-id/dm-uuid-LVM-q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6j7k8l9z0x1c2v3b4n5m6q7w8e9r0t1y2 / ext4 defaults 0 0
/dev/disk/by-id/dm-uuid-LVM-q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa /home ext4 defaults 0 0
/dev/disk/by-id/md-uuid-3aaa0122:29827cfa:5331ad66:ca767371 /srv xfs defaults 0 0
/dev/disk/by-id/dm-name-vg0-gone /gone xfs defaults 0 0
`
	facts := &guest.Facts{OS: guest.OS{Family: "linux"}, Filesystems: []guest.Filesystem{
		{Disk: -1, Volume: "vg0/root", Type: "ext4", UUID: "7007"}, {Disk: -1, Volume: "md/0", Type: "xfs", UUID: "3d3d"}}}
	g := guesttest.NewGuest(t, tree, facts)
	planned, err := fixes.Plan(t.Context(), g, []fixes.Fix{fstab(Options{})}, fixes.Selection{})
	if err != nil || planned.Failures() != nil {
		t.Fatal(err, planned.Failures())
	}
	if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
		t.Fatal(err)
	}
	const want = `/dev/disk/by-id/dm-uuid-LVM-q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6j7k8l9z0x1c2v3b4n5m6q7w8e9r0t1y2 / ext4 defaults 0 0
/dev/disk/by-id/dm-uuid-LVM-q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa /home ext4 defaults 0 0
/dev/disk/by-id/md-uuid-3aaa0122:29827cfa:5331ad66:ca767371 /srv xfs defaults 0 0
/dev/disk/by-id/dm-name-vg0-gone /gone xfs defaults,nofail,x-systemd.device-timeout=5s 0 0
`
	if got := g.FS.(*guesttest.FS).ReadFile(t, "etc/fstab"); got != want {
		t.Errorf("fstab is\n%s\nwant\n%s", got, want)
	}
	if notes := planned.Results[0].Notes; len(notes) != 1 {
		t.Errorf("notes are %q, want one of /gone", notes)
	}
}
