package netplan

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `# written by hand — ünïcode
network:
    version: 2
    ethernets:
        ens192:   # the LAN
            match: {macaddress: '00:50:56:AA:00:01', driver: [ vmxnet3 ]}
            set-name: ens192
            addresses: [ "10.0.0.5/24" ]
        "lan":
            match:
                macaddress: &m "00:50:56:aa:00:02"
                driver:
                    - "vmxnet3"
                    - e1000
        dmz:
            match:
              driver: vmxnet3   # any of them
            dhcp4: yes
    bonds:
        bond0: {interfaces: [ens192, lan]}
`

func TestEdit(t *testing.T) {
	f, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Devices() {
		if d.MAC != nil {
			d.MAC.Text = strings.Replace(d.MAC.Text, "00:50:56", "52:54:00", 1)
		}
		if len(d.Drivers) > 0 && d.Drivers[0].InList() {
			d.Drivers[0].After("virtio_net")
		} else if len(d.Drivers) > 0 {
			d.Drivers[0].Text = "v*net*"
		}
		if d.SetName != nil {
			d.SetName.Text = "wan0"
		}
	}
	got, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		"'00:50:56:AA:00:01'", "'52:54:00:AA:00:01'", "[ vmxnet3 ]", "[ vmxnet3, virtio_net ]",
		"set-name: ens192", "set-name: wan0", `&m "00:50:56`, `&m "52:54:00`,
		`- "vmxnet3"`, "- \"vmxnet3\"\n                    - \"virtio_net\"",
		"driver: vmxnet3   #", "driver: \"v*net*\"   #",
	).Replace(sample)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestInterfaces(t *testing.T) {
	var files []*File
	for _, text := range []string{sample, "network: {ethernets: {lan: {set-name: lan0}, dmz: {}, eth9: {}}}", "", "network:\n", "[]"} {
		f, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	got := map[string]string{}
	for _, d := range Merge(files) {
		got[d.ID] = d.Interface()
		if d.MAC != nil {
			got[d.ID] += " " + d.MAC.Text
		}
	}
	want := map[string]string{"ens192": "ens192 00:50:56:AA:00:01", "lan": "lan0 00:50:56:aa:00:02", "dmz": "", "eth9": "eth9", "bond0": "bond0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPlacesThatAreNotEdited(t *testing.T) {
	for _, text := range []string{
		"network: {ethernets: {a: {match: {macaddress: \"00:50:56:01:0\\x32:03\"}}}}",
		"network: {ethernets: {a: {match: {macaddress: !!str 00:50:56:01:02:03}}}}",
		"network: {ethernets: {a: {match: {macaddress: >-\n  00:50:56:01:02:03\n}}}}",
		"network: {ethernets: {a: {match: &x {macaddress: 00:50:56:01:02:03}}, b: {match: *x}}}",
	} {
		f, err := Parse([]byte(text))
		if err != nil {
			continue
		}
		for _, d := range f.Devices() {
			if d.MAC != nil {
				d.MAC.Text = "52:54:00:01:02:03"
			}
		}
		if _, err := f.Bytes(); !errors.Is(err, ErrPlace) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestExamples reads netplan's own examples: nothing changes when nothing is
// to, and one value at a time when one is.
func TestExamples(t *testing.T) {
	root := os.Getenv("H2K_TESTDATA")
	if root == "" {
		t.Skip("H2K_TESTDATA is not set: netplan's examples are not at hand")
	}
	names, err := filepath.Glob(filepath.Join(root, "netcfg/netplan-examples/*.yaml"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	edited := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := f.Bytes(); err != nil || string(got) != string(data) {
			t.Errorf("%s: changed without an edit, or %v", name, err)
		}
		for i, d := range f.Devices() {
			for j, v := range []*Value{d.MAC, d.SetName, d.Name} {
				if v == nil {
					continue
				}
				edited++
				again, _ := Parse(data)
				dev := again.Devices()[i]
				[]*Value{dev.MAC, dev.SetName, dev.Name}[j].Text = "CHANGED"
				got, err := again.Bytes()
				if err != nil || strings.Count(string(got), "CHANGED") != 1 || len(got)-len("CHANGED") != len(data)-len(v.Text) {
					t.Errorf("%s: %s: %v\n%s", name, v.Text, err, got)
				}
			}
		}
	}
	if edited < 5 {
		t.Errorf("only %d values were there to edit", edited)
	}
}

// FuzzParse holds that a file without an edit comes out as it went in, and that
// a changed value reads back as what it was set to.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("network: {ethernets: {a: {match: {macaddress: \"0\"}, set-name: b}}}"))
	f.Add([]byte("network:\n  ethernets:\n    a: &a\n      match: {driver: [x, *a]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 {
			return
		}
		file, err := Parse(data)
		if err != nil {
			return
		}
		if got, err := file.Bytes(); err != nil || string(got) != string(data) {
			t.Fatalf("%q became %q, %v", data, got, err)
		}
		for i, d := range file.Devices() {
			if d.MAC == nil {
				continue
			}
			d.MAC.Text = "52:54:00:12:34:56"
			got, err := file.Bytes()
			if err != nil {
				return
			}
			again, err := Parse(got)
			if err != nil || len(again.Devices()) != len(file.Devices()) {
				t.Fatalf("%q became %q: %v", data, got, err)
			}
			if m := again.Devices()[i].MAC; m == nil || m.Text != d.MAC.Text {
				t.Fatalf("%q became %q", data, got)
			}
			return
		}
	})
}
