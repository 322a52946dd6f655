package linux

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

var update = flag.Bool("update", false, "write the diffs that scenarios give into them, to be read by eye")

// scenario is a guest of testdata: facts.json, the tree, and what the fixes are
// expected to change (diff) and to say (notes).
type scenario struct {
	file    string
	archive *txtar.Archive
	facts   guest.Facts
	opts    Options
	want    map[string]string
	tree    []txtar.File
}

func load(t *testing.T, file string) *scenario {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{file: file, archive: archive, want: map[string]string{}}
	for _, f := range archive.Files {
		switch f.Name {
		case "facts.json":
			dec := json.NewDecoder(bytes.NewReader(f.Data))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&s.facts); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		case "devices":
			s.opts.Devices = strings.TrimSpace(string(f.Data))
		case "agent-package":
			s.opts.Agent = []Package{{Name: "qemu-guest-agent_1%3a7.2.deb", Content: f.Data}}
		case "diff", "notes", "loader":
			s.want[f.Name] = string(f.Data)
		default:
			s.tree = append(s.tree, f)
		}
	}
	return s
}

func (s *scenario) guest(t *testing.T) *guest.Guest {
	return guesttest.NewGuest(t, string(txtar.Format(&txtar.Archive{Files: s.tree})), &s.facts)
}

// run plans all fixes and gives the diffs and the notes.
func run(t *testing.T, g *guest.Guest, opts Options) (planned *fixes.Planned, diff, notes string) {
	t.Helper()
	planned, err := fixes.Plan(t.Context(), g, All(opts, nil), fixes.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if err := planned.Failures(); err != nil {
		t.Fatal(err)
	}
	var d, n strings.Builder
	for _, r := range planned.Results {
		if r.Diff != "" {
			d.WriteString("# " + r.ID + "\n" + r.Diff)
		}
		for _, note := range r.Notes {
			n.WriteString(r.ID + ": " + note + "\n")
		}
	}
	return planned, d.String(), n.String()
}

func (s *scenario) save(t *testing.T, diff, notes string) {
	t.Helper()
	out := &txtar.Archive{Comment: s.archive.Comment}
	for _, f := range s.archive.Files {
		if f.Name != "diff" && f.Name != "notes" {
			out.Files = append(out.Files, f)
		}
	}
	out.Files = append(out.Files, txtar.File{Name: "diff", Data: []byte(indent(diff))}, txtar.File{Name: "notes", Data: []byte(notes)})
	if err := os.WriteFile(s.file, txtar.Format(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

// indent keeps a diff from being read as archive members, and its context
// lines of nothing but a blank from ending in one.
func indent(diff string) string {
	var b strings.Builder
	for l := range strings.Lines(diff) {
		b.WriteString("| " + l)
	}
	return strings.ReplaceAll(b.String(), "|  \n", "|\n")
}

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			s := load(t, file)
			g := s.guest(t)
			before := g.FS.(*guesttest.FS).Dump()
			planned, diff, notes := run(t, g, s.opts)
			if g.FS.(*guesttest.FS).Dump() != before {
				t.Fatal("planning changed the guest")
			}
			if *update {
				s.save(t, diff, notes)
			} else {
				if d := cmp.Diff(s.want["diff"], indent(diff)); d != "" {
					t.Errorf("changes differ (-want +got):\n%s", d)
				}
				if d := cmp.Diff(s.want["notes"], notes); d != "" {
					t.Errorf("notes differ (-want +got):\n%s", d)
				}
			}
			if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
				t.Fatal(err)
			}
			again, diff, _ := run(t, g, s.opts)
			if again.Pending() {
				t.Errorf("a second run changes more:\n%s", diff)
			}
			checkNames(t, s, g)
			if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil && !errors.Is(err, fixes.ErrNoJournal) {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, g.FS.(*guesttest.FS).Dump()); d != "" {
				t.Errorf("undo gives back something else (-before +after):\n%s", d)
			}
		})
	}
}

// checkNames holds that no boot-critical file names a device that breaks,
// wherever the device is on a disk of the guest.
func checkNames(t *testing.T, s *scenario, g *guest.Guest) {
	for _, name := range []string{"etc/fstab", "etc/crypttab", "boot/grub/grub.cfg", "boot/grub2/grub.cfg", "etc/default/grub", "etc/initramfs-tools/conf.d/resume"} {
		data, err := fs.ReadFile(g.FS, name)
		if err != nil {
			continue
		}
		for l := range strings.Lines(string(data)) {
			if strings.HasPrefix(strings.TrimSpace(l), "#") {
				continue
			}
			for _, word := range strings.FieldsFunc(l, func(r rune) bool { return strings.ContainsRune(" \t\n=,\"'", r) }) {
				if !strings.HasPrefix(word, "/dev/") || !guest.Unstable(word) {
					continue
				}
				// A container cannot be mounted whatever its name; fstab then only says so.
				if found, ok := s.facts.Resolve(word); ok && (found.Type != "crypto_LUKS" || name != "etc/fstab") {
					t.Errorf("%s still names %s: %s", name, word, l)
				}
			}
		}
	}
}
