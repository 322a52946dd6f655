package ovf_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/formats"
	"hyper2kvm/formats/ovf"
)

var update = flag.Bool("update", false, "write the golden files anew")

// machines reads a description of either kind.
func machines(name string, text []byte) ([]ovf.Machine, error) {
	if filepath.Ext(name) == ".vmx" {
		m, err := ovf.ParseVMX(text)
		if err != nil {
			return nil, err
		}
		return []ovf.Machine{*m}, nil
	}
	env, err := ovf.Parse(text)
	if err != nil {
		return nil, err
	}
	return env.Machines, nil
}

// What each dialect says becomes one and the same kind of machine.
func TestMachines(t *testing.T) {
	for _, name := range []string{"vmware-uefi.ovf", "virtualbox.ovf", "draft09.ovf", "two.ovf", "web01.vmx"} {
		path := filepath.Join("testdata", name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := machines(name, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, '\n')
		if *update {
			if err := os.WriteFile(path+".json", data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(data)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// Descriptions of real machines, as virt-v2v's tests have them.
func TestRealMachines(t *testing.T) {
	root := os.Getenv("H2K_TESTDATA")
	if root == "" {
		t.Skip("H2K_TESTDATA is not set: descriptions of real machines lie there")
	}
	for name, want := range map[string]string{
		"test-i-ova.ovf":           "TestOva 1 2048 bios false 1 test-ova.vmdk 1 VM Network",
		"test-i-ova-two-disks.ovf": "2K8R2EESP1_2_Medium 1 1024 bios false 2 disk1.vmdk 1 PG-VLAN60",
		"test-i-ova-gz.ovf":        "2K8R2EESP1_2_Medium 1 1024 bios false 1 disk1.vmdk.gz 1 PG-VLAN60",
		"test-i-ova-snapshots.ovf": "2K8R2EESP1_2_Medium 1 1024 uefi false 1 disk1.vmdk 1 PG-VLAN60",
		"test-i-vmx-1.vmx":         "BZ1308535_21disks 1 2048 bios false 21 BZ1308535_21disks.vmdk 1 VM Network",
		"test-i-vmx-2.vmx":         "Fedora 20 1 2048 bios false 1 Fedora-20.vmdk 1 VM Network",
		"test-i-vmx-3.vmx":         "RHEL 7.1 UEFI 1 2048 uefi false 1 RHEL-7.1-UEFI.vmdk 1 VM Network",
	} {
		text, err := os.ReadFile(filepath.Join(root, "ovf", name))
		if err != nil {
			t.Fatal(err)
		}
		list, err := machines(name, text)
		if err != nil || len(list) != 1 {
			t.Errorf("%s: %d machines, %v", name, len(list), err)
			continue
		}
		m := list[0]
		got := fmt.Sprint(m.Name, " ", m.CPUs, " ", m.Memory>>20, " ", m.Firmware, " ", m.SecureBoot, " ", len(m.Disks), " ",
			m.Disks[0].File.Name, " ", len(m.NICs), " ", m.NICs[0].Network)
		if got != want {
			t.Errorf("%s: %s; want %s", name, got, want)
		}
		for i, d := range m.Disks {
			if i > 0 && !strings.HasSuffix(strings.TrimSuffix(d.File.Name, ".vmdk"), fmt.Sprint(i)) && name == "test-i-vmx-1.vmx" {
				t.Errorf("%s: disk %d is %s", name, i, d.File.Name)
			}
		}
	}
}

const head = `<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">`

// What cannot be used is refused, and as what it is.
func TestBadDescriptors(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"nothing", "", formats.ErrFormat, "no XML"},
		{"text", "hello", formats.ErrFormat, ""},
		{"page", "<html><body/></html>", formats.ErrFormat, "<html>"},
		{"cut off", head + "<References>", formats.ErrTruncated, "line 1"},
		{"wrong end", head + "<A></B></Envelope>", formats.ErrCorrupt, "line 1"},
		{"no machine", head + "</Envelope>", formats.ErrUnsupported, "no virtual machine"},
		{"entities", `<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>` + head + "&b;</Envelope>", formats.ErrUnsupported, "document type"},
		{"outside entity", `<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/shadow">]>` + head + "&a;</Envelope>", formats.ErrUnsupported, "document type"},
		{"unknown entity", head + "&a;</Envelope>", formats.ErrCorrupt, "entity"},
		{"deep", head + strings.Repeat("<a>", 10_000), formats.ErrUnsupported, "deeper"},
		{"wide", head + strings.Repeat("<a/>", 300_000) + "</Envelope>", formats.ErrUnsupported, "more than"},
		{"huge", strings.Repeat(" ", 17<<20), formats.ErrUnsupported, "at most"},
		{"charset", `<?xml version="1.0" encoding="EBCDIC-FR"?>` + head + "<a>\xc4</a></Envelope>", formats.ErrUnsupported, "EBCDIC"},
		{"no file", head + `<DiskSection><Disk diskId="d" fileRef="f"/></DiskSection></Envelope>`, formats.ErrCorrupt, `"f"`},
		{"cards", head + `<VirtualSystem id="x"><VirtualHardwareSection>` + strings.Repeat("<Item><ResourceType>10</ResourceType></Item>", 2000) +
			"</VirtualHardwareSection></VirtualSystem></Envelope>", formats.ErrUnsupported, "network cards"},
		{"capacity", head + `<DiskSection><Disk diskId="d" capacity="9e99"/></DiskSection></Envelope>`, formats.ErrCorrupt, "9e99"},
		{"too large", head + `<DiskSection><Disk diskId="d" capacity="9" capacityAllocationUnits="byte * 2^60 * 2^60"/></DiskSection></Envelope>`, formats.ErrCorrupt, ""},
		{"tower", head + `<DiskSection><Disk diskId="d" capacity="9" capacityAllocationUnits="byte * 9^999999999"/></DiskSection></Envelope>`, formats.ErrCorrupt, ""},
	} {
		_, err := ovf.Parse([]byte(c.text))
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v that says %q", c.name, err, c.want, c.says)
		}
	}
}

// A description that is wrong all over is not told at length.
func TestWarningsAreBounded(t *testing.T) {
	item := "<Item><InstanceID>1</InstanceID><ResourceType>17</ResourceType><HostResource>nowhere</HostResource></Item>"
	disks := "<DiskSection>"
	for i := range 500 {
		disks += fmt.Sprintf(`<Disk diskId="d%d" capacity="9"/>`, i)
	}
	env, err := ovf.Parse([]byte(head + disks + `</DiskSection><VirtualSystem id="x"><VirtualHardwareSection>` + strings.Repeat(item, 5000) +
		"<Item><ResourceType>17</ResourceType><HostResource>/disk/d1</HostResource></Item></VirtualHardwareSection></VirtualSystem></Envelope>"))
	if err != nil {
		t.Fatal(err)
	}
	if w := env.Machines[0].Warnings; len(w) > 102 || !strings.Contains(w[len(w)-1], "more of the kind") {
		t.Errorf("%d warnings, the last one %q", len(w), w[len(w)-1])
	}
	vmx := "config.version = \"8\"\n"
	for i := range 250 {
		vmx += fmt.Sprintf("scsi%d:0.filename = \"a.vmdk\"\n", i)
	}
	if m, err := ovf.ParseVMX([]byte(vmx)); err != nil || len(m.Warnings) != 101 {
		t.Errorf("VMX: %+v, %v", m, err)
	}
}

// A disk that is its own ancestor ends.
func TestCircle(t *testing.T) {
	_, err := ovf.Parse([]byte(head + `<References><File id="f" href="f"/></References><DiskSection>
		<Disk diskId="a" fileRef="f" parentRef="b"/><Disk diskId="b" fileRef="f" parentRef="a"/></DiskSection>
		<VirtualSystem id="x"><VirtualHardwareSection><Item><InstanceID>1</InstanceID><ResourceType>17</ResourceType>
		<HostResource>ovf:/disk/a</HostResource></Item></VirtualHardwareSection></VirtualSystem></Envelope>`))
	if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "ancestor") {
		t.Errorf("got %v", err)
	}
}

// Descriptors in UTF-16, as some tools on Windows write them.
func TestUTF16(t *testing.T) {
	text := "\xff\xfe"
	for _, r := range `<?xml version="1.0" encoding="utf-16"?>` + head + `<VirtualSystem id="büro"/></Envelope>` {
		text += string([]byte{byte(r), byte(r >> 8)})
	}
	env, err := ovf.Parse([]byte(text))
	if err != nil || env.Machines[0].ID != "büro" {
		t.Errorf("%+v, %v", env, err)
	}
}

func TestVMXOfOtherThings(t *testing.T) {
	for _, text := range []string{"", "hello\n", "a = \"b\"\n", "# config.version = \"8\"\n"} {
		if _, err := ovf.ParseVMX([]byte(text)); !errors.Is(err, formats.ErrFormat) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ovf.ParseVMX([]byte(".encoding = \"Shift_JIS\"\nconfig.version = \"8\"\ndisplayName = \"\x83\x65\"\n")); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("unknown encoding: %v", err)
	}
	if _, err := ovf.ParseVMX(make([]byte, 2<<20)); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("huge file: %v", err)
	}
}
