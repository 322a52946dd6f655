package pipeline

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/validate"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/ovf"
)

// web01 is a machine with two raw disks, in the members of its package.
func web01(t *testing.T) (machine formatstest.Described, members []formatstest.Member, disks [][]byte) {
	t.Helper()
	machine = formatstest.Described{
		Name: "web01", Firmware: "efi", SecureBoot: true, Disks: []string{"a.img", "b.img"}, Capacity: 8 << 20,
		MACs: []string{"00:50:56:9b:00:02", "00:50:56:9b:00:01"},
	}
	members = []formatstest.Member{{}, {}}
	dir := t.TempDir()
	for i, name := range machine.Disks {
		b := noisy(t, filepath.Join(dir, name), uint64(40+i))
		b[510], b[511] = 0x55, 0xAA // a raw image is known by its partition table
		disks = append(disks, b)
		members = append(members, formatstest.Member{Name: name, Content: b})
	}
	seal(machine, members)
	return machine, members, disks
}

// seal puts the descriptor and its manifest in front.
func seal(machine formatstest.Described, members []formatstest.Member) {
	members[0] = formatstest.Member{Name: "web01.ovf", Content: machine.OVF()}
	var sums bytes.Buffer
	for i, m := range members {
		if i != 1 {
			fmt.Fprintf(&sums, "SHA256(%s)= %x\n", m.Name, sha256.Sum256(m.Content))
		}
	}
	members[1] = formatstest.Member{Name: "web01.mf", Content: sums.Bytes()}
}

func writeOVA(t *testing.T, members ...formatstest.Member) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "web01.ova")
	if err := os.WriteFile(path, formatstest.Tar(t, tar.FormatGNU, members...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// machinePlan converts the machine and describes the new one; nothing is repaired.
func machinePlan(path, out string) *api.Plan {
	return &api.Plan{Version: api.Version, Name: "web01", Sources: []api.Source{{Path: path}}, Stages: []api.Stage{api.Convert},
		Target: api.Target{Path: out, Format: "raw", Domain: true}}
}

// domainXML is what the tests want to know of a domain.
type domainXML struct {
	Name   string `xml:"name"`
	Memory int64  `xml:"memory"`
	CPUs   int    `xml:"vcpu"`
	OS     struct {
		Firmware string `xml:"firmware,attr"`
		Features []struct {
			Enabled string `xml:"enabled,attr"`
			Name    string `xml:"name,attr"`
		} `xml:"firmware>feature"`
	} `xml:"os"`
	Disks []struct {
		Source struct {
			File string `xml:"file,attr"`
		} `xml:"source"`
		Boot struct {
			Order int `xml:"order,attr"`
		} `xml:"boot"`
	} `xml:"devices>disk"`
	NICs []struct {
		MAC struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Source struct {
			Network string `xml:"network,attr"`
		} `xml:"source"`
	} `xml:"devices>interface"`
}

// String is the machine in short.
func (d domainXML) String() string {
	s := fmt.Sprintf("%s %d KiB %d CPUs firmware %q", d.Name, d.Memory, d.CPUs, d.OS.Firmware)
	for _, f := range d.OS.Features {
		s += " " + f.Name + " " + f.Enabled
	}
	for _, x := range d.Disks {
		s += fmt.Sprintf(" %s(%d)", filepath.Base(x.Source.File), x.Boot.Order)
	}
	for _, n := range d.NICs {
		s += " " + n.MAC.Address + "@" + n.Source.Network
	}
	return s
}

func readDomain(t *testing.T, path string) (d domainXML) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = xml.Unmarshal(text, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The new machine is the one that was described: its disks in order, memory,
// processors, firmware, Secure Boot and addresses; and nothing is extracted.
func TestMachineIsTakenOver(t *testing.T) {
	_, members, disks := web01(t)
	path := writeOVA(t, members...)
	out := filepath.Join(t.TempDir(), "web01")
	t.Setenv("TMPDIR", "/dev/null/none")
	report, err := New(Config{TempDir: "/dev/null/none"}).Run(t.Context(), machinePlan(path, out), "", &stopper{})
	if err != nil {
		t.Fatal(err)
	}
	only(t, out, "web01-sda.img", "web01-sdb.img", "web01.report.html", "web01.report.json", "web01.xml")
	only(t, filepath.Dir(out), "web01")
	for i, name := range []string{"web01-sda.img", "web01-sdb.img"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(got, disks[i]) {
			t.Errorf("%s differs, %v", name, err)
		}
	}
	want := `web01 1572864 KiB 3 CPUs firmware "efi" enrolled-keys yes secure-boot yes web01-sda.img(1) web01-sdb.img(0)` +
		" 00:50:56:9b:00:02@default 00:50:56:9b:00:01@default"
	if got := readDomain(t, filepath.Join(out, "web01.xml")).String(); got != want {
		t.Errorf("machine %s\nwant    %s", got, want)
	}
	if m := report.Machine; m == nil || m.Kind != "ova" || len(m.Disks) != 2 || m.Manifest == nil || *m.Manifest != (api.ManifestReport{Listed: 3, Verified: true}) {
		t.Errorf("report of the machine: %+v", m)
	}
	if !report.Target.SecureBoot || !strings.Contains(strings.Join(report.Warnings, "\n"), "Secure Boot") {
		t.Errorf("Secure Boot is not said: %+v, %q", report.Target, report.Warnings)
	}
}

// What the plan says stands above the description.
func TestPlanIsAboveTheDescription(t *testing.T) {
	_, members, _ := web01(t)
	path := writeOVA(t, members...)
	out := filepath.Join(t.TempDir(), "x")
	p := machinePlan(path, out)
	p.Sources = []api.Source{{Path: path, Disk: 2}, {Path: path, Disk: 1}}
	p.Machine = api.Machine{Firmware: "bios", Memory: 1 << 30, CPUs: 1, BootDisk: 2, NICs: []api.MachineNIC{{MAC: "52:54:00:00:00:07", Network: "lan"}}}
	report, err := New(Config{TempDir: t.TempDir()}).Run(t.Context(), p, "", &stopper{})
	if err != nil {
		t.Fatal(err)
	}
	want := `web01 1048576 KiB 1 CPUs firmware "" web01-sda.img(0) web01-sdb.img(1) 52:54:00:00:00:07@lan`
	if got := readDomain(t, filepath.Join(out, "web01.xml")).String(); got != want {
		t.Errorf("machine %s\nwant    %s", got, want)
	}
	if text := strings.Join(report.Warnings, "\n"); !strings.Contains(text, "will no more") || !strings.Contains(text, "has 2 network cards, the plan gives the machine 1") {
		t.Errorf("warnings %q", report.Warnings)
	}
	if report.Disks[0].Number != 2 || report.Disks[1].Number != 1 {
		t.Errorf("disks %+v", report.Disks)
	}
}

// A disk that the source boots from, whatever its place, boots the new machine.
func TestBootDisk(t *testing.T) {
	machine, members, _ := web01(t)
	members[0].Content = bytes.Replace(machine.OVF(), []byte("<VirtualHardwareSection>"),
		[]byte(`<vmw:BootOrderSection vmw:instanceId="11" vmw:type="disk"/><VirtualHardwareSection>`), 1)
	path := writeOVA(t, append(members[:1:1], members[2:]...)...)
	out := filepath.Join(t.TempDir(), "x")
	if _, err := New(Config{TempDir: t.TempDir()}).Run(t.Context(), machinePlan(path, out), "", &stopper{}); err != nil {
		t.Fatal(err)
	}
	if got := readDomain(t, filepath.Join(out, "web01.xml")).String(); !strings.Contains(got, "web01-sda.img(0) web01-sdb.img(1)") {
		t.Errorf("machine %s", got)
	}
}

func TestMergeNICs(t *testing.T) {
	const a, b, x = "00:50:56:00:00:0a", "00:50:56:00:00:0b", "52:54:00:00:00:01"
	type nics = []api.MachineNIC
	for name, c := range map[string]struct {
		planned nics
		found   []string
		want    nics
	}{
		"described":                 {nil, []string{a, b}, nics{{MAC: a}, {MAC: b}}},
		"none":                      {nil, nil, nil},
		"without addresses":         {nil, []string{"", ""}, nics{{}, {}}},
		"one network for all":       {nics{{Network: "lan"}}, []string{a, b}, nics{{MAC: a, Network: "lan"}, {MAC: b, Network: "lan"}}},
		"a network each":            {nics{{Network: "lan"}, {Network: "dmz"}}, []string{a, b}, nics{{MAC: a, Network: "lan"}, {MAC: b, Network: "dmz"}}},
		"more than described":       {nics{{}, {}, {Network: "new"}}, []string{a}, nics{{MAC: a}, {}, {Network: "new"}}},
		"given in another order":    {nics{{MAC: b}, {MAC: a}}, []string{a, b}, nics{{MAC: b}, {MAC: a}}},
		"a new address":             {nics{{MAC: x}, {MAC: b}}, []string{a, b}, nics{{MAC: x, Was: a}, {MAC: b}}},
		"said what it was":          {nics{{MAC: x, Was: b}}, []string{a, b}, nics{{MAC: x, Was: b}}},
		"one given, one described":  {nics{{MAC: a}, {Network: "dmz"}}, []string{a, b}, nics{{MAC: a}, {MAC: b, Network: "dmz"}}},
		"given where none is known": {nics{{MAC: x}}, []string{""}, nics{{MAC: x}}},
	} {
		var found []ovf.NIC
		for _, mac := range c.found {
			found = append(found, ovf.NIC{MAC: mac})
		}
		r := &run{plan: &api.Plan{}, report: &api.Report{}}
		got := r.mergeNICs(c.planned, found)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		// What is resolved stays, which a resumed run relies on.
		if d := cmp.Diff(got, r.mergeNICs(got, found)); d != "" {
			t.Errorf("%s, again: %s", name, d)
		}
	}
}

// A run that is killed in the second disk of a machine goes on there; the files
// are not compared with the manifest a second time.
func TestMachineGoesOnWhereItWas(t *testing.T) {
	_, members, disks := web01(t)
	path := writeOVA(t, members...)
	out := filepath.Join(t.TempDir(), "web01")
	p := machinePlan(path, out)
	second := interrupted(t, p, api.Convert, 1)
	if !second.said("web01.ova#2: went on at byte") || second.said("sda.img written") || second.said("manifest") {
		t.Errorf("the resumed run said %+v", second.events)
	}
	for i, name := range []string{"web01-sda.img", "web01-sdb.img"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(got, disks[i]) {
			t.Errorf("%s differs, %v", name, err)
		}
	}
}

// Every file of a machine counts when a run goes on: also the description.
func TestResumeSeesThatTheMachineChanged(t *testing.T) {
	machine, members, _ := web01(t)
	dir := t.TempDir()
	for _, m := range members {
		if err := os.WriteFile(filepath.Join(dir, m.Name), m.Content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "web01")
	p := machinePlan(filepath.Join(dir, "web01.ovf"), out)
	agent := New(Config{TempDir: t.TempDir(), CheckpointEvery: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := agent.Run(ctx, p, "", &stopper{stage: api.Convert, after: 4 << 20, stop: cancel}); err == nil {
		t.Fatal("not interrupted")
	}
	again := func() error {
		_, err := agent.Run(t.Context(), p, out+JobSuffix, &stopper{})
		return err
	}
	written := map[string]time.Time{}
	for _, name := range []string{"web01.ovf", "web01.mf", "b.img"} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		written[path] = info.ModTime()
		if err := os.Chtimes(path, time.Now(), info.ModTime().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if e := api.AsError(again()); e == nil || e.Code != api.CodeJob || !strings.Contains(e.Reason, "a source changed") {
			t.Errorf("%s changed: %v", name, e)
		}
		if err := os.Chtimes(path, time.Now(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	other := machine
	other.MACs = []string{"00:50:56:9b:00:99"}
	changed := slices.Clone(members)
	seal(other, changed)
	for _, list := range [][]formatstest.Member{changed, members} {
		for _, m := range list[:2] {
			path := filepath.Join(dir, m.Name)
			if err := os.WriteFile(path, m.Content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, time.Now(), written[path]); err != nil {
				t.Fatal(err)
			}
		}
		err := again()
		if e := api.AsError(err); &list[0] == &changed[0] && (e == nil || e.Code != api.CodeJob || !strings.Contains(e.Reason, "another plan")) {
			t.Errorf("another machine: %v", err)
		} else if &list[0] == &members[0] && err != nil {
			t.Errorf("nothing changed, and the run does not go on: %v", err)
		}
	}
}

// A file that is not the one of the manifest ends the run before anything is
// written, and leaves nothing.
func TestForgedDiskIsNotConverted(t *testing.T) {
	_, members, _ := web01(t)
	members[3].Content = bytes.Clone(members[3].Content)
	members[3].Content[5<<20]++
	path := writeOVA(t, members...)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "web01")
	_, err = New(Config{TempDir: t.TempDir()}).Run(t.Context(), machinePlan(path, out), "", &stopper{})
	if e := api.AsError(err); e == nil || e.Code != api.CodeDigest || !strings.Contains(e.Reason, "b.img") {
		t.Errorf("got %v", err)
	}
	only(t, filepath.Dir(out))
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the source was written to, %v", err)
	}
}

// What has to be unpacked is unpacked where the output goes, without a name; and
// an error names what is in the way.
func TestUnpackDir(t *testing.T) {
	dir := t.TempDir()
	r := &run{cfg: Config{TempDir: "/temp"}, plan: machinePlan("x", filepath.Join(dir, "not", "yet", "there"))}
	if got := r.unpackDir(); got != dir {
		t.Errorf("unpacked in %s; want %s", got, dir)
	}
	r.plan = &api.Plan{Stages: []api.Stage{api.Info}}
	if got := r.unpackDir(); got != "/temp" {
		t.Errorf("unpacked in %s", got)
	}
	if err := sourceError("open", "x", fmt.Errorf("unpack: %w", unix.ENOSPC)); api.AsError(err).Code != api.CodeNoSpace {
		t.Errorf("no space is %v", api.AsError(err).Code)
	}
}

// A machine with more memory than this host has is tried with less.
func TestBootMemory(t *testing.T) {
	for want, got := range map[int64]func(int64) bool{
		0:       func(n int64) bool { return n == validate.DefaultMemory },
		1 << 30: func(n int64) bool { return n == 1<<30 },
		1 << 50: func(n int64) bool { return n >= validate.DefaultMemory && n < 1<<49 },
	} {
		r := &run{plan: &api.Plan{Machine: api.Machine{Memory: want}}}
		if n := r.bootMemory(); !got(n) {
			t.Errorf("a machine of %d bytes is tried with %d", want, n)
		}
	}
}
