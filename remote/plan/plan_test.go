package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/agent/api"
)

func load(t *testing.T, name, text string) (*api.Plan, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Load(path, api.Plan{Target: api.Target{Domain: true, Format: "qcow2"}})
}

func TestSamePlanInBothLanguages(t *testing.T) {
	want := &api.Plan{
		Version: 1, Name: "web01",
		Sources: []api.Source{{Path: "a.vmdk"}, {Path: "b.vmdk", Format: "vmdk"}},
		Stages:  []api.Stage{api.Inspect, api.Fix, api.Convert},
		Machine: api.Machine{Memory: 4 << 30, NICs: []api.MachineNIC{{MAC: "00:50:56:00:00:01"}}},
		Fix:     api.FixOptions{Skip: []string{"linux/console"}},
		Target:  api.Target{Path: "out", Format: "raw", Domain: true},
	}
	for name, text := range map[string]string{
		"p.yaml": `version: 1
name: web01
sources:
  - path: a.vmdk
  - {path: b.vmdk, format: vmdk}
stages: [inspect, fix, convert]
machine:
  memory: 4294967296
  nics: [{mac: "00:50:56:00:00:01"}]
fix:
  skip: [linux/console]
target:
  path: out
  format: raw
`,
		"p.toml": `version = 1
name = "web01"
stages = ["inspect", "fix", "convert"]
[[sources]]
path = "a.vmdk"
[[sources]]
path = "b.vmdk"
format = "vmdk"
[machine]
memory = 4294967296
[[machine.nics]]
mac = "00:50:56:00:00:01"
[fix]
skip = ["linux/console"]
[target]
path = "out"
format = "raw"
`,
	} {
		got, err := load(t, name, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestMistakesAreNamedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a.yaml", "version: 1\nname: x\ntarget:\n  path: y\n  fromat: raw\n", `line 5: unknown key "target.fromat"; nearest is "format"`},
		{"b.yaml", "version: 1\nsorces:\n- path: x\n", `line 2: unknown key "sorces"; nearest is "sources"`},
		{"c.yaml", "version: 1\nsources:\n- path: x\n  formt: raw\n", `line 4: unknown key "sources.formt"; nearest is "format"`},
		{"d.yaml", "version: 1\nmachine:\n  cpus: many\n", "line 3: machine.cpus wants int, has a string"},
		{"e.yaml", "name: x\nname: y\n", "name"},
		{"f.yaml", "name: x\n---\nname: y\n", "a second document"},
		{"g.yaml", "", "empty plan"},
		{"h.yaml", "just text\n", "not a plan"},
		{"i.yaml", "name: &a x\ntarget: {path: *a}\n", "line 2: a plan takes no aliases"},
		{"j.yaml", "name: [1\n", "j.yaml"},
		{"k.yaml", "name: {deep: er}\n", "line 1: name has no keys"},
		{"a.toml", "version = 1\n[target]\npath = \"y\"\nfromat = \"raw\"\n", `line 4: unknown key "target.fromat"; nearest is "format"`},
		{"b.toml", "[fix]\nskip = []\n[target]\nskip = 1\n", `line 4: unknown key "target.skip"`},
		{"c.toml", "version = 1\ntarget = {path = \"x\", forse = true}\n", `line 2: unknown key "target.forse"; nearest is "force"`},
		{"d.toml", "version = 1\n[machine]\ncpus = \"many\"\n", "line 3: machine.cpus wants int, has a string"},
		{"e.toml", "version = = 1\n", "line 1"},
	} {
		_, err := load(t, c.name, c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s: error = %v, want the file and %q", c.name, err, c.want)
		}
	}
}

func TestHugePlanIsRefused(t *testing.T) {
	if _, err := load(t, "a.yaml", strings.Repeat("# nothing\n", maxSize/10+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("error = %v", err)
	}
}

func TestOfJob(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	job := filepath.Join(dir, "out.qcow2"+JobSuffix)
	if err := os.Mkdir(job, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(job, jobPlan), []byte("name: one\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("out.qcow2", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out.qcow2", job, "", "out.qcow2/", job + "/"} {
		if _, p, err := OfJob(name); err != nil || p.Name != "one" || p.Target.Domain {
			t.Errorf("OfJob(%q) = %+v, %v", name, p, err)
		}
	}
	if _, _, err := OfJob("other"); err == nil {
		t.Error("a job that is not there was found")
	}
	if err := os.Mkdir("b"+JobSuffix, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OfJob(""); err == nil || !strings.Contains(err.Error(), "b"+JobSuffix) {
		t.Errorf("two jobs: error = %v, want both named", err)
	}
}

// FuzzParse: whatever the text, there is either a plan or an error that names
// the file.
func FuzzParse(f *testing.F) {
	f.Add("version: 1\nsources: [{path: x}]\n")
	f.Add("version = 1\n[target]\npath = \"x\"\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name, parse := range map[string]func(string, []byte, api.Plan) (*api.Plan, error){"y": parseYAML, "t": parseTOML} {
			p, err := parse(name, []byte(text), api.Plan{})
			if (p == nil) == (err == nil) {
				t.Fatalf("plan %v, error %v", p, err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), name+":") {
				t.Fatalf("the error does not name the file: %v", err)
			}
		}
	})
}
