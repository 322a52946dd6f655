package domain

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"
)

var update = flag.Bool("update", false, "write the golden files anew")

func machines() map[string]Config {
	return map[string]Config{
		"bios": {Name: "web01", Disks: []Disk{{Path: "/var/lib/libvirt/images/web01.qcow2"}},
			NICs: []NIC{{MAC: "00:50:56:AB:CD:EF"}}},
		"uefi": {Name: "db & co <1>", UUID: "3f1a6c1e-5d42-4b0c-9d0a-0123456789ab", Memory: 8<<30 + 1, CPUs: 4, Firmware: "uefi",
			Disks: []Disk{
				{Path: "/data/db-sda.qcow2", Bus: "scsi"},
				{Path: "/data/a \"quoted\" & odd name.img", Format: "raw", Bus: "scsi", Boot: 1},
				{Path: "/dev/vg0/lv", Format: "raw", Bus: "virtio", Block: true, Boot: 2},
			},
			NICs: []NIC{{MAC: "00:0c:29:00:00:01", Network: "lan"}, {Model: "e1000e"}}},
		"secureboot": {Name: "sb", Firmware: "uefi", SecureBoot: true, Emulated: true,
			Disks: []Disk{{Path: "/d.qcow2", Bus: "sata"}}},
		"old": {Name: "rhel5", Machine: "pc", LocalTime: true, CPUs: 1, Memory: 512 << 20,
			Disks: []Disk{{Path: "/d.qcow2", Bus: "sata"}, {Path: "/e.qcow2", Bus: "sata"}}, NICs: []NIC{{Model: "e1000"}}},
		"native4k":        {Name: "4Kn", Firmware: "uefi", Disks: []Disk{{Path: "/d.qcow2", Sector: 4096}, {Path: "/e.qcow2", Sector: 512}}},
		"rhel6":           {Name: "rhel6", Transitional: true, Disks: []Disk{{Path: "/d.qcow2"}, {Path: "/e.qcow2", Bus: "scsi"}}, NICs: []NIC{{}, {Model: "e1000"}}},
		"rhel9":           {Name: "rhel9", CPU: "x86-64-v2", Disks: []Disk{{Path: "/d.qcow2"}}},
		"rhel10":          {Name: "rhel10", CPU: "x86-64-v3", Firmware: "uefi", Disks: []Disk{{Path: "/d.qcow2"}}},
		"rhel10-emulated": {Name: "rhel10", CPU: "x86-64-v3", Emulated: true, Disks: []Disk{{Path: "/d.qcow2"}}},
		"diskless":        {Name: "empty"},
	}
}

func TestGolden(t *testing.T) {
	for name, c := range machines() {
		got, err := XML(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		path := filepath.Join("testdata", name+".xml")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestSchema asks libvirt itself.
func TestSchema(t *testing.T) {
	if _, err := exec.LookPath("virt-xml-validate"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("virt-xml-validate is needed (packages libvirt-clients, libxml2-utils)")
		}
		t.Skip("virt-xml-validate is not installed (packages libvirt-clients, libxml2-utils)")
	}
	validate := func(xml []byte) (string, error) {
		path := filepath.Join(t.TempDir(), "d.xml")
		if err := os.WriteFile(path, xml, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "virt-xml-validate", path, "domain").CombinedOutput()
		return string(out), err
	}
	for name, c := range machines() {
		xml, err := XML(c)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := validate(xml); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := validate(bytes.Replace(xml, []byte("<disk "), []byte("<disk wrong='1' "), 1)); err == nil && len(c.Disks) > 0 {
			t.Errorf("%s: the validator takes anything: %s", name, out)
		}
	}
}

func TestParsesBack(t *testing.T) {
	c := machines()["uefi"]
	xml, err := XML(c)
	if err != nil {
		t.Fatal(err)
	}
	var d libvirtxml.Domain
	if err := d.Unmarshal(string(xml)); err != nil {
		t.Fatal(err)
	}
	if d.Name != c.Name || d.UUID != c.UUID || d.Devices.Disks[1].Source.File.File != c.Disks[1].Path {
		t.Errorf("name %q, UUID %s, path %q", d.Name, d.UUID, d.Devices.Disks[1].Source.File.File)
	}
	var targets []string
	for _, x := range d.Devices.Disks {
		targets = append(targets, x.Target.Dev)
	}
	if got := strings.Join(targets, " "); got != "sda sdb vda" {
		t.Errorf("targets %s", got)
	}
}

func TestUUIDIsStable(t *testing.T) {
	c := Config{Name: "a", Disks: []Disk{{Path: "/x"}}}
	first, err := XML(c)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := XML(c); !bytes.Equal(first, again) {
		t.Error("the same machine gives two texts")
	}
	c.Disks[0].Path = "/y"
	if other, _ := XML(c); bytes.Contains(other, first[bytes.Index(first, []byte("<uuid>")):][:42]) {
		t.Error("two machines have one UUID")
	}
}

func TestRefusals(t *testing.T) {
	for what, c := range map[string]Config{
		"no name": {}, "blank name": {Name: "  "}, "slash": {Name: "a/b"}, "newline": {Name: "a\nb"},
		"firmware": {Name: "a", Firmware: "efi"}, "machine": {Name: "a", Machine: "virt"},
		"secure boot on BIOS": {Name: "a", SecureBoot: true}, "memory": {Name: "a", Memory: -1}, "CPUs": {Name: "a", CPUs: -1},
		"relative path": {Name: "a", Disks: []Disk{{Path: "x.qcow2"}}}, "bus": {Name: "a", Disks: []Disk{{Path: "/x", Bus: "nvme"}}},
		"MAC": {Name: "a", NICs: []NIC{{MAC: "00:11"}}}, "group MAC": {Name: "a", NICs: []NIC{{MAC: "01:00:5e:00:00:01"}}},
		"UUID": {Name: "a", UUID: "x"},
	} {
		if out, err := XML(c); !errors.Is(err, ErrConfig) || out != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLetters(t *testing.T) {
	for i, want := range map[int]string{0: "a", 25: "z", 26: "aa", 51: "az", 52: "ba", 701: "zz", 702: "aaa"} {
		if got := Letters(i); got != want {
			t.Errorf("Letters(%d) = %s, want %s", i, got, want)
		}
	}
}
