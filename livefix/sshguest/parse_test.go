package sshguest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
)

// What a RHEL guest with LVM, LUKS and a bond prints.
const rhel = `@firmware
uefi
@block nvme0n1
dev=259:0
size=41943040
queue/logical_block_size=512
path=/sys/devices/pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1
ID_PART_TABLE_TYPE=gpt
ID_PART_TABLE_UUID=1B2C3D4E-0000-4000-8000-000000000001
@block nvme0n1p1
dev=259:1
size=1228800
partition=1
start=2048
path=/sys/devices/pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1/nvme0n1p1
ID_FS_TYPE=vfat
ID_FS_UUID=ABCD-1234
ID_PART_ENTRY_UUID=11111111-2222-3333-4444-555555555501
ID_PART_ENTRY_TYPE=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
ID_PART_ENTRY_NAME=EFI\x20System\x20Partition
@block nvme0n1p2
dev=259:2
size=40710144
partition=2
start=1230848
path=/sys/devices/pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1/nvme0n1p2
ID_FS_TYPE=crypto_LUKS
ID_FS_UUID=10c50000-0000-4000-8000-000000000001
@block dm-0
dev=253:0
size=40677376
dm/name=luks-10c50000
dm/uuid=CRYPT-LUKS2-10c50000000040008000000000000001-luks-10c50000
path=/sys/devices/virtual/block/dm-0
ID_FS_TYPE=LVM2_member
ID_FS_UUID=IqlmpX-Ddlk-0IVK-UEWk-7UJp-YAXP-mjRUtX
@block dm-1
dev=253:1
size=33554432
dm/name=rhel--vm-root
dm/uuid=LVM-abc
path=/sys/devices/virtual/block/dm-1
@block md127
dev=9:127
size=2048
md/level=raid1
path=/sys/devices/virtual/block/md127
ID_FS_TYPE=ext4
ID_FS_UUID=3d3d0000-0000-4000-8000-000000000001
@blkid
/dev/mapper/rhel--vm-root: LABEL="the root" UUID="70070000-0000-4000-8000-000000000001" BLOCK_SIZE="512" TYPE="xfs"
@card ens3f0
address=00:50:56:01:02:03
@card ens3f1
address=00:50:56:01:02:03
bonding_slave/perm_hwaddr=00:50:56:01:02:04
@mountinfo
25 1 253:1 / / rw,relatime shared:1 - xfs /dev/mapper/rhel--vm-root rw,attr2
30 25 259:1 / /boot/efi ro,relatime shared:2 - vfat /dev/nvme0n1p1 rw
31 25 0:22 / /proc rw - proc proc rw
32 25 9:127 / /srv/with\040blank rw - ext4 /dev/md127 rw
33 25 9:127 /sub /mnt rw - ext4 /dev/md127 rw
`

func TestParseMachine(t *testing.T) {
	f := parseMachine([]byte(rhel))
	if f.Firmware != "uefi" || len(f.Disks) != 1 || f.Disks[0].Index != 0 || f.Disks[0].Table != "gpt" || f.Disks[0].Size != 20<<30 {
		t.Errorf("firmware %s, disks %+v", f.Firmware, f.Disks)
	}
	if p := f.Disks[0].Partitions; len(p) != 2 || p[0].Type != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" || p[0].Label != "EFI System Partition" || p[0].Start != 1<<20 {
		t.Errorf("partitions %+v", p)
	}
	var got []string
	for _, s := range f.Filesystems {
		got = append(got, strings.TrimSpace(s.Volume+" "+s.Type+" "+s.UUID))
	}
	want := []string{
		"vfat ABCD-1234", "crypto_LUKS 10c50000-0000-4000-8000-000000000001", "luks/luks-10c50000 LVM2_member IqlmpX-Ddlk-0IVK-UEWk-7UJp-YAXP-mjRUtX",
		"rhel-vm/root xfs 70070000-0000-4000-8000-000000000001", "md/127 ext4 3d3d0000-0000-4000-8000-000000000001",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var mounts []string
	for _, m := range f.Mounts {
		mounts = append(mounts, m.Point+" "+m.UUID+" "+m.Opts)
	}
	if diff := cmp.Diff([]string{"/ 70070000-0000-4000-8000-000000000001 ", "/boot/efi ABCD-1234 ro", "/srv/with blank 3d3d0000-0000-4000-8000-000000000001 "}, mounts); diff != "" {
		t.Error(diff)
	}
	cards := []guest.NIC{{MAC: "00:50:56:01:02:03", Name: "ens3f0", From: "the running guest"}, {MAC: "00:50:56:01:02:04", Name: "ens3f1", From: "the running guest"}}
	if diff := cmp.Diff(cards, f.NICs); diff != "" {
		t.Error(diff)
	}
	if s, ok := f.Resolve("/dev/mapper/rhel--vm-root"); !ok || s.Label != "the root" {
		t.Errorf("the root resolves to %+v, %v", s, ok)
	}
}

// The disks keep the order of their names: a hole where sda is a CD must not
// make sdb the first.
func TestDiskOrder(t *testing.T) {
	f := parseMachine([]byte("@block sdc\nsize=10\n@block sdaa\nsize=10\n@block sdb\nsize=10\n@block nvme0n1\nsize=10\n@block sda\nsize=0\n"))
	var got []int
	for _, d := range f.Disks {
		got = append(got, d.Index)
	}
	if !slices.Equal(got, []int{0, 1, 2, 26}) || f.Disks[1].Device != "/dev/sdb" || f.Disks[0].Device != "/dev/nvme0n1" {
		t.Errorf("%+v", f.Disks)
	}
}

func FuzzParseMachine(f *testing.F) {
	f.Add([]byte(rhel))
	f.Add([]byte("@block x\n@mountinfo\n1 2 3 - - -\n@mounts\n/dev/sda1 /\\040 ext4 rw\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		facts := parseMachine(data)
		seen := map[int]bool{}
		for _, d := range facts.Disks {
			if d.Index < 0 || seen[d.Index] {
				t.Fatalf("disk index %d twice, or none", d.Index)
			}
			seen[d.Index] = true
		}
		for _, s := range facts.Filesystems {
			if s.Type == "" || s.Disk >= 0 && !seen[s.Disk] || s.Disk < 0 && s.Volume == "" {
				t.Fatalf("file system nowhere: %+v", s)
			}
		}
	})
}

func FuzzParseXattrs(f *testing.F) {
	f.Add([]byte("# file: /etc/fstab\nsecurity.selinux=0x73797374656d00\nuser.empty\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		have, err := parseXattrs(data)
		if err != nil && have != nil {
			t.Fatal("attributes beside an error")
		}
	})
}

func FuzzWithoutMatch(f *testing.F) {
	f.Add([]byte("Host a\n Port 1\nMatch exec true\n Port 2\nmatch host b*\n Port 3\nMatch all\nHost=c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out := withoutMatch(data, func(int, string) {})
		if strings.Count(string(out), "\n") != strings.Count(string(data), "\n") || len(out) < len(data) {
			t.Fatal("lines are lost")
		}
	})
}

func TestParseTarget(t *testing.T) {
	for spec, want := range map[string]Target{
		"web01":                 {Host: "web01"},
		"root@web01":            {Host: "web01", User: "root"},
		"a@b@web01:2222":        {Host: "web01", User: "a@b", Port: 2222},
		"ssh://root@web01:22/":  {Host: "web01", User: "root", Port: 22},
		"[fe80::1]":             {Host: "fe80::1"},
		"admin@[2001:db8::1]:2": {Host: "2001:db8::1", User: "admin", Port: 2},
	} {
		got, err := ParseTarget(spec)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s is %+v, %v", spec, got, err)
		}
	}
	for _, spec := range []string{"", "@web01", "root@", "web01:0", "web01:70000", "-oProxyCommand=x", "a b", "'x'"} {
		if got, err := ParseTarget(spec); err == nil {
			t.Errorf("%q is taken as %+v", spec, got)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add("ssh://root@web01:22/")
	f.Fuzz(func(t *testing.T, spec string) {
		if got, err := ParseTarget(spec); err == nil && (got.Host == "" || strings.HasPrefix(got.Host, "-") || got.Port < 0 || got.Port > 65535) {
			t.Fatalf("%q is taken as %+v", spec, got)
		}
	})
}

func TestNoSpace(t *testing.T) {
	for words, want := range map[string]bool{
		"/dev/sda1 1000 1000 0 100% / inodes /dev/sda1 100 50 50 50% /":    true,
		"/dev/sda1 1000 500 500 50% / inodes /dev/sda1 100 100 0 100% /":   true,
		"/dev/sda1 1000 500 500 50% / inodes /dev/sda1 100 50 50 50% /":    false,
		"/dev/sda1 1000 500 500 50% / inodes":                              false,
		"/dev/sda1 1000 500 500 50% / inodes /dev/sda1 0 0 0 - /mnt/btrfs": false,
	} {
		if got := noSpace([]byte(words)); got != want {
			t.Errorf("%s: %v", words, got)
		}
	}
}
