package guest_test

import (
	"testing"

	"hyper2kvm/fixes/guest"
)

func twoDisks() *guest.Facts {
	return &guest.Facts{
		Disks: []guest.Disk{
			{Index: 0, Table: "gpt", Partitions: []guest.Partition{
				{Number: 1, Label: "EFI System"}, {Number: 2}, {Number: 3, Label: "my lvm"}}},
			{Index: 1, Table: "dos", Partitions: []guest.Partition{{Number: 1}, {Number: 2}}},
			{Index: 2, Table: "none"},
		},
		Filesystems: []guest.Filesystem{
			{Disk: 0, Partition: 1, Type: "vfat", UUID: "ABCD-1234", PartUUID: "11111111-2222-3333-4444-555555555501"},
			{Disk: 0, Partition: 2, Type: "ext4", UUID: "b0070000-0000-0000-0000-000000000001", Label: "boot disk"},
			{Disk: 0, Partition: 3, Type: "LVM2_member", UUID: "IqlmpX-Ddlk-0IVK-UEWk-7UJp-YAXP-mjRUtX"},
			{Disk: 1, Partition: 1, Type: "xfs", UUID: "da7a0000-0000-0000-0000-000000000001", PartUUID: "deadbeef-01", Label: "twice"},
			{Disk: 1, Partition: 2, Type: "swap", UUID: "55550000-0000-0000-0000-000000000001", Label: "twice"},
			{Disk: 2, Type: "ext4", UUID: "f100d000-0000-0000-0000-000000000001"},
			{Disk: -1, Volume: "my-vg/root-lv", Type: "xfs", UUID: "70070000-0000-0000-0000-000000000001"},
			{Disk: -1, Volume: "md/127", Type: "ext4", UUID: "3d3d0000-0000-0000-0000-000000000001"},
			{Disk: -1, Volume: "luks/secret", Type: "ext4", UUID: "1c450000-0000-0000-0000-000000000001"},
		},
	}
}

func TestResolve(t *testing.T) {
	const none = -1
	for _, test := range []struct {
		spec, fstype string
		want         int // index in Filesystems
	}{
		{"/dev/sda1", "", 0},
		{"/dev/hda2", "", 1},
		{"/dev/vdb1", "", 3},
		{"/dev/xvdb2", "", 4},
		{"/dev/sdc", "", 5},
		{"/dev/sda", "", none}, // a partitioned disk is no file system
		{"/dev/sdd1", "", none},
		{"/dev/sdaa1", "", none},
		{"/dev/nvme0n1p2", "", 1},
		{"/dev/nvme1n1p1", "", 3},
		{"/dev/nvme0n2p1", "", 3},
		{"/dev/nvme1n2p1", "", none},
		{"/dev/cciss/c0d1p2", "", 4},
		{"/dev/mmcblk0p1", "", 0},
		{"UUID=b0070000-0000-0000-0000-000000000001", "", 1},
		{"UUID=\"B0070000-0000-0000-0000-000000000001\"", "", 1},
		{"'UUID=abcd-1234'", "", 0},
		{"UUID=", "", none},
		{"LABEL=\"boot disk\"", "", 1},
		{"LABEL=twice", "", none},
		{"PARTUUID=DEADBEEF-01", "", 3},
		{"PARTLABEL=\"my lvm\"", "", 2},
		{"/dev/disk/by-uuid/da7a0000-0000-0000-0000-000000000001", "", 3},
		{`/dev/disk/by-label/boot\x20disk`, "", 1},
		{"/dev/disk/by-partuuid/deadbeef-01", "", 3},
		{`/dev/disk/by-partlabel/my\x20lvm`, "", 2},
		{"/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part3", "", 2},
		{"/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part2", "", 4},
		{"/dev/disk/by-path/pci-0000:0b:00.0-sas-phy1-lun-0-part2", "swap", 4},
		{"/dev/disk/by-path/pci-0000:0b:00.0-sas-phy1-lun-0-part2", "", none},
		{"/dev/disk/by-path/pci-0000:00:07.1-ata-2-part1", "auto", 3},
		{"/dev/disk/by-id/scsi-36000c29aa00000000000000000000000-part2", "ext3", 1},
		{"/dev/disk/by-id/wwn-0x6000c29aa-part9", "", none},
		{"/dev/disk/by-id/dm-name-my--vg-root--lv", "", 6},
		{"/dev/disk/by-id/lvm-pv-uuid-IqlmpX-Ddlk-0IVK-UEWk-7UJp-YAXP-mjRUtX", "", 2},
		{"/dev/mapper/my--vg-root--lv", "", 6},
		{"/dev/my-vg/root-lv", "", 6},
		{"/dev/mapper/my-vg-root-lv", "", none},
		{"/dev/mapper/secret", "", 8},
		{"/dev/md127", "", 7},
		{"/dev/md/127", "", 7},
		{"/dev/", "", none},
		{"tmpfs", "", none},
		{"server:/export/home", "", none},
		{"//server/share", "", none},
		{"/dev/mapper/mpatha3", "", 2},
		{"/dev/mapper/mpathb-part2", "swap", 4},
		{"/dev/mapper/mpathbp2", "", none}, // two disks have a second partition
		{"/dev/mapper/36000c29aa0000000000000000000000bp3", "", 2},
		{"/dev/mapper/36000c29aa0000000000000000000000b", "", 5}, // the only one without a table
		{"/dev/disk/cloud/azure_root-part2", "", 1},
		{"/dev/disk/cloud/azure_resource-part1", "", none},
		{"/dev/disk/azure/scsi1/lun0-part1", "", 3},
		{"/dev/disk/by-id/google-persistent-disk-0-part3", "", 2},
		{"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0a1b-part3", "", 2},
		{"/dev/md126", "", 7}, // the only array
		{"/dev/md0", "", none},
		{"/dev/sr0", "", none},
		{"/dev/fd0", "", none},
		{"", "", none},
		{"/dev/../etc/shadow", "", none},
	} {
		f := twoDisks()
		got, ok := f.ResolveAs(test.spec, test.fstype)
		switch {
		case test.want == none && ok:
			t.Errorf("%s (%s) resolves to %+v, want nothing", test.spec, test.fstype, got)
		case test.want != none && !ok:
			t.Errorf("%s (%s) does not resolve, want %+v", test.spec, test.fstype, f.Filesystems[test.want])
		case ok && got != &f.Filesystems[test.want]:
			t.Errorf("%s (%s) resolves to %+v, want %+v", test.spec, test.fstype, got, f.Filesystems[test.want])
		}
	}
}

// TestAmbiguousIsNotMissing: a disk that is there under a name that cannot be
// told apart must not be taken for one that was left behind.
func TestAmbiguousIsNotMissing(t *testing.T) {
	for spec, want := range map[string]bool{
		"/dev/mapper/mpathb2": true, "/dev/disk/by-id/scsi-36000c29-part2": true, "/dev/disk/by-path/pci-0000:0b:00.0-sas-phy1-lun-0-part2": true,
		"/dev/mapper/mpathb9": false, "/dev/disk/by-id/scsi-36000c29-part3": false, "/dev/sdz1": false, "UUID=x": false,
	} {
		if got := twoDisks().Ambiguous(spec, ""); got != want {
			t.Errorf("Ambiguous(%s) = %v", spec, got)
		}
	}
	if twoDisks().Ambiguous("/dev/mapper/mpathb2", "swap") {
		t.Error("the content tells them apart")
	}
}

func TestResolveBtrfsMembers(t *testing.T) {
	f := &guest.Facts{Filesystems: []guest.Filesystem{
		{Disk: 0, Partition: 1, Type: "btrfs", UUID: "aa"}, {Disk: 1, Partition: 1, Type: "btrfs", UUID: "aa"}}}
	if got, ok := f.Resolve("UUID=aa"); !ok || got != &f.Filesystems[0] {
		t.Errorf("two members of one btrfs resolve to %v, %v", got, ok)
	}
	f.Filesystems[1].Type = "ext4"
	if _, ok := f.Resolve("UUID=aa"); ok {
		t.Error("a UUID on two file systems resolves")
	}
}

func TestUnstable(t *testing.T) {
	for spec, want := range map[string]bool{
		"/dev/sda1": true, "/dev/nvme0n1p1": true, "/dev/cciss/c0d0p1": true, "/dev/vda": true,
		"/dev/disk/by-path/x-part1": true, "/dev/disk/by-id/wwn-0x1-part1": true,
		"/dev/mapper/mpatha": true, "/dev/mapper/mpathap1": true, "/dev/disk/cloud/azure_root-part1": true, "/dev/disk/azure/root": true,
		"/dev/mapper/mpath": false, "/dev/mapper/mpath-a": false,
		"/dev/disk/by-id/dm-name-vg-lv": false, "/dev/disk/by-uuid/x": false, "UUID=x": false,
		"/dev/mapper/vg-lv": false, "/dev/vg/lv": false, "/dev/md0": false, "tmpfs": false, "/dev/sr0": false,
	} {
		if got := guest.Unstable(spec); got != want {
			t.Errorf("Unstable(%q) = %v, want %v", spec, got, want)
		}
	}
}
