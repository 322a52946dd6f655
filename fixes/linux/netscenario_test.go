package linux

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/fixes/linux/ini"
)

// netScenario is a guest of testdata/net: the cards of the plan (nics), the
// tree, and what inspection makes of the cards (names), what the fixes of the
// network change (diff) and say (notes).
type netScenario struct {
	file    string
	archive *txtar.Archive
	nics    []guest.NIC
	tree    []txtar.File
	want    map[string]string
}

func loadNet(t *testing.T, file string) *netScenario {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &netScenario{file: file, archive: archive, want: map[string]string{}}
	for _, f := range archive.Files {
		switch f.Name {
		case "nics":
			for l := range strings.Lines(string(f.Data)) {
				s.nics = append(s.nics, parseNIC(t, strings.Fields(l)))
			}
		case "names", "diff", "notes":
			s.want[f.Name] = string(f.Data)
		default:
			s.tree = append(s.tree, f)
		}
	}
	return s
}

// parseNIC reads "52:54:00:00:00:01 was=00:50:56:00:00:01 ip=10.0.0.5"; an
// address "-" is one that the plan does not tell.
func parseNIC(t *testing.T, fields []string) guest.NIC {
	n := guest.NIC{MAC: strings.TrimPrefix(fields[0], "-")}
	for _, f := range fields[1:] {
		switch key, value, _ := strings.Cut(f, "="); key {
		case "was":
			n.Was = value
		case "ip":
			n.Addresses = append(n.Addresses, value)
		default:
			t.Fatalf("unknown field %q of a card", f)
		}
	}
	return n
}

func (s *netScenario) guest(t *testing.T) *guest.Guest {
	tree := guesttest.New(t, string(txtar.Format(&txtar.Archive{Files: s.tree})))
	return &guest.Guest{FS: tree, Facts: inspect.Inspect(tree, guest.Facts{NICs: s.nics})}
}

func (s *netScenario) save(t *testing.T, got map[string]string) {
	t.Helper()
	out := &txtar.Archive{Comment: s.archive.Comment}
	for _, f := range s.archive.Files {
		if _, golden := got[f.Name]; !golden {
			out.Files = append(out.Files, f)
		}
	}
	for _, name := range []string{"names", "diff", "notes"} {
		out.Files = append(out.Files, txtar.File{Name: name, Data: []byte(got[name])})
	}
	if err := os.WriteFile(s.file, txtar.Format(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

func planNet(t *testing.T, g *guest.Guest) (planned *fixes.Planned, diff, notes string) {
	t.Helper()
	planned, err := fixes.Plan(t.Context(), g, []fixes.Fix{network(), cloudInit()}, fixes.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if err := planned.Failures(); err != nil {
		t.Fatal(err)
	}
	var d, n strings.Builder
	for _, r := range planned.Results {
		d.WriteString(r.Diff)
		for _, note := range r.Notes {
			n.WriteString(strings.TrimPrefix(r.ID, "linux/") + ": " + note + "\n")
		}
	}
	return planned, d.String(), n.String()
}

func cards(facts *guest.Facts) string {
	var b strings.Builder
	for _, n := range facts.NICs {
		fmt.Fprintf(&b, "%s %s (%s%s)\n", n.MAC, n.Name, n.From, n.Unsure)
	}
	for _, w := range facts.Warnings {
		if strings.Contains(w, "the card") {
			b.WriteString(w + "\n")
		}
	}
	return b.String()
}

// TestNetworkScenarios moves guests of each way to configure a network.
func TestNetworkScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/net/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			s := loadNet(t, file)
			g := s.guest(t)
			before := s.guest(t)
			dump := before.FS.(*guesttest.FS).Dump()
			planned, diff, notes := planNet(t, g)
			got := map[string]string{"names": cards(g.Facts), "diff": indent(diff), "notes": notes}
			if *update {
				s.save(t, got)
			} else if d := cmp.Diff(s.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
				t.Fatal(err)
			}
			checkRules(t, g)
			checkNamed(t, g)
			checkAgain(t, s, g)
			checkNetplan(t, before, g)
			if !planned.Pending() && diff == "" {
				return
			}
			if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(dump, g.FS.(*guesttest.FS).Dump()); d != "" {
				t.Errorf("undo leaves (-was +is):\n%s", d)
			}
		})
	}
}

// checkNamed holds that a card whose name is known and not disputed gets it on
// KVM: by a rule or a .link file of ours or the guest's, by netplan, or from the
// kernel itself.
func checkNamed(t *testing.T, g *guest.Guest) {
	t.Helper()
	n := &naming{planner: &planner{fs: g.FS, facts: g.Facts}}
	named := map[string]string{}
	for _, name := range n.list(networkDir, ".link") {
		data, _ := n.read(name)
		f := ini.Parse(data)
		for _, mac := range matchedMACs(f) {
			if _, first := named[mac]; !first { // it alone counts
				named[mac] = only(f.Values("Link", "Name"))
			}
		}
	}
	for _, c := range n.readClaims() {
		if c.rule && !strings.Contains(c.file, ".link") {
			named[c.mac] = c.name
		}
	}
	n.find()
	for _, c := range g.Facts.NICs {
		mac, ok := normalMAC(c.MAC)
		if !ok || c.Name == "" || named[mac] == c.Name || n.disputed(mac) {
			continue
		}
		c.MAC = mac
		if !n.inPlace(c) || !n.kernelNames() {
			t.Errorf("the card %s is to be called %s, and nothing names it (%q)", mac, c.Name, named[mac])
		}
	}
}

// checkAgain holds that a second run changes nothing, with the facts of the
// first and with those that a new inspection finds.
func checkAgain(t *testing.T, s *netScenario, g *guest.Guest) {
	if again, diff, _ := planNet(t, g); again.Pending() {
		t.Errorf("a second run changes more:\n%s", diff)
	}
	anew := &guest.Guest{FS: g.FS, Facts: inspect.Inspect(g.FS, guest.Facts{NICs: s.nics})}
	if again, diff, _ := planNet(t, anew); again.Pending() {
		t.Errorf("a run after a new inspection changes more:\n%s", diff)
	}
}

// checkNetplan has netplan itself read the files before and after: it accepts
// both, and what it makes of them differs in addresses and drivers alone.
func checkNetplan(t *testing.T, before, after *guest.Guest) {
	if (&planner{fs: before.FS, facts: before.Facts}).netplanFiles() == nil {
		return
	}
	if _, err := exec.LookPath("netplan"); err != nil {
		t.Log("netplan is not installed: what it makes of its files is not compared")
		return
	}
	was, now := generate(t, before.FS), generate(t, after.FS)
	if len(was) == 0 || len(was) != len(now) {
		t.Errorf("netplan made %d files before, %d now", len(was), len(now))
	}
	for name, text := range was {
		if d := cmp.Diff(withoutPins(text), withoutPins(now[name])); d != "" {
			t.Errorf("%s differs:\n%s", name, d)
		}
	}
}

var driverPin = regexp.MustCompile(`(?m)^Driver=.*$|DRIVERS=="[^"]*"|ENV\{ID_NET_DRIVER\}=="[^"]*"`)

func withoutPins(s string) string {
	return driverPin.ReplaceAllString(macText.ReplaceAllString(s, "MAC"), "DRIVER")
}

// generate runs netplan on the guest's files and gives what it makes.
func generate(t *testing.T, tree guest.FS) map[string]string {
	t.Helper()
	root := t.TempDir()
	p := &planner{fs: tree, facts: &guest.Facts{}}
	for _, name := range p.netplanFiles() {
		data, _ := p.read(name)
		to := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("netplan", "generate", "--root-dir", root).CombinedOutput(); err != nil {
		t.Fatalf("netplan: %v\n%s", err, out)
	}
	out := map[string]string{}
	made := os.DirFS(root)
	if err := fs.WalkDir(made, "run", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := fs.ReadFile(made, name)
		out[name] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}
