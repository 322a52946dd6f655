package linux

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

// TestLoaders has a guest for each boot loader. facts.json holds what is below
// the files (disks, mounts, firmware); the rest is found by inspection, so that
// what is tested is what happens to such a guest. The member loader shows what
// inspection made of the menu, before and after.
func TestLoaders(t *testing.T) {
	files, err := filepath.Glob("testdata/loader/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			s := load(t, file)
			given := s.facts
			g := s.guest(t)
			tree := g.FS.(*guesttest.FS)
			addPrograms(t, tree)
			look := func() *guest.Facts {
				facts := inspect.Inspect(tree, given)
				g.Facts, s.facts = facts, *facts
				return facts
			}
			before := chosen(look())
			before += warnings(g.Facts)
			planned, diff, notes := run(t, g, s.opts)
			if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
				t.Fatal(err)
			}
			after := chosen(look())
			menus := "before:\n" + before + "after:\n" + after
			if *update {
				s.saveLoader(t, menus, diff, notes)
			} else {
				for name, got := range map[string]string{"diff": indent(diff), "notes": notes, "loader": menus} {
					if d := cmp.Diff(s.want[name], got); d != "" {
						t.Errorf("%s differs (-want +got):\n%s", name, d)
					}
				}
			}
			again, diff, _ := run(t, g, s.opts)
			if again.Pending() {
				t.Errorf("a second run changes more:\n%s", diff)
			}
			checkNames(t, s, g)
			checkScripts(t, tree)
			if k := g.Facts.DefaultKernel(); k == nil || k.Unfit != "" && !k.Emulated() {
				t.Errorf("the default kernel is %+v", k)
			}
		})
	}
}

// chosen is what inspection makes of a menu, in short.
func chosen(f *guest.Facts) string {
	var b strings.Builder
	for _, e := range f.Loader.Entries {
		if e.Default {
			b.WriteString(f.Loader.Kind + " starts " + e.Name + " of " + e.File + ": " + e.Image)
			if e.Xen {
				b.WriteString(" under Xen")
			}
			b.WriteString("\n")
		}
	}
	for _, k := range f.Kernels {
		b.WriteString("kernel " + k.Version + " (" + strings.Join(k.Buses, ", ") + ")")
		if k.Unfit != "" {
			b.WriteString(": " + k.Unfit)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func warnings(f *guest.Facts) string {
	var b strings.Builder
	for _, w := range f.Warnings {
		b.WriteString("warning: " + w + "\n")
	}
	return b.String()
}

func (s *scenario) saveLoader(t *testing.T, menus, diff, notes string) {
	t.Helper()
	var kept int
	for _, f := range s.archive.Files {
		if f.Name != "loader" {
			s.archive.Files[kept] = f
			kept++
		}
	}
	s.archive.Files = s.archive.Files[:kept]
	s.save(t, diff, notes)
	file, err := os.OpenFile(s.file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("-- loader --\n" + menus); err != nil {
		t.Fatal(err)
	}
}

// checkScripts asks GRUB whether it can read what came of its configurations.
func checkScripts(t *testing.T, tree *guesttest.FS) {
	t.Helper()
	program, err := exec.LookPath("grub-script-check")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("grub-script-check is needed (package grub-common)")
		}
		t.Log("grub-script-check is not installed (package grub-common)")
		return
	}
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "grub.cfg" {
			return err
		}
		data, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Stdin = strings.NewReader(string(data))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
