package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/agent/api"
)

func TestSourceOf(t *testing.T) {
	for arg, want := range map[string]api.Source{
		"web01.ova":       {Path: "web01.ova"},
		"web01.ova#2":     {Path: "web01.ova", Disk: 2},
		"a#b.OVF#10":      {Path: "a#b.OVF", Disk: 10},
		"x/web01.vmx#":    {Path: "x/web01.vmx#"},
		"web01.ova#0":     {Path: "web01.ova#0"},
		"web01.ova#-1":    {Path: "web01.ova#-1"},
		"web01.ova#b":     {Path: "web01.ova#b"},
		"disk#2":          {Path: "disk#2"},
		"nbd://h/x.ova#2": {Path: "nbd://h/x.ova#2"},
		"disk.vmdk#2":     {Path: "disk.vmdk#2"},
	} {
		if d := cmp.Diff(want, sourceOf(arg, api.Source{Path: "another"})); d != "" {
			t.Errorf("%s: %s", arg, d)
		}
	}
}

// Verbs that are about one disk say so, in the plan; the others take them all.
func TestSourcesOfEachVerb(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, single := range map[string]bool{
		"convert web01.ova -o out --machine db": false, "inspect web01.ova --machine db": false, "fix --dry-run web01.ova --machine db": false,
		"validate web01.ova --machine db": false, "disk info web01.ova --machine db": false,
		"disk map web01.ova --machine db": true, "disk digest web01.ova --machine db": true, "disk check web01.ova --machine db": true,
		"disk convert web01.ova -o out --machine db": true, "disk compare web01.ova web01.ova --machine db": true,
		"disk serve web01.ova --unix s --machine db": true,
	} {
		r := &recorder{report: &api.Report{Status: api.Done, Compare: &api.Comparison{Equal: true}}}
		if got := run(t, r, strings.Fields(args)...); got.code != 0 {
			t.Fatalf("%s: %+v", args, got)
		}
		if s := r.plan.Sources[0]; filepath.Base(s.Path) != "web01.ova" || s.Machine != "db" || s.Single != single || r.plan.Name != "db" {
			t.Errorf("%s: plan %q, source %+v", args, r.plan.Name, s)
		}
	}
}

// How a disk of a machine is named stands in the help of each verb that takes one.
func TestHelpSaysHowDisksAreNamed(t *testing.T) {
	for _, verb := range []string{"convert", "inspect", "disk info", "disk map", "disk convert", "disk compare", "disk check", "disk digest", "disk serve"} {
		if got := run(t, &recorder{}, append(strings.Fields(verb), "--help")...); got.code != 0 || !strings.Contains(got.out, "web01.ova#2 is its second disk") {
			t.Errorf("%s: %+v", verb, got)
		}
	}
}

func TestNameOfAMachine(t *testing.T) {
	for machine, want := range map[string]string{"": "web01", "db": "db", "../db": "web01", "a\x1bb": "web01", "..": "web01"} {
		if got := nameFor(api.Source{Path: "x/web01.ova", Machine: machine}); got != want {
			t.Errorf("%q: %q", machine, got)
		}
	}
}

func TestMachineIsShownSafely(t *testing.T) {
	report := &api.Report{Status: api.Done, Machine: &api.MachineReport{
		Path: "web01.ova", Name: "we\x1b[2Jb", Guest: "ubuntu\x07", Disks: []api.DescribedDisk{{Number: 1, ID: "d\x1b", File: "a\x1b.vmdk", Bus: "scsi", Unit: 3, Boot: true}},
		NICs: []api.DescribedNIC{{Network: "VM\x1b Network"}}, Manifest: &api.ManifestReport{Listed: 2, Signed: true},
	}, Warnings: []string{"no\x1bte"}}
	got := run(t, &recorder{report: report}, "disk", "info", "web01.ova")
	if got.code != 0 || strings.ContainsAny(got.out, "\x1b\x07") {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"we·[2Jb", "web01.ova#1  scsi0:3, boots", "memory        not said", "2 files, signed", "VM· Network", "warning: no·te"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is not in\n%s", want, got.out)
		}
	}
}
